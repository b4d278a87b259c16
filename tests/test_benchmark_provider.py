"""``step-saliency/MODEL`` as a model of inspect-ai gives what `ss.generate` gives."""

import asyncio
import copy
from pathlib import Path
from typing import Any

import pytest

import step_saliency as ss
from step_saliency.benchmark.provider import weights as weights_module
from step_saliency.benchmark.provider.frame import Frame
from step_saliency.benchmark.provider.settings import ProviderSettings
from step_saliency.benchmark.provider.weights import Weights, weights_for
from step_saliency.intervene.effects import Effects
from step_saliency.options import Decoding
from step_saliency.tasks import make_problems
from step_saliency.tasks.answers import is_correct

pytest.importorskip("inspect_ai", reason="inspect-ai is not installed: step-saliency[benchmarks]")

from inspect_ai import Task
from inspect_ai import eval as evaluate
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.log import EvalLog, EvalSample
from inspect_ai.model import (
    ChatMessageSystem,
    ChatMessageUser,
    ContentReasoning,
    ContentText,
    GenerateConfig,
    ModelName,
    ModelOutput,
    get_model,
)
from inspect_ai.solver import TaskState
from inspect_ai.tool import ToolInfo

from step_saliency.benchmark.provider import queue
from step_saliency.benchmark.provider.api import number_of
from step_saliency.benchmark.provider.output import output_of
from step_saliency.benchmark.provider.requests import Answer, Group, Request
from step_saliency.benchmark.suites.suites import Selection
from step_saliency.benchmark.suites.tasks import build_task, response_of

CONFIG = GenerateConfig(temperature=1.0, max_tokens=120, seed=3)
PROBLEMS = 3
SAMPLES = 2
FLOWS = ("none", "oeb", "smi", "stepflow")


@pytest.fixture(scope="module")
def weights() -> Weights:
    return weights_for("reasoner", ProviderSettings())


def flow_of(name: str, model: Any) -> Any:
    whole = ss.StepFlow.for_model(model)
    return {"none": None, "oeb": whole.oeb, "smi": whole.smi, "stepflow": whole}[name]


def truth(weights: Weights, flow: str = "none", effects: Effects | None = None) -> list[ss.Trace]:
    questions = [p.question for p in make_problems(n=PROBLEMS, level="medium", seed=0)]
    return ss.generate(
        weights.model,
        questions,
        tokenizer=weights.tokenizer,
        flow=flow_of(flow, weights.model),
        n=SAMPLES,
        temperature=1.0,
        max_new_tokens=120,
        seed=3,
        effects=effects,
        progress=False,
    )


def run(
    tmp_path: Path, *, condition: str = "baseline", wait: float = 0.2, **options: Any
) -> EvalLog:
    model = get_model("step-saliency/reasoner", memoize=False, wait=wait, **options)
    task = build_task(
        "reasoner",
        selection=Selection(limit=PROBLEMS),
        condition=condition,
        epochs=SAMPLES,
        config=CONFIG,
        model=model,
    )
    (log,) = evaluate(task, display="none", log_dir=str(tmp_path / "logs"))
    assert log.status == "success", log.error
    return log


def by_place(log: EvalLog) -> dict[tuple[int, int], EvalSample]:
    assert log.samples
    return {
        ((sample.metadata or {})["question_number"], sample.epoch - 1): sample
        for sample in log.samples
    }


