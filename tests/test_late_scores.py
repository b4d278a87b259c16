"""Models whose scores are shown when attention is over: padding is padding there too."""

from functools import cache
from typing import Any

import pytest
import torch
from edit_passes import a_trace, assert_same_in_every_pass, full_pass
from flows import assert_same_logits, left_padded, logits_of
from tiny import draw_weights, tiny_tokenizer
from transformers import AutoModelForCausalLM, GPTJConfig, OPTConfig

import step_saliency as ss
from step_saliency.intervene import EditGroup, HeadScale, StepLabels
from step_saliency.models.convert import from_transformers

IDS = {"vocab_size": len(tiny_tokenizer()), "bos_token_id": 1, "eos_token_id": 2}
CONFIGS = {
    "opt": OPTConfig(
        **IDS,
        pad_token_id=0,
        hidden_size=32,
        word_embed_proj_dim=32,
        ffn_dim=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=512,
    ),
    "gptj": GPTJConfig(**IDS, n_embd=32, n_layer=3, n_head=4, n_positions=512, rotary_dim=4),
}
HEADS = HeadScale(["L0H1", "L1H2", "L2H0"], 0.0, regions=["thinking"])


@cache
def load(name: str) -> Any:
    """A tiny bridge; there is no HookedTransformer of these."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(CONFIGS[name], attn_implementation="eager")
    return from_transformers(draw_weights(model), tiny_tokenizer(), backend="bridge", name=name)


@torch.no_grad()
@pytest.mark.parametrize("name", CONFIGS)
def test_rows_of_a_padded_batch_are_those_alone(name: str) -> None:
    model = load(name)
    traces = [
        ss.Trace.from_text(tiny_tokenizer(), question=question, response=response, format="think")
        for question, response in (
            ("What is 3 and 4?", "<think>First, 3 and 4. Then we add.</think>It is 7. Right."),
            ("a b c", "<think>Wait.</think>So 7."),
        )
    ]
    n_prompt = [next(s.start for s in t.steps if s.region == "thinking") for t in traces]
    with HEADS.attached(model, n_prompt=n_prompt) as session:
        together = logits_of(model, *left_padded([trace.tokens for trace in traces]))
    assert session.labels is not None
    expected = StepLabels.from_traces(traces)
    assert all(map(torch.equal, session.labels.tensors, expected.tensors))
    for row, trace in enumerate(traces):
        with HEADS.attached(model, n_prompt=n_prompt[row]):
            alone = logits_of(model, trace.tokens[None])[0]
        assert_same_logits(together[row, -len(trace) :], alone)
        assert not torch.equal(logits_of(model, trace.tokens[None])[0], alone)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_first_layer_is_edited_and_rows_are_cached(name: str) -> None:
    model, traces = load(name), [a_trace(seed=seed) for seed in (1, 2)]
    momentum = ss.StepMomentumInjection([0], alpha=1.0)
    for edit in (HEADS, EditGroup([HEADS, momentum])):
        assert_same_in_every_pass(model, traces, edit)
        hooks = edit.bound_to(traces[0], model=model).hooks(model)
        with torch.no_grad(), model.hooks(fwd_hooks=hooks):
            by_hand = full_pass(model, traces[0])
        assert torch.equal(by_hand, full_pass(model, traces[0], edit))


@pytest.mark.parametrize("name", CONFIGS)
def test_questions_are_answered_together_as_apart(name: str) -> None:
    model, questions = load(name), ["What is 3 and 4?", "a b c"]
    options: Any = {"temperature": 0.0, "max_new_tokens": 8, "progress": False, "method": "hooks"}
    edit = HeadScale(["L0H1", "L1H2"], 0.0)
    together = ss.generate(model, questions, flow=edit, **options)
    apart = [ss.generate(model, question, flow=edit, **options)[0] for question in questions]
    plain = ss.generate(model, questions, **options)
    tokens = [[trace.tokens.tolist() for trace in traces] for traces in (together, apart, plain)]
    assert tokens[0] == tokens[1]
    assert tokens[0] != tokens[2]


@torch.no_grad()
@pytest.mark.parametrize("name", CONFIGS)
def test_attention_without_a_mask_is_refused(name: str) -> None:
    """Nothing tells there what is padding."""
    model = load(name)
    unmasked = model.blocks[0].attn.register_forward_pre_hook(
        lambda _module, args, kwargs: (args, kwargs | {"attention_mask": None}),
        prepend=True,
        with_kwargs=True,
    )
    try:
        with HEADS.attached(model), pytest.raises(ValueError, match="eager"):
            logits_of(model, a_trace().tokens[None])
    finally:
        unmasked.remove()
