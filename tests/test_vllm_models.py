"""StepFlow inside a vLLM engine, by architecture: small random models against their own copies.

Log-probabilities of every token of given sequences (question, thinking, summary), which vLLM reads
as prompts, against the TransformerLens object, whose edits act on whole score matrices; greedy
tokens, which it decodes, and what was counted on the way, against the fast loop. vLLM has no
float64, so the bound is its own error: what a pass without a flow differs by, in the same engine,
from the same model.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from tiny import Arch, tiny_tokenizer, tiny_transformers

import step_saliency as ss
from step_saliency.segment.build import prompt_tokens
from step_saliency.vllm import extra_args

pytest.importorskip("vllm", reason="needs vLLM, in an environment of its own")

from vllm_engines import (
    ROUNDING,
    decoded,
    engine,
    flow_of,
    next_logits,
    response,
    same,
    vllm,
)

WRITTEN: tuple[Arch, ...] = (
    "llama", "llama3-rope", "qwen2", "qwen3", "mistral", "gemma2", "gemma3", "gpt_oss",
)  # fmt: skip
QUESTIONS = (
    "There are 5 apples and 7 pears. How many fruits are there?",
    "First add 3 and 4. Then take 2 away. What is left of it?",
    "The total is 12. The number of apples is 5. What is the rest of the total?",
)
RESPONSE = (
    "First, let me think about the question and the number of apples and the total of the rest and "
    "the answer and the final answer and the step. The number is 5. Then add 7 to get 12. "
    "Wait, that is wrong. Therefore x = 12.</think>The answer is 12. So the total is 12, "
    "and the rest is 7."
)
KINDS = ("oeb", "smi", "stepflow")
ALL_WINDOWED = ("mistral",)
"""No layer keeps what falls out of its window, so there is no momentum."""


@dataclass(frozen=True)
class Copies:
    """One model, as an engine and as a TransformerLens object."""

    llm: Any
    model: Any
    tokenizer: Any

    @property
    def sequences(self) -> list[list[int]]:
        """Questions with a response."""
        written = self.tokenizer(RESPONSE, add_special_tokens=False)["input_ids"]
        return [prompt_tokens(self.tokenizer, question) + written for question in QUESTIONS]

    def error(self, flow: ss.StepFlow | None) -> tuple[float, float]:
        """Largest and mean difference of the log-probabilities of all tokens."""
        differences = self.differences(flow).abs()
        return float(differences.max()), float(differences.mean())

    def differences(self, flow: ss.StepFlow | None) -> torch.Tensor:
        """Log-probabilities of all tokens, of the engine minus the model's."""
        asked = vllm.SamplingParams(
            max_tokens=1,
            temperature=0,
            prompt_logprobs=0,
            extra_args=None if flow is None else extra_args(flow),
        )
        prompts = [{"prompt_token_ids": ids} for ids in self.sequences]
        outputs = self.llm.generate(prompts, asked, use_tqdm=False)
        differences = [
            _read(output) - written_logprobs(self.model, flow, ids)
            for output, ids in zip(outputs, self.sequences, strict=True)
        ]
        return torch.cat(differences)

    def changes(self, flow: ss.StepFlow) -> torch.Tensor:
        """What a flow changes of them."""
        changed = [
            written_logprobs(self.model, flow, ids) - written_logprobs(self.model, None, ids)
            for ids in self.sequences
        ]
        return torch.cat(changed)


def _read(output: Any) -> torch.Tensor:
    tokens = output.prompt_token_ids
    pairs = zip(tokens[1:], output.prompt_logprobs[1:], strict=True)
    return torch.tensor([known[token].logprob for token, known in pairs])


def written_logprobs(model: Any, flow: ss.StepFlow | None, ids: list[int]) -> torch.Tensor:
    """Log-probabilities of the tokens of a sequence, each after those before it."""
    tokens = torch.tensor([ids])
    with torch.no_grad():
        if flow is None:
            logits = model(tokens)
        else:
            with flow.attached(model):
                logits = model(tokens)
    scores = logits[0, :-1].double().log_softmax(-1)
    return scores.gather(-1, tokens[0, 1:, None])[:, 0].float()


