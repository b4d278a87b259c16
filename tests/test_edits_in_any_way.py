"""Edits read in any way: prompts in pieces, sessions, gradients, counters, heads of their own."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from edit_passes import a_trace, cached_pass, full_pass, load
from tiny import BACKENDS, Backend, tiny_model

import step_saliency as ss
from step_saliency.decoding.hooked import cached_reader
from step_saliency.intervene import EditGroup, HeadRedirect, HeadScale, mean_head_outputs
from step_saliency.intervene.oeb.equal_dose import share_at_divergence
from step_saliency.intervene.oeb.smoothing import smoothed_rows

QUESTION = "What is 3 and 4? Add. Then 7."
RESPONSE = "<think>First, 3. Then 4.</think>So 7. Yes."
EDITS = {
    "bridge": ss.OddsEqualBridge([0, 1], tau_max=0.6),
    "momentum": ss.StepMomentumInjection([1], alpha=1.0),
    "heads": HeadScale(["L0H1", "L1H2"], 0.0, regions=["thinking"]),
}


@torch.no_grad()
@pytest.mark.parametrize("name", EDITS)
@pytest.mark.parametrize(("size", "first"), [(1, 1), (1, 5), (4, 4)])
@pytest.mark.parametrize("says_length", [True, False])
def test_prompts_read_in_pieces_are_prompts(
    name: str, size: int, first: int, says_length: bool
) -> None:
    """However it is fed, a prompt is labelled as one when its end is there."""
    model, edit = load("qwen2"), EDITS[name]
    trace = ss.Trace.from_text(model.tokenizer, question=QUESTION, response=RESPONSE)
    n_prompt = trace.steps[2].stop  # template, question, template
    ids = trace.tokens[None]
    with edit.attached(model):
        whole = model(ids)
    with edit.attached(model, n_prompt=n_prompt if says_length else None) as session:
        reader = cached_reader(model, 1)
        cuts = [0, first, *range(first + size, len(trace), size), len(trace)]
        pieces = [reader.read(ids[:, a:b]) for a, b in pairwise(cuts)]
        labels = session.labels
    expected = ss.intervene.StepLabels.from_traces([trace])
    assert labels is not None
    for ours, theirs in zip(labels.tensors, expected.tensors, strict=True):
        assert torch.equal(ours, theirs)
    assert (torch.cat(pieces, dim=1) - whole).abs().max() < 1e-5 * whole.abs().max()


@pytest.mark.parametrize("backend", BACKENDS)
def test_maps_under_momentum_in_the_residual_are_those_of_single_losses(backend: Backend) -> None:
    """Row by row against a backward pass for each position."""
    model, trace = load("qwen2", backend), a_trace()
    edit = ss.StepMomentumInjection([0, 1], alpha=1.0, space="residual", source="resid_post")
    patterns: dict[int, torch.Tensor] = {}

    def keep(pattern: torch.Tensor, hook: Any) -> None:
        pattern.retain_grad()
        patterns[hook.layer()] = pattern

    names = [f"blocks.{layer}.attn.hook_pattern" for layer in range(model.cfg.n_layers)]
    tokens = trace.tokens[None]
    with edit.attached(model, trace=trace):
        found = ss.step_saliency(model, trace, method="hooks", pool="sum")
        with model.hooks(fwd_hooks=[(name, keep) for name in names]):
            logits = model(tokens, attention_mask=torch.ones_like(tokens))[0]
    losses = -logits[:-1].log_softmax(-1).gather(1, trace.tokens[1:, None])[:, 0]
    n_steps = len(trace.steps)
    truth = torch.zeros(len(names), n_steps, n_steps)
    to_keys = torch.nn.functional.one_hot(trace.step_ids, n_steps).float()
    for query in range(len(trace) - 1):
        for pattern in patterns.values():
            pattern.grad = None
        losses[query].backward(retain_graph=True)
        for layer, pattern in patterns.items():
            row = (pattern * pattern.grad).abs()[0, :, query].mean(0)
            truth[layer, trace.step_ids[query]] += row.detach() @ to_keys
    assert (found.mean_heads - truth).abs().max() < 1e-4 * truth.abs().max()


def test_means_of_heads_know_no_dropout() -> None:
    model, trace = tiny_model("gpt2-like", backend="bridge"), a_trace()
    expected = mean_head_outputs(model, [trace], progress=False).z
    model.train()
    with pytest.warns(UserWarning, match="train"):
        found = mean_head_outputs(model, [trace], progress=False).z
    assert torch.equal(found.nan_to_num(), expected.nan_to_num())
    assert model.training


@torch.no_grad()
def test_a_session_is_entered_once() -> None:
    model, trace = load("qwen2"), a_trace()
    edit = ss.OddsEqualBridge([0, 1], tau_max=0.6)
    edited = full_pass(model, trace, edit)
    session = edit.attached(model, trace=trace)
    with session:
        with pytest.raises(RuntimeError, match="entered already"), session:
            pass
        assert torch.equal(full_pass(model, trace), edited)
    with pytest.raises(RuntimeError, match="this session is over"), session:
        pass
    assert not torch.equal(full_pass(model, trace), edited)


@pytest.mark.parametrize(
    ("placebo", "dose"),
    [("random", 1.0), ("block", 1.0), ("permuted", 1.0), ("smooth", None), ("random", None)],
)
def test_counters_are_the_same_token_by_token(placebo: Any, dose: float | None) -> None:
    model, trace = load("qwen2"), a_trace()
    edit = ss.OddsEqualBridge([0], tau_max=0.3, placebo=placebo, dose=dose)
    with torch.no_grad(), edit.attached(model, trace=trace) as whole:
        model(trace.tokens[None])
    with torch.no_grad(), edit.attached(model, trace=trace) as cached:
        reader = cached_reader(model, 1)
        for i in range(len(trace)):
            reader.read(trace.tokens[None, i : i + 1])
    names = ["rows_seen", "rows_shifted", "infeasible", "mass_before", "mass_after", "kl"]
    one, other = (s.effects.doses()[names].to_numpy(float) for s in (whole, cached))
    assert one[0, 1] > 0
    assert one == pytest.approx(other, abs=1e-5)


def test_strengths_that_are_found_have_gradients() -> None:
    """Roots of a divergence, against finite differences."""
    torch.manual_seed(0)
    scores = torch.randn(3, 7, dtype=torch.float64, requires_grad=True)
    visible = torch.ones(3, 7, dtype=torch.bool)
    visible[1, 5:] = False
    divergence = torch.full((3,), 0.05, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda x: smoothed_rows(x, visible, divergence)[visible], (scores,), eps=1e-5, atol=1e-4
    )
    odds = torch.tensor([-2.0, -0.5, 0.4], dtype=torch.float64, requires_grad=True)
    inner = torch.tensor([0.0, 0.1, 0.3], dtype=torch.float64, requires_grad=True)
    target = torch.full((3,), 0.4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda *x: share_at_divergence(*x)[0], (odds, target, inner), eps=1e-5, atol=1e-4
    )


@pytest.mark.parametrize("placebo", ["random", "block", "permuted"])
def test_keys_that_one_head_cannot_see_are_keys_of_the_others(placebo: Any) -> None:
    """An edit that takes keys from head 0 changes no draw of heads 1 and above."""
    model, trace = load("qwen2"), a_trace()
    fake = ss.OddsEqualBridge([0], tau_max=0.9, placebo=placebo)
    redirect = HeadRedirect(["L0H0"], "template", mass=1.0)
    found = []
    for edit in (fake, EditGroup([redirect, fake])):
        patterns: list[torch.Tensor] = []

        def keep(pattern: torch.Tensor, hook: Any, into: Any = patterns) -> None:
            into.append(pattern.clone())

        with (
            torch.no_grad(),
            edit.attached(model, trace=trace),
            model.hooks(fwd_hooks=[("blocks.0.attn.hook_pattern", keep)]),
        ):
            model(trace.tokens[None])
        found.append(patterns[-1][0, 1:])
    assert torch.allclose(*found, atol=1e-6)
    assert cached_pass(model, [trace], fake, n_single=3).isfinite().all()
