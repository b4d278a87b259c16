"""Suites as tasks of inspect-ai, with a model whose answers are known."""

import json
from pathlib import Path
from typing import Any

import pytest
from boxes import require_box
from nights import mostly_at_night
from test_benchmark_suites import code_record, gpqa

from step_saliency.benchmark.sandbox import SandboxError

pytest.importorskip("inspect_ai", reason="inspect-ai is not installed: step-saliency[benchmarks]")

from inspect_ai import eval as evaluate
from inspect_ai.log import EvalLog
from inspect_ai.model import ModelAPI, ModelOutput, ModelUsage, get_model, modelapi

from step_saliency.benchmark.command.rows import read_rows
from step_saliency.benchmark.suites.suites import Selection, items_of
from step_saliency.benchmark.suites.tasks import build_task

SUM = "```python\nprint(sum(map(int, input().split())))\n```"


class Scripted(ModelAPI):
    """Gives the answers that it was given, in their order."""

    def __init__(self, model_name: str, *_: Any, answers: Any = (), **__: Any) -> None:
        super().__init__(model_name)
        self.answers = list(answers)

    async def generate(self, *_: Any, **__: Any) -> ModelOutput:
        output = ModelOutput.from_content(self.model_name, self.answers.pop(0))
        output.usage = ModelUsage(input_tokens=1, output_tokens=1, total_tokens=2)
        return output

    async def count_text_tokens(self, text: str) -> int:
        return len(text)


@modelapi(name="scripted")
def scripted() -> type[ModelAPI]:
    return Scripted


def run(suite: str, file: Path, answers: list[str], out: Path, **options: Any) -> EvalLog:
    model = get_model("scripted/model", answers=answers, memoize=False)
    task = build_task(suite, selection=Selection(file=str(file)), epochs=1, model=model, **options)
    (log,) = evaluate(task, display="none", log_dir=str(out), max_connections=1, max_samples=1)
    assert log.status == "success", log.error
    return log


@pytest.mark.parametrize("box", mostly_at_night(["bubblewrap", "docker"], "bubblewrap"))
def test_programs_from_the_public_form_to_rows(tmp_path: Path, box: str) -> None:
    require_box(box)
    called = {"input": "[1, 2]\n3", "output": "[4, 5]", "testtype": "functional"}
    records = [
        code_record(question_id="a"),
        code_record(question_id="b"),
        code_record(question_id="c"),
        code_record(
            question_id="d",
            starter_code="class Solution:\n    def shift(self, values, by):\n",
            public_test_cases=json.dumps([called]),
            private_test_cases="[]",
            metadata=json.dumps({"func_name": "shift"}),
        ),
    ]
    file = tmp_path / "test.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    buffered = "```python\nimport sys\nprint(sum(map(int, sys.stdin.buffer.read().split())))\n```"
    body = "class Solution:\n    def shift(self, v, by):\n        return [x + by for x in v]"
    method = f"```python\n{body}\n```"
    answers = [SUM, buffered, "No idea.", method]
    log = run("livecodebench", file, answers, tmp_path / "logs", sandbox=box)
    assert "test_cases" not in log.model_dump_json()  # tests stay out of logs
    rows = read_rows(tmp_path / "logs").set_index("problem")
    assert rows["is_correct"].tolist() == [True, False, False, True]
    assert rows["is_correct_as_script"].tolist() == [True, True, None, True]
    assert rows["verdict"].tolist() == ["right", "wrong", "unknown", "right"]


def test_letters_from_the_public_form_to_rows(tmp_path: Path) -> None:
    file = tmp_path / "gpqa.json"
    file.write_text(json.dumps(gpqa(4)))
    targets = [item.target for item in items_of("gpqa_diamond", Selection(file=str(file)))]
    wrong = "A" if targets[1] != "A" else "B"
    outputs = [f"So.\n\nANSWER: {letter}" for letter in (targets[0], wrong, targets[2])]
    run("gpqa_diamond", file, [*outputs, "I cannot say."], tmp_path / "logs")
    rows = read_rows(tmp_path / "logs")
    assert rows["verdict"].tolist() == ["right", "wrong", "right", "unknown"]
    assert rows["is_correct"].tolist() == [True, False, True, False]


def test_no_program_is_run_outside_of_a_box(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none() -> Any:
        raise SandboxError("none here")

    for box in ("bubblewrap.Bubblewrap", "docker.Docker"):
        monkeypatch.setattr(f"step_saliency.benchmark.sandbox.{box}.probe", none)
    file = tmp_path / "test.jsonl"
    file.write_text(json.dumps(code_record()) + "\n")
    with pytest.raises(SandboxError, match=r"in a box only.*bubblewrap: none here; docker: none"):
        build_task("livecodebench", selection=Selection(file=str(file)))
    build_task("livecodebench", selection=Selection(file=str(file)), is_graded=False)
