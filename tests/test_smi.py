"""Momentum: what is added, where, and what the placebos keep of it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from flows import RESPONSES, kept, logits_of, model_of, random_trace, trace_of
from stepflow_reference import Steps, loop_injections, loop_mean
from tiny import BACKENDS, Backend

import step_saliency as ss
from step_saliency.intervene import StepLabels
from step_saliency.intervene.injections import plan_injections, step_momentum
from step_saliency.intervene.placebos import momentum_bank

POINTS = ("attn.hook_v", "attn.hook_z", "hook_resid_pre", "hook_resid_post")


def plans(trace: ss.Trace, **options: Any) -> dict[int, list[int]]:
    labels = StepLabels.from_traces([trace])
    plan = plan_injections(labels, n_queries=len(trace), **options)
    previous = [keys.tolist() for keys in plan.previous]
    return dict(zip(plan.query.tolist(), previous, strict=True))


@pytest.mark.parametrize("seed", range(10))
def test_plans_are_those_of_the_loops(seed: int) -> None:
    trace = random_trace(seed)
    steps = Steps(trace.starts, [str(region) for region in trace.regions], len(trace))
    expected = loop_injections(steps)
    assert plans(trace) == expected
    assert plans(trace, window=2) == {t: keys[-2:] for t, keys in expected.items()}


def test_plans_by_hand() -> None:
    """Template between steps is skipped; the first summary step gets the last thinking step."""
    trace = ss.Trace.from_tokens(
        list(range(12)),
        starts=[0, 1, 3, 4, 6, 8, 9],
        regions=[
            "template", "question", "template", "thinking", "thinking", "template", "summary",
        ],
    )  # fmt: skip
    assert plans(trace) == {4: [1, 2], 6: [4, 5], 9: [6, 7]}
    alone = ss.Trace.from_tokens([1, 2, 3], starts=[0, 1], regions=["template", "thinking"])
    assert plans(alone) == {}


@pytest.mark.parametrize("boundaries", ["step", "random"])
def test_a_cached_pass_has_the_same_plan(boundaries: str) -> None:
    for seed in range(5):
        trace = random_trace(seed)
        labels = StepLabels.from_traces([trace, random_trace(seed + 5)])
        whole = plan_injections(labels, n_queries=len(labels), boundaries=boundaries)
        found = []
        for stop in range(1, len(labels) + 1):
            part = StepLabels(*(x[:, :stop] for x in labels.tensors))
            plan = plan_injections(part, n_queries=1, boundaries=boundaries)
            rows = zip(plan.row.tolist(), plan.position.tolist(), plan.previous, strict=True)
            found += [(row, stop - 1, start, keys.tolist()) for row, start, keys in rows]
        rows = zip(plan_columns(whole), [keys.tolist() for keys in whole.previous], strict=True)
        assert sorted(found) == sorted((*place, keys) for place, keys in rows)


def plan_columns(plan: Any) -> list[tuple[int, int, int]]:
    columns = zip(plan.row.tolist(), plan.query.tolist(), plan.position.tolist(), strict=True)
    return list(columns)


def test_the_mean_is_that_of_the_loops() -> None:
    trace = random_trace(1)
    labels = StepLabels.from_traces([trace])
    source = torch.randn(1, len(trace), 2, 3, generator=torch.Generator().manual_seed(0))
    plan = plan_injections(labels, n_queries=len(trace))
    found = step_momentum(source, plan).flatten(1)
    for momentum, keys in zip(found, plan.previous, strict=True):
        expected = torch.tensor(loop_mean(source[0].flatten(1), keys.tolist()))
        torch.testing.assert_close(momentum, expected)


@torch.no_grad()
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("arch", ["qwen2", "gpt_oss"])
def test_what_is_added_in_each_space(arch: Any, backend: Backend) -> None:
    """alpha times the mean value to z, through W_O to the residual, or the mean residual."""
    model = model_of(arch, backend)
    trace = trace_of(model)
    with kept(model, *POINTS, layers=[1]) as clean:
        logits_of(model, trace.tokens[None])
    v, z, resid = (clean[f"blocks.1.{name}"][0] for name in (*POINTS[:2], POINTS[3]))
    w_o = model.blocks[1].attn.W_O
    cases: list[tuple[dict[str, Any], str, torch.Tensor]] = []
    for options in ({}, {"space": "residual"}, {"space": "residual", "source": "resid_post"}):
        at = "attn.hook_z" if not options else "hook_resid_post"
        expected = (z if not options else resid).clone()
        for place, keys in plans(trace).items():
            if options.get("source"):
                expected[place] += 0.3 * resid[keys].mean(0)
                continue
            by_head = v[keys].mean(0).repeat_interleave(2, 0)
            carried = sum(by_head[head] @ w_o[head] for head in range(4))
            expected[place] += 0.3 * (by_head if not options else carried)
        cases.append((options, at, expected))
    for options, at, expected in cases:
        edit = ss.StepMomentumInjection([1], alpha=0.3, **options)
        with edit.attached(model) as session, kept(model, *POINTS, layers=[1]) as edited:
            logits_of(model, trace.tokens[None])
        found = edited[f"blocks.1.{at}"][0]
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)
        frame = session.effects.to_frame()
        assert frame.injections.tolist() == [len(plans(trace))]
        places = list(plans(trace))
        if options:
            norms = (expected - resid)[places].norm(dim=-1) / resid[places].norm(dim=-1)
        else:
            carried = torch.einsum("ihd,hdm->im", (expected - z)[places], w_o)
            norms = carried.norm(dim=-1) / clean["blocks.1.hook_resid_pre"][0, places].norm(dim=-1)
        assert frame.injected_norm.item() == pytest.approx(float(norms.mean()), rel=1e-4)


def added(model: Any, trace: ss.Trace, **options: Any) -> torch.Tensor:
    """What is added to z of layer 1 at each position."""
    edit = ss.StepMomentumInjection([1], alpha=0.5, **options)
    at = "attn.hook_z" if edit.space == "value" else "hook_resid_post"
    with kept(model, at, layers=[1]) as clean:
        logits_of(model, trace.tokens[None])
    with edit.attached(model, trace=trace), kept(model, at, layers=[1]) as edited:
        logits_of(model, trace.tokens[None])
    name = f"blocks.1.{at}"
    return edited[name][0] - clean[name][0]


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"space": "residual"}])
def test_placebo_momentum_has_the_norms_and_places_of_the_true_one(options: dict[str, Any]) -> None:
    model = model_of("qwen2", BACKENDS[0])
    trace = trace_of(model)
    true = added(model, trace, **options)
    places = list(plans(trace))
    bank = momentum_bank(model, [trace_of(model, RESPONSES[1])], layers=[1], progress=False)
    for placebo in ({"momentum": "random"}, {"momentum": "other", "bank": bank}):
        found = added(model, trace, **placebo, **options)
        torch.testing.assert_close(found.norm(dim=-1), true.norm(dim=-1), rtol=1e-4, atol=1e-5)
        assert found.flatten(1).any(-1).nonzero().flatten().tolist() == places
        cosine = torch.cosine_similarity(found[places].flatten(1), true[places].flatten(1))
        assert (cosine < 0.95).all()
        torch.testing.assert_close(added(model, trace, **placebo, **options), found)
        if placebo["momentum"] == "random":
            other = added(model, trace, seed=1, **placebo, **options)
            assert not torch.equal(other, found)


@torch.no_grad()
def test_placebo_boundaries_begin_no_step() -> None:
    model = model_of("qwen2", BACKENDS[0])
    trace = trace_of(model)
    moved = added(model, trace, boundaries="random").flatten(1).any(-1).nonzero().flatten()
    assert len(moved)
    assert not set(moved.tolist()) & set(trace.starts)


def test_may_act_only_where_it_can() -> None:
    """Codes 1 to 3: question, thinking, summary."""
    edit = ss.StepMomentumInjection([0])
    assert edit.may_act({2}, {2})
    assert not edit.may_act({2, 1}, {1})
    assert ss.StepMomentumInjection([0], boundaries="random").may_act({2}, set())


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: ss.StepMomentumInjection([]), "must name layers"),
        (lambda: ss.StepMomentumInjection([0], alpha=-1), "alpha=-1"),
        (lambda: ss.StepMomentumInjection([0], space="scores"), "space='scores'"),
        (lambda: ss.StepMomentumInjection([0], source="q"), "source='q'"),
        (lambda: ss.StepMomentumInjection([0], source="resid_post"), "needs space='residual'"),
        (lambda: ss.StepMomentumInjection([0], window=0), "window=0"),
        (lambda: ss.StepMomentumInjection([0], momentum="x"), "momentum='x'"),
        (lambda: ss.StepMomentumInjection([0], momentum="other"), "bank"),
        (lambda: ss.StepMomentumInjection([0], boundaries="x"), "boundaries='x'"),
        (
            lambda: ss.StepMomentumInjection([1], alpha=lambda d: -d).check(n_layers=2, n_heads=2),
            "alpha=-1.0 in layer 1",
        ),
    ],
)
def test_bad_options(make: Callable[[], Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()
