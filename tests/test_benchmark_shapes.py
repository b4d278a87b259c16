"""The models of the table by their shape, with random weights: their chat formats, all parts."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from tiny import Arch, tiny_config, tiny_tokenizer
from transformers import (
    AutoModelForCausalLM,
    GptOssConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from step_saliency.benchmark.presets import preset_of
from step_saliency.benchmark.provider.frame import Frame
from step_saliency.benchmark.provider.settings import ProviderSettings
from step_saliency.cli import main

pytest.importorskip("inspect_ai", reason="inspect-ai is not installed: step-saliency[benchmarks]")

from inspect_ai.log import list_eval_logs, read_eval_log

from step_saliency.benchmark.command.run import model_of
from step_saliency.benchmark.command.settings import BenchmarkSettings

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
TEMPLATES = {"deepseek-r1-distill-qwen-7b": R1, "gpt-oss-20b": OSS}
CONDITIONS = ("baseline", "oeb", "smi", "stepflow")
OPENS = ("assistant", "<|channel|>", "analysis", "<|message|>")
"""What a model of GPT-OSS writes first, after the first of these."""


def tokenizer_of(template: str) -> PreTrainedTokenizerFast:
    """A small tokenizer with a template, and single tokens where the real one has them."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    if template == OSS:
        tokenizer.add_tokens(["assistant", "analysis"])
        tokenizer.add_special_tokens({"eos_token": "<|return|>"})
    return tokenizer


def config_of(name: str, tokenizer: PreTrainedTokenizerFast, *, is_full: bool) -> Any:
    """The model's own sizes with two layers and a small vocabulary, or small sizes."""
    ids = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    arch: Arch = "qwen2" if "r1" in name else "gpt_oss"
    if not is_full:
        config = tiny_config(arch, n_layers=4, n_ctx=2048, window=128)
        config.update({**ids, "tie_word_embeddings": False})
        return config
    if arch == "qwen2":
        return Qwen2Config(
            **ids,
            hidden_size=3584,
            intermediate_size=18_944,
            num_hidden_layers=2,
            num_attention_heads=28,
            num_key_value_heads=4,
            max_position_embeddings=131_072,
            tie_word_embeddings=False,
        )
    return GptOssConfig(
        **ids,
        num_hidden_layers=2,
        num_local_experts=32,
        layer_types=["sliding_attention", "full_attention"],
    )


def random_model(config: Any, chain: Sequence[int], dtype: torch.dtype) -> Any:
    """Random weights; each token of the chain is followed by the next one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    embedding, readout = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    with torch.no_grad():
        for place, (token, following) in enumerate(itertools.pairwise(chain)):
            embedding[:, place] = 0
            readout[:, place] = 0
            embedding[token] = 0
            embedding[token, place] = 100
            readout[following, place] = 30
    return model.eval()


def written_to(folder: Path, name: str, *, is_full: bool) -> Path:
    tokenizer = tokenizer_of(TEMPLATES[name])
    chain = tokenizer.convert_tokens_to_ids(list(OPENS)) if name == "gpt-oss-20b" else []
    config = config_of(name, tokenizer, is_full=is_full)
    dtype = torch.bfloat16 if is_full else torch.float32
    random_model(config, chain, dtype).save_pretrained(folder / name)
    tokenizer.save_pretrained(folder / name)
    return folder / name


@pytest.fixture(scope="module", params=TEMPLATES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written_to(tmp_path_factory.mktemp("models"), request.param, is_full=False)


def whole_path(folder: Path, out: Path, *options: str) -> None:
    """The command under four conditions; its rows, its table and what its logs say."""
    file = out / "aime.jsonl"
    file.write_text('{"id": 1, "problem": "What is 3 + 4?", "answer": 7}\n')
    words = ["--model", str(folder), "--suites", "aime24", "--data", f"aime24={file}", "--quiet"]
    words += ["--samples", "2", "--conditions", ",".join(CONDITIONS), "--out", str(out / "run")]
    assert main(["benchmark", *words, *options]) == 0
    rows = pd.read_csv(out / "run" / "rows.csv")
    assert sorted(zip(rows["condition"], rows["sample"], strict=True)) == [
        (condition, sample) for condition in sorted(CONDITIONS) for sample in (0, 1)
    ]
    table = (out / "run" / "table.txt").read_text()
    assert "AIME24, 1 problem x 2 samples" in table
    published = {"deepseek-r1-distill-qwen-7b": "54.0*", "gpt-oss-20b": "63.4*"}[folder.name]
    assert published in table
    logs = [read_eval_log(log) for log in list_eval_logs(str(out / "run" / "logs"))]
    assert len(logs) == len(CONDITIONS)
    for log in logs:
        assert log.samples
        for sample in log.samples:
            facts = sample.output.metadata or {}
            assert facts["opened"] == ("<think>" if "r1" in folder.name else "")
            if "oss" in folder.name:
                assert facts["response"].startswith("".join(OPENS[1:]))
            effects = facts["call"]["effects"].values()
            rows_seen = sum(counts.get("rows_seen", 0) for counts in effects)
            assert (rows_seen > 0) == (facts["flow"] in ("oeb", "stepflow")), facts["call"]
            assert (len(effects) > 0) == (facts["flow"] != "none"), facts["call"]


def test_small_models_go_through_the_whole_path(folder: Path, tmp_path: Path) -> None:
    whole_path(folder, tmp_path, "--max-tokens", "24")
    (note,) = {
        (file.parent, json.loads(file.read_text())["prefix"])[1]
        for file in (tmp_path / "run" / "responses").glob("*/group.json")
    }
    assert ("Reasoning: medium\n" in note) == ("oss" in folder.name)


@pytest.mark.nightly
@pytest.mark.parametrize("name", TEMPLATES)
def test_models_of_full_width_go_through_the_whole_path(name: str, tmp_path: Path) -> None:
    """Two layers of the model's own sizes, in bfloat16: 1 and 3.2 GB."""
    folder = written_to(tmp_path, name, is_full=True)
    whole_path(folder, tmp_path, "--max-tokens", "12", "--dtype", "bfloat16")


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