def copies(
    arch: Arch, folder: Path, dtype: str = "float32", *, drops_values: bool = False
) -> Copies:
    """A model of 4 layers; its windows are shorter than a step and than a block of the cache."""
    tokenizer = tiny_tokenizer()
    small = tiny_transformers(arch, n_layers=4, d_head=32, d_model=128, window=16)
    if arch == "gemma2":  # the engine's own CPU kernel gives NaN for scores beyond 87 caps
        small.config.attn_logit_softcapping = 4.0
    small.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    model = ss.load_model(str(folder))
    llm = engine(
        str(folder),
        dtype=dtype,
        max_model_len=512,
        max_num_seqs=8,
        max_num_batched_tokens=96,
        block_size=32,
        disable_hybrid_kv_cache_manager=not drops_values,
    )
    return Copies(llm, model, model.tokenizer)


BY_DAY: Arch = "gpt_oss"
"""Grouped keys, windows in every other layer, learned sinks, experts."""


@pytest.mark.parametrize(
    "arch",
    [arch if arch == BY_DAY else pytest.param(arch, marks=pytest.mark.nightly) for arch in WRITTEN],
)
def test_an_architecture_has_the_edits_of_its_own_copy(arch, tmp_path):
    both = copies(arch, tmp_path)
    largest, mean = both.error(None)
    assert largest < 1e-3
    for kind in KINDS[:1] if arch in ALL_WINDOWED else KINDS:
        flow = flow_of(kind, n_layers=4)
        assert both.error(flow)[0] < 10 * largest + 1e-5
        assert both.changes(flow).abs().mean() > 100 * mean
        assert_tokens_and_effects_are_those_of_the_fast_loop(both, flow)
        assert_texts_go_on_as_the_copy_would(both, flow)


def assert_tokens_and_effects_are_those_of_the_fast_loop(both: Copies, flow: ss.StepFlow) -> None:
    asked = {"flow": flow, "temperature": 0, "max_new_tokens": 48, "progress": False}
    by_engine, by_loop = ss.intervene.Effects(), ss.intervene.Effects()
    # transformers reads some architectures' tokenizer by a class of its own, with other tokens
    got = ss.generate(both.llm, QUESTIONS, effects=by_engine, tokenizer=both.tokenizer, **asked)
    want = ss.generate(both.model, QUESTIONS, method="fast", effects=by_loop, **asked)
    assert same([response(trace) for trace in got], want, [flow] * 3, both.model)
    if [response(trace) for trace in got] == [response(trace) for trace in want]:
        frame = by_engine.to_frame()
        assert bool(len(frame)) == any(map(is_read_on, want)), "some write a prompt's mark again"
        pd.testing.assert_frame_equal(frame, by_loop.to_frame(), rtol=1e-3)


def is_read_on(trace: ss.Trace) -> bool:
    """Whether a token of thinking or summary was read, and not only written."""
    written = [step.start for step in trace.steps if step.region in ("thinking", "summary")]
    return bool(written) and written[0] < len(trace) - 1


def assert_texts_go_on_as_the_copy_would(both: Copies, flow: ss.StepFlow) -> None:
    """From the middle of a response, each token is the likeliest after those before it."""
    begun = [ids[:-20] for ids in both.sequences]
    for start, ids in zip(begun, decoded(both.llm, begun, [flow] * 3, max_tokens=8), strict=True):
        for place, token in enumerate(ids):
            logits = next_logits(both.model, flow, [*start, *ids[:place]])
            assert logits.max() - logits[token] < ROUNDING


@pytest.mark.nightly
@pytest.mark.parametrize("arch", ["qwen2", "gemma3"])
def test_in_bfloat16_a_flow_is_as_exact_as_the_engine_without_it(arch, tmp_path):
    """Against the model in float32, at all tokens and at the tenth that the flow changes most."""
    both = copies(arch, tmp_path, "bfloat16")
    plain = both.differences(None).abs()
    for kind in KINDS:
        flow = flow_of(kind, n_layers=4, alpha=30.0)
        errors, changes = both.differences(flow).abs(), both.changes(flow).abs()
        most = changes.topk(len(changes) // 10).indices
        assert errors.mean() < 2 * plain.mean()
        assert errors[most].mean() < 3 * plain.mean()
        assert changes[most].mean() > 3 * errors[most].mean()


@pytest.mark.nightly
def test_momentum_where_values_are_dropped_is_refused_by_name(tmp_path):
    both = copies("gemma3", tmp_path, drops_values=True)
    with pytest.raises(ValueError, match=r"momentum in layers \[2\], which have a sliding window"):
        both.error(flow_of("smi", n_layers=4))
    largest, _ = both.error(None)
    assert both.error(flow_of("oeb", n_layers=4))[0] < 10 * largest + 1e-5
    full = ss.StepFlow(smi=ss.StepMomentumInjection([3], alpha=0.3))
    assert both.error(full)[0] < 10 * largest + 1e-5