@pytest.mark.parametrize("flow", FLOWS)
def test_epochs_are_the_samples_of_generate(tmp_path: Path, weights: Weights, flow: str) -> None:
    effects = Effects()
    traces = truth(weights, flow, effects)
    samples = by_place(run(tmp_path, flow=flow))
    assert len(samples) == len(traces) == PROBLEMS * SAMPLES
    problems = make_problems(n=PROBLEMS, level="medium", seed=0)
    for trace in traces:
        number, place = trace.meta["question_index"], trace.meta["sample"]
        sample = samples[number, place]
        facts = sample.output.metadata or {}
        assert facts["opened"] == "<think>"
        assert facts["response"] == trace.response.removesuffix("<|eos|>")
        verdict = is_correct(trace, str(problems[number].answer))
        assert sample.scores
        assert (sample.scores["graded"].value == "C") == (verdict is True)
        usage = sample.output.usage
        assert usage
        assert usage.output_tokens == trace.meta["response_tokens"]
        assert usage.input_tokens + usage.output_tokens == len(trace) == usage.total_tokens
        assert sample.output.stop_reason == ("stop" if trace.meta["finished"] else "max_tokens")
        thinking = [step for step in trace.steps if step.region == "thinking"]
        assert usage.reasoning_tokens == sum(len(step) for step in thinking)
        assert facts["flow"] == flow
    totals = effects.to_frame().groupby("edit")["rows_seen"].sum()
    logged = (samples[0, 0].output.metadata or {})["call"]
    assert logged["responses"] == PROBLEMS * SAMPLES
    assert set(logged["effects"]) == set(totals.index)
    for edit, seen in totals.items():
        assert logged["effects"][edit].get("rows_seen", 0) == seen


def test_flows_change_samples_and_leave_their_numbers(weights: Weights) -> None:
    texts = {flow: [trace.response for trace in truth(weights, flow)] for flow in FLOWS}
    assert texts["stepflow"] != texts["none"]


def test_requests_are_decoded_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    plain = queue.generate

    def counting(model: Any, questions: Any, **options: Any) -> Any:
        sizes.append(len(questions))
        return plain(model, questions, **options)

    monkeypatch.setattr(queue, "generate", counting)
    run(tmp_path)
    assert sizes == [PROBLEMS * SAMPLES]
    run(tmp_path, unit=4)
    assert sizes[1:] == [4, 2]


def test_what_is_kept_is_not_decoded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = str(tmp_path / "store")
    first = by_place(run(tmp_path, store=store))

    def none(*_: Any, **__: Any) -> Any:
        raise AssertionError("decoded again")

    monkeypatch.setattr(queue, "generate", none)
    second = by_place(run(tmp_path, store=store, batch_size=3))
    for place, sample in first.items():
        assert second[place].output.completion == sample.output.completion
        assert (second[place].output.metadata or {})["kept"] is True
        assert (second[place].output.metadata or {})["call"] == (sample.output.metadata or {})[
            "call"
        ]


def test_two_questions_of_one_number_are_both_kept(tmp_path: Path, weights: Weights) -> None:
    options = ProviderSettings(wait=0.05, store=str(tmp_path / "store"))

    def asked(question: str) -> bool:
        """Whether the response was kept."""
        frame, text = Frame.of(weights.tokenizer, [{"role": "user", "content": question}])
        group = Group(frame, Decoding(max_new_tokens=4), (("flow", "none"),), (), "task")
        answer = queue.Waiting("reasoner", options).ask(Request(group, text, 7, 0)).result(60)
        return answer.is_kept

    questions = ("a=1. b=a+2. b?", "x=5. y=x+2. y?")
    assert [asked(question) for question in questions] == [False, False]
    assert [asked(question) for question in questions] == [True, True]


def test_a_kill_in_the_middle_of_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tmp_path / "store"
    first = by_place(run(tmp_path, store=str(store)))
    (file,) = store.glob("*/*.jsonl")
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:3]) + lines[3][:50])
    file.with_name(f"{file.name}.facts.json").unlink()
    asked = []
    plain = queue.generate

    def counting(model: Any, questions: Any, **options: Any) -> Any:
        asked.extend(zip(options["question_numbers"], options["samples"], strict=True))
        return plain(model, questions, **options)

    monkeypatch.setattr(queue, "generate", counting)
    second = by_place(run(tmp_path, store=str(store)))
    assert len(asked) == PROBLEMS * SAMPLES - 3
    assert len(set(asked)) == len(asked)
    for place, sample in first.items():
        assert second[place].output.completion == sample.output.completion


@pytest.mark.parametrize(
    "change", [{"flow": "stepflow"}, {"flow": "stepflow", "alpha": 0.1}, {"dtype": "bfloat16"}]
)
def test_other_settings_find_nothing(tmp_path: Path, change: dict[str, Any]) -> None:
    store = str(tmp_path / "store")
    run(tmp_path, store=store)
    samples = by_place(run(tmp_path, store=store, **change))
    assert {(sample.output.metadata or {})["kept"] for sample in samples.values()} == {False}


