"""Placebos: one thing is made meaningless, and all else is as it was."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from edit_passes import a_trace, activations, assert_same_in_every_pass, full_pass, load
from tiny import BACKENDS
from torch.nn.functional import cosine_similarity, normalize

from step_saliency.intervene import OddsEqualBridge, StepFlow, StepMomentumInjection
from step_saliency.intervene.choices import PLACEBOS
from step_saliency.intervene.groups import KeyGroup
from step_saliency.intervene.injections import injections
from step_saliency.intervene.labels import StepLabels
from step_saliency.intervene.oeb import random_bridge
from step_saliency.intervene.placebos import (
    MomentumBank,
    momentum_bank,
    random_directions,
    random_layers,
)
from step_saliency.intervene.schedule import linear, strength_at

N_LAYERS = 4
TRACES = [a_trace(), a_trace(lengths=(1, 8, 3, 4, 4, 2, 1, 6, 2), seed=3)]
TRACE = TRACES[0]
PATTERN, Z = "blocks.0.attn.hook_pattern", "blocks.3.attn.hook_z"
FLOW = StepFlow(
    oeb=OddsEqualBridge([0], tau_max=0.4), smi=StepMomentumInjection([3], alpha=0.5, window=3)
)
STARTS = [7, 13, 14, 18, 25, 28]
"""First tokens of the thinking and summary steps of `TRACE`."""


def model_of(backend: str) -> Any:
    return load("qwen2", backend, n_layers=N_LAYERS)


def bank_of(model: Any) -> MomentumBank:
    others = [a_trace(seed=7), a_trace(regions="_QTS", lengths=(1, 3, 7, 2), seed=8)]
    return momentum_bank(model, others, layers=range(N_LAYERS), progress=False)


def placebo(kind: str, model: Any, seed: int = 0, flow: StepFlow = FLOW) -> StepFlow:
    bank = bank_of(model) if kind == "other" else None
    return flow.placebo(kind, seed, n_layers=N_LAYERS, bank=bank)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", PLACEBOS)
def test_cached_equals_full_and_batch_equals_single(kind: str, backend: str) -> None:
    model = model_of(backend)
    assert_same_in_every_pass(model, TRACES, placebo(kind, model))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["boundaries", "direction", "other"])
def test_the_same_in_the_residual_stream(kind: str, backend: str) -> None:
    model = model_of(backend)
    for source in ("value", "resid_post"):
        smi = StepMomentumInjection([2], alpha=0.5, space="residual", source=source)
        assert_same_in_every_pass(model, TRACES, placebo(kind, model, flow=StepFlow(smi=smi)))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", sorted({*PLACEBOS} - {"smooth"}))
def test_the_seed_decides(kind: str, backend: str) -> None:
    model = model_of(backend)
    first, again, other = (full_pass(model, TRACE, placebo(kind, model, s)) for s in (0, 0, 5))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("backend", BACKENDS)
def test_smoothing_moves_the_same_rows_as_far(backend: str) -> None:
    """Layer 0 sees the same input with each, so that rows can be compared one by one."""
    model = model_of(backend)
    flat = placebo("smooth", model)
    p, q, smooth = (
        activations(model, TRACE, [PATTERN], flow)[PATTERN][0].double()
        for flow in (None, FLOW, flat)
    )
    moved = (q != p).any(-1)
    assert moved.any()
    assert not moved.all()
    assert torch.equal((smooth != p).any(-1), moved)
    distance = [torch.where(x > 0, x * (x / p).log(), 0.0).sum(-1) for x in (q, smooth)]
    assert (distance[0][moved] > 1e-6).all()
    assert torch.allclose(distance[1], distance[0], atol=1e-5)
    entropy = [-torch.where(x > 0, x * x.log(), 0.0).sum(-1) for x in (p, smooth)]
    assert (entropy[1] > entropy[0])[moved].all()


@pytest.mark.parametrize("bridge", ["auto", "question", [2, 3]])
def test_a_drawn_bridge_is_as_large_as_that_of_the_flow(bridge: Any) -> None:
    real = StepFlow(oeb=OddsEqualBridge([0], bridge=bridge, current="step"))
    drawn = real.placebo("bridge", 3).oeb
    labels = StepLabels.from_traces([TRACE])
    groups = drawn.groups(labels, len(TRACE))
    assert torch.equal(groups, real.oeb.groups(labels, len(TRACE)))
    causal = torch.ones(1, len(TRACE), len(TRACE), dtype=torch.bool).tril()
    drawn_groups = random_bridge(groups, causal, labels, seed=drawn.seed)
    for group in KeyGroup:
        assert torch.equal((drawn_groups == group).sum(-1), (groups == group).sum(-1))
    assert (drawn_groups != groups).any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_drawn_bridge_holds_its_bound_and_the_rest(backend: str) -> None:
    model = model_of(backend)
    drawn = placebo("bridge", model)
    p, q = (activations(model, TRACE, [PATTERN], f)[PATTERN][0].double() for f in (None, drawn))
    labels = StepLabels.from_traces([TRACE])
    groups = drawn.oeb.groups(labels, len(TRACE))
    causal = torch.ones(1, len(TRACE), len(TRACE), dtype=torch.bool).tril()
    drawn_groups = random_bridge(groups, causal, labels, seed=drawn.oeb.seed)[0]
    moved = (q != p).any(-1)
    on_bridge, other = ((drawn_groups == group) for group in (KeyGroup.BRIDGE, KeyGroup.OTHER))
    assert torch.allclose((q * other).sum(-1), (p * other).sum(-1), atol=1e-6)
    feasible = moved & ((p * ~other).sum(-1) > 0.4)
    share = on_bridge.sum(-1) / (drawn_groups != KeyGroup.OTHER).sum(-1).clamp(min=1)
    tau = share.sqrt().clamp(max=0.4).expand_as(moved).double()
    assert feasible.any()
    assert torch.allclose((q * on_bridge).sum(-1)[feasible], tau[feasible], atol=1e-6)


def written_out_targets(trace: Any, delays: dict[int, int]) -> dict[int, int]:
    """Where each injection lands, by walking along the trace."""
    landed = {}
    for start, delay in delays.items():
        position = start + delay
        while position < len(trace):
            step = trace.steps[trace.step_ids[position]]
            if step.region in ("thinking", "summary") and position != step.start:
                landed[start] = position
                break
            position += 1
    return landed


def test_boundaries_move_to_later_tokens_that_begin_no_step() -> None:
    labels = StepLabels.from_traces([TRACE])
    plain = injections(labels, len(TRACE))
    assert plain.start.tolist() == plain.target.tolist() == STARTS
    assert plain.source.tolist() == [1, 2, 3, 4, 5, 7]
    lengths = dict(zip(STARTS, [5, 6, 1, 4, 5, 3], strict=True))
    landed_at: dict[int, set[int]] = {start: set() for start in STARTS}
    for seed in range(60):
        moved = injections(labels, len(TRACE), boundaries="random", seed=seed)
        found = dict(zip(moved.start.tolist(), moved.target.tolist(), strict=True))
        for start, target in found.items():
            landed_at[start].add(target)
    for start, length in lengths.items():
        possible = {
            target
            for delay in range(1, length + 1)
            for target in written_out_targets(TRACE, {start: delay}).values()
        }
        assert landed_at[start] == possible


@pytest.mark.parametrize("backend", BACKENDS)
def test_moved_injections_are_the_same_vectors_elsewhere(backend: str) -> None:
    model = model_of(backend)
    long = a_trace(regions="_QTTTTTTTTS", lengths=(2, 5, 6, 5, 4, 5, 7, 3, 4, 5, 12))
    plain, real, moved = (
        activations(model, long, [Z], flow)[Z][0]
        for flow in (
            None,
            StepFlow(smi=FLOW.smi),
            placebo("boundaries", model, flow=StepFlow(smi=FLOW.smi)),
        )
    )
    starts = torch.tensor([step.start for step in long.steps[2:]])
    added, elsewhere = real - plain, moved - plain
    at = {name: x.abs().sum((1, 2)).nonzero()[:, 0] for name, x in
          (("real", added), ("moved", elsewhere))}  # fmt: skip
    assert torch.equal(at["real"], starts)
    assert not torch.isin(at["moved"], starts).any()
    assert torch.allclose(elsewhere.sum(0), added.sum(0), atol=1e-4), "as many, the same vectors"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["direction", "other"])
def test_other_vectors_of_the_same_norm_at_the_same_places(kind: str, backend: str) -> None:
    model = model_of(backend)
    smi = StepFlow(smi=FLOW.smi)
    plain, real, fake = (
        activations(model, TRACE, [Z], flow)[Z][0]
        for flow in (None, smi, placebo(kind, model, flow=smi))
    )
    added, instead = real - plain, fake - plain
    others = torch.ones(len(TRACE), dtype=torch.bool)
    others[STARTS] = False
    assert torch.equal(fake[others], plain[others])
    norms = [x[STARTS].norm(dim=-1) for x in (added, instead)]
    assert torch.allclose(norms[0], norms[1], rtol=1e-4)
    cosine = cosine_similarity(added[STARTS], instead[STARTS], dim=-1)
    assert (cosine < 0.99).all()
    assert cosine.mean().abs() < 0.9
    if kind == "other":
        values = bank_of(model).values[3][:, [0, 0, 1, 1]]
        entries, unit = (normalize(x, dim=-1).flatten(1) for x in (values, instead[STARTS]))
        nearest = torch.cdist(unit, entries).min(-1).values
        assert nearest.max() < 1e-3


def test_the_bank_holds_means_of_thinking_steps() -> None:
    model = load("qwen2", n_layers=N_LAYERS)
    names = ["blocks.1.attn.hook_v", "blocks.1.hook_resid_post"]
    seen = activations(model, TRACE, names)
    bank = momentum_bank(model, [TRACE], layers=[1], progress=False)
    for entry, (start, stop) in enumerate([(7, 13), (13, 14), (14, 18), (18, 23)]):
        truth = [seen[name][0, start:stop].mean(0) for name in names]
        assert torch.allclose(bank.values[1][entry], truth[0], atol=1e-6)
        assert torch.allclose(bank.resid[1][entry], truth[1], atol=1e-6)


def test_random_directions_are_even_and_have_the_norms() -> None:
    like = torch.rand(3000, 2, 6) + 0.1
    drawn = random_directions(like, torch.arange(3000), layer=2, seed=0)
    assert torch.allclose(drawn.norm(dim=-1), like.norm(dim=-1), rtol=1e-5)
    unit = drawn / drawn.norm(dim=-1, keepdim=True)
    assert unit.mean(0).abs().max() < 0.03, "four standard errors of a mean of 1 / sqrt(6)"
    spread = torch.einsum("nhd,nhe->hde", unit, unit) / 3000
    assert (spread - torch.eye(6) / 6).abs().max() < 0.02
    between = (unit[:, 0] * unit[:, 1]).sum(-1).mean().abs()
    assert between < 0.03, "heads have directions of their own"
    assert torch.equal(random_directions(like[5:6], torch.tensor([5]), layer=2, seed=0), drawn[5:6])
    assert not torch.equal(random_directions(like, torch.arange(3000), layer=3, seed=0), drawn)
    zero = random_directions(torch.zeros(1, 6), torch.tensor([0]), layer=0, seed=0)
    assert not zero.any()


def test_directions_are_drawn_on_the_device_of_the_vectors() -> None:
    like = torch.ones(3, 2, 6, device="meta")
    assert random_directions(like, torch.arange(3), layer=2, seed=0).device == like.device


def test_random_layers() -> None:
    drawn = {random_layers(8, 3, seed, avoid=(0, 1)) for seed in range(200)}
    assert all(len(set(layers)) == 3 and list(layers) == sorted(layers) for layers in drawn)
    assert set().union(*drawn) == set(range(2, 8))
    assert len(drawn) == 20, "every choice of three out of six comes up"
    assert random_layers(8, 3, 1) == random_layers(8, 3, 1)


def test_moved_layers_keep_strengths_and_heads() -> None:
    oeb = OddsEqualBridge([0, 2], tau_max=linear(0.3, 0.1), heads={0: [1], 2: [0, 3]})
    smi = StepMomentumInjection([5, 6, 7], alpha={5: 0.1, 6: 0.2, 7: 0.3})
    moved = StepFlow(oeb, smi).placebo("layers", 1, n_layers=8)
    assert moved.oeb is not None
    assert moved.smi is not None
    assert not {*moved.oeb.layers} & {0, 2}
    assert not {*moved.smi.layers} & {5, 6, 7}
    found = [
        (strength_at(moved.oeb.tau_max, i, 8), moved.oeb.heads_in(i)) for i in moved.oeb.layers
    ]
    assert found == [(0.3, (1,)), (pytest.approx(0.3 - 0.2 * 2 / 7), (0, 3))]
    assert [strength_at(moved.smi.alpha, i, 8) for i in moved.smi.layers] == [0.1, 0.2, 0.3]
    assert (oeb.layers, smi.layers) == ((0, 2), (5, 6, 7)), "the flow is as it was"


@pytest.mark.parametrize("kind", ["bridge", "smooth", "boundaries", "direction"])
def test_the_other_half_is_the_same_object(kind: str) -> None:
    fake = FLOW.placebo(kind, 9)
    changed, kept = ("oeb", "smi") if kind in ("bridge", "smooth") else ("smi", "oeb")
    assert getattr(fake, kept) is getattr(FLOW, kept)
    before, after = vars(getattr(FLOW, changed)), vars(getattr(fake, changed))
    differing = {name for name in before if before[name] != after[name]}
    wanted = {"bridge": "placebo", "smooth": "placebo", "direction": "momentum"}
    assert differing == {"seed", wanted.get(kind, "boundaries")}


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: FLOW.placebo("noise"), "kind='noise'"),
        (lambda: FLOW.placebo("layers"), "needs n_layers"),
        (lambda: FLOW.placebo("layers", n_layers=1), "cannot be drawn from 0"),
        (lambda: FLOW.placebo("other"), "needs bank"),
        (lambda: StepFlow(oeb=FLOW.oeb).placebo("direction"), "placebo of smi"),
        (lambda: StepFlow(smi=FLOW.smi).placebo("bridge"), "placebo of oeb"),
        (lambda: OddsEqualBridge([0], bridge="random", placebo="smooth"), "exclude each other"),
        (lambda: random_layers(4, 3, avoid=[0, 1]), "n=3 layers cannot be drawn from 2"),
        (lambda: bank_of(load("qwen2", n_layers=4)).drawn(
            "value", torch.tensor([1]), layer=9, seed=0), "no layer 9"),
        (lambda: momentum_bank(load("qwen2"), [], layers=[0], progress=False), "is empty"),
    ],
)  # fmt: skip
def test_bad_options(make: Callable[[], Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()
