"""The models of the table by their shape, with random weights: their chat formats, all parts."""

from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_tokenizer, tiny_transformers
from transformers import PreTrainedTokenizerFast

from step_saliency.benchmark.presets import preset_of
from step_saliency.benchmark.provider.frame import Frame
from step_saliency.benchmark.provider.settings import ProviderSettings

pytest.importorskip("inspect_ai", reason="inspect-ai is not installed: step-saliency[benchmarks]")

from inspect_ai import eval as evaluate
from inspect_ai.model import GenerateConfig, get_model

from step_saliency.benchmark.command.run import model_of
from step_saliency.benchmark.command.settings import BenchmarkSettings
from step_saliency.benchmark.suites.suites import Selection
from step_saliency.benchmark.suites.tasks import build_task

R1 = (
    "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}"
    "{% endif %}"
    "{% set ns = namespace(system_prompt='') %}{%- for message in messages %}"
    "{%- if message['role'] == 'system' %}{% set ns.system_prompt = message['content'] %}"
    "{%- endif %}{%- endfor %}{{bos_token}}{{ns.system_prompt}}{%- for message in messages %}"
    "{%- if message['role'] == 'user' %}{{'<｜User｜>' + message['content']}}{%- endif %}"
    "{%- if message['role'] == 'assistant' %}{% set content = message['content'] %}"
    "{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}"
    "{{'<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>'}}{%- endif %}{%- endfor -%}"
    "{% if add_generation_prompt %}{{'<｜Assistant｜><think>\\n'}}{% endif %}"
)
"""What the template of R1-Distill writes where no tools are called."""
OSS = (
    "{{- '<|start|>system<|message|>You are ChatGPT, a large language model trained by OpenAI.\\n"
    "Knowledge cutoff: 2024-06\\nCurrent date: ' + strftime_now('%Y-%m-%d') + '\\n\\n' }}"
    "{%- if reasoning_effort is not defined %}{%- set reasoning_effort = 'medium' %}{%- endif %}"
    "{{- 'Reasoning: ' + reasoning_effort + '\\n\\n# Valid channels: analysis, commentary, final. "
    "Channel must be included for every message.<|end|>' }}"
    "{%- for message in messages %}{%- if message['role'] == 'system' %}"
    "{{- '<|start|>developer<|message|># Instructions\\n\\n' + message['content'] + '<|end|>' }}"
    "{%- else %}{{- '<|start|>' + message['role'] + '<|message|>' }}"
    "{{- message['content'] + '<|end|>' }}"
    "{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start|>assistant' }}{%- endif %}"
)
"""What the template of GPT-OSS writes where no tools are called."""
SHAPES = {
    "deepseek-r1-distill-qwen-7b": ("qwen2", R1),
    "gpt-oss-20b": ("gpt_oss", OSS),
}


def tokenizer_of(template: str) -> PreTrainedTokenizerFast:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


@pytest.fixture(scope="module", params=SHAPES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    arch, template = SHAPES[request.param]
    place = tmp_path_factory.mktemp("models") / request.param
    model = tiny_transformers(arch, n_layers=4, n_ctx=2048)  # type: ignore[arg-type]
    model.save_pretrained(place)
    tokenizer_of(template).save_pretrained(place)
    return place


@pytest.mark.parametrize("flow", ["none", "stepflow"])
def test_shapes_go_through_the_whole_path(folder: Path, flow: str, tmp_path: Path) -> None:
    model = get_model(f"step-saliency/{folder}", flow=flow, memoize=False, wait=0.1)
    file = tmp_path / "aime.jsonl"
    file.write_text('{"id": 1, "problem": "What is 3 + 4?", "answer": 7}\n')
    config = GenerateConfig(temperature=1.0, max_tokens=24, seed=0)
    task = build_task(
        "aime24", selection=Selection(file=str(file)), epochs=2, config=config, model=model
    )
    (log,) = evaluate(task, display="none", log_dir=str(tmp_path / "logs"))
    assert log.status == "success", log.error
    assert log.samples
    assert len({(s.output.metadata or {})["response"] for s in log.samples}) == 2
    for sample in log.samples:
        assert sample.output.usage
        assert sample.output.usage.output_tokens <= 24
        if "r1" in folder.name:
            assert (sample.output.metadata or {})["opened"] == "<think>"
        if flow == "stepflow" and "r1" in folder.name:  # no channel opens among random tokens
            effects = (sample.output.metadata or {})["call"]["effects"]
            assert sum(counts.get("rows_seen", 0) for counts in effects.values()) > 0


def test_presets_reach_the_request(folder: Path, tmp_path: Path) -> None:
    settings = BenchmarkSettings(model=str(folder), suites=("aime24",))
    model: Any = model_of(tmp_path, settings, "stepflow").api
    assert model.settings.flow == "stepflow"
    effort = preset_of(folder.name).reasoning_effort
    assert model.settings.reasoning_effort == effort == ("medium" if "oss" in folder.name else None)


def test_r1_is_asked_without_a_system_prompt() -> None:
    tokenizer = tokenizer_of(R1)
    frame, _ = Frame.of(tokenizer, [{"role": "user", "content": "What is 2 + 2?"}])
    assert (frame.prefix, frame.suffix) == ("<|begin|><｜User｜>", "<｜Assistant｜><think>\n")


@pytest.mark.parametrize("effort", ["low", "high"])
def test_gpt_oss_is_told_its_effort_and_a_fixed_day(effort: str) -> None:
    settings = ProviderSettings(reasoning_effort=effort, date="2025-09-01")
    frame, _ = Frame.of(
        tokenizer_of(OSS),
        [{"role": "user", "content": "What is 2 + 2?"}],
        template_options=settings.template_options,
        date=settings.date,
    )
    assert f"Reasoning: {effort}\n" in frame.prefix
    assert "Current date: 2025-09-01\n" in frame.prefix
    assert frame.prefix.endswith("<|start|>user<|message|>")
    assert frame.suffix == "<|end|><|start|>assistant"


def test_a_day_that_is_none() -> None:
    with pytest.raises(ValueError, match="date='tomorrow'"):
        ProviderSettings(date="tomorrow")