def test_reasoning_is_apart_from_the_text(tmp_path: Path) -> None:
    sample = by_place(run(tmp_path))[0, 1]
    content = sample.output.message.content
    assert isinstance(content, list)
    assert [part.type for part in content] == ["reasoning", "text"]
    assert content[0].type == "reasoning"
    assert content[0].reasoning.startswith("Given")
    assert "<think>" not in content[0].reasoning + sample.output.completion
    assert sample.output.completion.startswith("The answer is")


def test_stop_reasons_and_plain_text(weights: Weights) -> None:
    def ended(finished: bool, written: int, text: str, prompt: str = "q<think>\n") -> Any:
        read, response = (
            weights.tokenizer(part, add_special_tokens=False)["input_ids"]
            for part in (prompt, text)
        )
        meta = {"response_tokens": written, "finished": finished}
        trace = ss.Trace.from_generation(weights.tokenizer, read, response, question="q", meta=meta)
        group = Group(Frame("", prompt[1:]), Decoding(max_new_tokens=9), (), (), "")
        return output_of(Request(group, "q", 0, 0), Answer(trace, {}), model="m")

    assert ended(True, 9, "a=1.</think>a=1.").stop_reason == "stop"
    assert ended(False, 9, "a=1.").stop_reason == "max_tokens"
    assert ended(False, 8, "a=1.").stop_reason == "model_length"
    cut = ended(False, 9, "a=1.")
    assert cut.completion == ""
    assert cut.message.content[0].reasoning == "a=1."
    plain = ended(True, 3, "a=1.", prompt="q\n")
    assert plain.message.content == "a=1."


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"flows": "oeb"}, "takes no option flows"),
        ({"flow": "all"}, "flow='all' is unknown"),
        ({"dtype": "int8"}, "dtype='int8' is unknown"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"shallow": "a-b"}, "no list of layers"),
        ({"device": "cpu", "device_map": "auto"}, "exclude each other"),
        ({"wait": -1}, "wait=-1"),
    ],
)
def test_bad_options(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        get_model("step-saliency/reasoner", memoize=False, **options)


def test_layers_of_the_edits(weights: Weights) -> None:
    settings = ProviderSettings.of({"flow": "stepflow", "shallow": "0-1", "deep": 3, "alpha": 0.2})
    flow: Any = settings.flow_for(weights.model)
    assert (list(flow.oeb.layers), list(flow.smi.layers), flow.smi.alpha) == ([0, 1], [3], 0.2)


@pytest.mark.parametrize("placement", ["auto", "disk"])
def test_models_that_accelerate_spreads_decode_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: Weights, placement: str
) -> None:
    """Over several devices as far as a CPU has them: memory, and files that are read for each pass.

    Responses are kept, and found again by a model that lies in one piece.
    """
    accelerate = pytest.importorskip("accelerate")
    monkeypatch.setattr(weights_module, "_LOADED", {})
    if placement == "disk":
        whole = copy.deepcopy(weights.model)
        parts = [name for name, _ in whole.model.named_children() if name != "layers"]
        device_map = {"lm_head": "cpu", **{f"model.{name}": "cpu" for name in parts}}
        layers = range(len(whole.model.layers))
        device_map |= {f"model.layers.{i}": "disk" if i else "cpu" for i in layers}
        model = accelerate.dispatch_model(
            whole, device_map, main_device="cpu", offload_dir=str(tmp_path), force_hooks=True
        )
        assert model.model.layers[1].mlp.up_proj.weight.is_meta
        monkeypatch.setattr(weights_module, "_spread", lambda *_: model)
    store = str(tmp_path / "store")
    spread = by_place(run(tmp_path, flow="stepflow", device_map="auto", store=store))
    alone = by_place(run(tmp_path, flow="stepflow", store=store))
    for place, sample in alone.items():
        assert (sample.output.metadata or {})["kept"] is True
        assert sample.output.completion == spread[place].output.completion
    texts = [trace.response.removesuffix("<|eos|>") for trace in truth(weights, "stepflow")]
    ours = [(spread[place].output.metadata or {})["response"] for place in sorted(spread)]
    assert ours == texts


@pytest.mark.parametrize(
    ("config", "match"),
    [
        (GenerateConfig(logprobs=True), "do not take logprobs"),
        (GenerateConfig(num_choices=2), "num_choices"),
        (GenerateConfig(best_of=3), "best_of"),
        (GenerateConfig(reasoning_tokens=1024), "do not take reasoning_tokens"),
        (GenerateConfig(extra_body={"min_p": 0.1}), "do not take extra_body"),
        (GenerateConfig(temperature=-1.0), "temperature=-1"),
    ],
)
def test_requests_that_are_refused(config: GenerateConfig, match: str) -> None:
    model = get_model("step-saliency/reasoner", memoize=False)
    messages: list[Any] = [ChatMessageUser(content="q")]
    with pytest.raises(ValueError, match=match):
        asyncio.run(model.api.generate(messages, [], "none", config))


def test_requests_that_ask_for_what_is_done_anyway() -> None:
    config = GenerateConfig(
        num_choices=1, best_of=1, frequency_penalty=0.0, logprobs=False, extra_body={}, max_tokens=3
    )
    model = get_model("step-saliency/reasoner", memoize=False)
    messages: list[Any] = [ChatMessageUser(content="q")]
    assert asyncio.run(model.api.generate(messages, [], "none", config)).choices


def test_tools_are_refused() -> None:
    model = get_model("step-saliency/reasoner", flow="oeb", memoize=False)
    tool = ToolInfo(name="t", description="d")
    asked: list[Any] = [ChatMessageUser(content="q")]
    with pytest.raises(ValueError, match="no tools"):
        asyncio.run(model.api.generate(asked, [tool], "auto", GenerateConfig()))


def test_an_error_of_a_call_reaches_every_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("the card caught fire")

    monkeypatch.setattr(queue, "generate", broken)
    model = get_model("step-saliency/reasoner", memoize=False, wait=0.1)
    task = build_task("reasoner", selection=Selection(limit=2), epochs=1, model=model)
    (log,) = evaluate(task, display="none", log_dir=str(tmp_path))
    assert log.status == "error"
    assert log.error
    assert "caught fire" in log.error.message


def test_numbers_of_questions() -> None:
    assert number_of(7, None) == 7
    assert number_of("id", {"question_number": 2}) == 2
    assert number_of("id", {}) == number_of("id", None) != number_of("ie", None)
    assert number_of(-1, None) >= 0


def test_system_prompts_of_any_task(tmp_path: Path, weights: Weights) -> None:
    """A task of others, by its name and ids alone."""
    model = get_model("step-saliency/reasoner", memoize=False, wait=0.1, config=CONFIG)
    turns: list[Any] = [ChatMessageSystem(content="Be brief."), ChatMessageUser(content="a=1. a?")]
    task = Task(dataset=MemoryDataset([Sample(input=turns, id=5)]), epochs=2)
    (log,) = evaluate(task, model=model, display="none", log_dir=str(tmp_path))
    assert log.samples
    traces = ss.generate(
        weights.model,
        "a=1. a?",
        tokenizer=weights.tokenizer,
        system="Be brief.",
        question_numbers=[5],
        n=2,
        temperature=1.0,
        max_new_tokens=120,
        seed=3,
        progress=False,
    )
    texts = [trace.response.removesuffix("<|eos|>") for trace in traces]
    ours = sorted(log.samples, key=lambda sample: sample.epoch)
    assert [(sample.output.metadata or {})["response"] for sample in ours] == texts


def test_responses_of_other_providers() -> None:
    """What a grader reads where the provider is not ours."""

    def state(content: Any, stop: Any) -> TaskState:
        output = ModelOutput.from_content("m", content, stop_reason=stop)
        return TaskState(ModelName("m/m"), 1, 1, "q", [], output=output)

    both = [ContentReasoning(reasoning="hm"), ContentText(text="so 3")]
    assert response_of(state(both, "stop")) == "<think>hm</think>so 3"
    cut = [ContentReasoning(reasoning="hm"), ContentText(text="")]
    assert response_of(state(cut, "max_tokens")) == "<think>hm"
    assert response_of(state("so 3", "stop")) == "so 3"
