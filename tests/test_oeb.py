"""The projection: masses, optimality, what is left alone, placebos, strengths."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from stepflow_reference import loop_bridge, loop_floor

from step_saliency.intervene.groups import KeyGroup, key_groups
from step_saliency.intervene.labels import StepLabels
from step_saliency.intervene.oeb import (
    OddsEqualBridge,
    bridge_floor,
    odds_equal_factors,
    odds_equal_scores,
    random_bridge,
)
from step_saliency.intervene.schedule import constant, linear, strength_at
from step_saliency.trace import Trace

BRIDGE, CURRENT, OTHER = KeyGroup.BRIDGE, KeyGroup.CURRENT, KeyGroup.OTHER
LOWEST = torch.finfo(torch.float32).min


def random_rows(
    n: int, n_keys: int, *, seed: int, width: float = 3.0, dtype: torch.dtype = torch.float64
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores and groups, each group in every row."""
    generator = torch.Generator().manual_seed(seed)
    scores = width * torch.randn(n, n_keys, generator=generator, dtype=dtype)
    groups = torch.randint(0, 3, (n, n_keys), generator=generator)
    groups[:, :3] = torch.tensor([OTHER, CURRENT, BRIDGE])
    return scores, groups


def masses(
    scores: torch.Tensor, groups: torch.Tensor, sink: torch.Tensor | None = None
) -> dict[KeyGroup, torch.Tensor]:
    """Mass of each group, by a softmax written out; the sink is in none of them."""
    weights = scores.double().exp()
    total = weights.sum(-1) + (0 if sink is None else sink.double().exp())
    return {g: (weights * (groups == g)).sum(-1) / total for g in KeyGroup}


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10_000),
    st.integers(3, 40),
    st.floats(0.01, 0.9),
    st.sampled_from([0.1, 1.0, 5.0]),
    st.booleans(),
)
def test_group_masses_are_exact(
    seed: int, n_keys: int, tau_max: float, width: float, has_sink: bool
) -> None:
    scores, groups = random_rows(8, n_keys, seed=seed, width=width)
    sinks = torch.linspace(-2, 2, 8, dtype=torch.float64) if has_sink else None
    edited, shifts = odds_equal_scores(scores, groups, tau_max=tau_max, sinks=sinks)
    before, after = masses(scores, groups, sinks), masses(edited, groups, sinks)
    counts = [(groups == g).sum(-1) for g in (BRIDGE, CURRENT)]
    tau = torch.minimum((counts[0] / (counts[0] + counts[1])).sqrt(), torch.tensor(tau_max))
    rest = before[BRIDGE] + before[CURRENT]
    tau = torch.where((before[BRIDGE] < tau) & (tau >= rest), rest / 2, tau.double())
    wanted = torch.maximum(before[BRIDGE], tau)
    assert shifts is not None
    torch.testing.assert_close(after[BRIDGE], wanted, rtol=0, atol=1e-6)
    torch.testing.assert_close(after[OTHER], before[OTHER], rtol=0, atol=1e-6)
    torch.testing.assert_close(after[CURRENT], rest - wanted, rtol=0, atol=1e-6)
    torch.testing.assert_close(shifts.mass_after, after[BRIDGE], rtol=0, atol=1e-6)
    torch.testing.assert_close(shifts.mass_before, before[BRIDGE], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("gap", "tolerance"), [(40.0, 1e-6), (200.0, 1e-5)])
def test_masses_are_exact_in_float32_however_small_they_were(gap: float, tolerance: float) -> None:
    """At a gap of 200 the mass before underflows and scores themselves are exact to 1e-5 only."""
    scores, groups = random_rows(50, 64, seed=1, dtype=torch.float32)
    scores[:25] -= gap * (groups[:25] == BRIDGE)
    edited, shifts = odds_equal_scores(scores, groups, tau_max=0.15)
    assert shifts is not None
    assert shifts.shifted[:25].all()
    assert (shifts.mass_before[:25] < 1e-12).all()
    feasible = shifts.shifted & ~shifts.infeasible
    after = masses(edited, groups)
    n_bridge, n_current = ((groups == g).sum(-1) for g in (BRIDGE, CURRENT))
    floor = bridge_floor(n_bridge, n_current, 0.15).double()
    torch.testing.assert_close(after[BRIDGE][feasible], floor[feasible], rtol=0, atol=tolerance)
    other = masses(scores, groups)[OTHER]
    torch.testing.assert_close(after[OTHER], other, rtol=0, atol=tolerance)


def optimum(p: np.ndarray, bridge: np.ndarray, other: np.ndarray, tau: float) -> float:
    """min KL(q || p) over q(bridge) = tau, q(other) = p(other), sum q = 1, by SLSQP."""

    def divergence(q: np.ndarray) -> float:
        return float((q * np.log(q / p)).sum())

    def slope(q: np.ndarray) -> np.ndarray:
        return np.log(q / p) + 1

    constraints = [
        {"type": "eq", "fun": lambda q: q.sum() - 1, "jac": lambda q: np.ones_like(q)},
        {"type": "eq", "fun": lambda q: q[bridge].sum() - tau, "jac": lambda q: bridge * 1.0},
        {
            "type": "eq",
            "fun": lambda q: q[other].sum() - p[other].sum(),
            "jac": lambda q: other * 1.0,
        },
    ]
    found = minimize(
        divergence,
        np.full_like(p, 1 / len(p)),
        jac=slope,
        bounds=[(1e-12, 1.0)] * len(p),
        constraints=constraints,
        method="SLSQP",
        options={"maxiter": 500, "ftol": 1e-14},
    )
    assert found.success, found.message
    return divergence(found.x)


@pytest.mark.parametrize("seed", range(6))
def test_equals_a_constrained_optimiser(seed: int) -> None:
    scores, groups = random_rows(4, 12, seed=seed, width=1.0)
    edited, shifts = odds_equal_scores(scores, groups, tau_max=0.6)
    assert shifts is not None
    rows = (shifts.shifted & ~shifts.infeasible).nonzero().flatten().tolist()
    assert rows
    for row in rows:
        p, q = scores[row].softmax(-1), edited[row].softmax(-1)
        kept = groups[row].numpy()
        best = optimum(p.numpy(), kept == BRIDGE, kept == OTHER, float(shifts.mass_after[row]))
        reached = float((q * (q / p).log()).sum())
        assert abs(reached - best) < 1e-6
        assert abs(float(shifts.divergence[row]) - reached) < 1e-9


@pytest.mark.parametrize("seed", range(3))
def test_equals_the_loops(seed: int) -> None:
    scores, groups = random_rows(30, 15, seed=seed, width=2.0)
    scores[:10, -4:] = -torch.inf
    sinks = torch.randn(30, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    edited, _ = odds_equal_scores(scores, groups, tau_max=0.4, sinks=sinks)
    for row in range(30):
        expected = loop_bridge(
            scores[row].tolist(), groups[row].tolist(), 0.4, sink=float(sinks[row])
        )
        torch.testing.assert_close(
            edited[row], torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12
        )


def test_the_floor() -> None:
    n_bridge, n_current = torch.tensor([1, 9, 0, 5]), torch.tensor([99, 91, 3, 0])
    floors = bridge_floor(n_bridge, n_current, 0.2)
    torch.testing.assert_close(floors, torch.tensor([0.1, 0.2, 0.0, 0.2]))
    counts = zip(n_bridge.tolist(), n_current.tolist(), strict=True)
    torch.testing.assert_close(floors, torch.tensor([loop_floor(b, s, 0.2) for b, s in counts]))


def test_rows_at_the_bound_are_untouched_to_the_bit() -> None:
    scores, groups = random_rows(200, 20, seed=3, width=2.0, dtype=torch.float32)
    scores[:, -1] = -0.0
    edited, shifts = odds_equal_scores(scores, groups, tau_max=0.3)
    assert shifts is not None
    alone = ~shifts.shifted
    assert 20 < alone.sum() < 180
    assert torch.equal(edited[alone].view(torch.int32), scores[alone].view(torch.int32))
    assert (edited[shifts.shifted] != scores[shifts.shifted]).any(-1).all()
    moved = groups != OTHER
    assert torch.equal(edited[~moved], scores[~moved]), "the rest keeps its scores"
    again, _ = odds_equal_scores(scores[alone], groups[alone], tau_max=0.3)
    assert again.data_ptr() == scores[alone].data_ptr() or torch.equal(again, scores[alone])


def test_strength_zero_is_the_same_tensor() -> None:
    scores, groups = random_rows(5, 9, seed=0)
    edited, shifts = odds_equal_scores(scores, groups, tau_max=0.0)
    assert edited is scores
    assert shifts is None
    full = torch.full_like(scores, -1.0)
    edited, shifts = odds_equal_scores(full, groups, tau_max=0.01)
    assert edited is full, "uniform rows have more than that on the bridge"


@pytest.mark.parametrize("masked", [-torch.inf, LOWEST])
def test_masked_keys_count_for_nothing(masked: float) -> None:
    """A row with masked keys is the row without them; keys outside of a window are masked."""
    scores, groups = random_rows(20, 16, seed=5, dtype=torch.float32)
    longer = torch.cat([scores, torch.full((20, 5), masked)], -1)
    more = torch.cat([groups, torch.tensor([[1, 2, 2, 2, 0]]).expand(20, -1)], -1)
    edited, _ = odds_equal_scores(longer, more, tau_max=0.4)
    expected, _ = odds_equal_scores(scores, groups, tau_max=0.4)
    torch.testing.assert_close(edited[:, :16], expected, rtol=0, atol=1e-6)
    assert (edited[:, 16:] == masked).all()


def test_rows_without_a_group_or_any_key_are_left_alone() -> None:
    scores, groups = random_rows(6, 10, seed=2, dtype=torch.float32)
    groups[0][groups[0] == BRIDGE] = OTHER
    groups[1][groups[1] == CURRENT] = OTHER
    scores[2] = -torch.inf
    scores[3] = LOWEST
    scores[4][groups[4] == BRIDGE] = -torch.inf
    scores[5][groups[5] == BRIDGE] = -5.0
    edited, shifts = odds_equal_scores(scores, groups, tau_max=0.9)
    assert shifts is not None
    assert shifts.acts.tolist() == [False] * 5 + [True]
    assert torch.equal(edited[:5], scores[:5])
    assert not torch.equal(edited[5], scores[5])


def test_infeasible_rows_get_half_of_what_there_is() -> None:
    """One key takes 0.9; 0.15 for the bridge cannot be had while it keeps that."""
    scores = torch.tensor([[0.9, 0.09, 0.01]]).log()
    edited, shifts = odds_equal_scores(scores, torch.tensor([[0, 1, 2]]), tau_max=0.15)
    assert shifts is not None
    assert shifts.infeasible.all()
    torch.testing.assert_close(edited.softmax(-1), torch.tensor([[0.9, 0.05, 0.05]]))
    scores = torch.tensor([[0.9, 0.03, 0.07]]).log()
    edited, shifts = odds_equal_scores(scores, torch.tensor([[0, 1, 2]]), tau_max=0.15)
    assert shifts is not None
    assert shifts.infeasible.all()
    assert edited is scores, "it has more than half already"


def test_the_sink_is_part_of_the_rest() -> None:
    """With a sink that takes half, masses are of the whole row; without it they would not be."""
    scores = torch.tensor([[0.1, 0.3, 0.1]]).log()
    groups = torch.tensor([[0, 1, 2]])
    sinks = torch.tensor([0.5]).log()
    edited, _ = odds_equal_scores(scores, groups, tau_max=0.15, sinks=sinks)
    weights = torch.cat([edited, sinks[:, None]], -1).softmax(-1)
    torch.testing.assert_close(weights, torch.tensor([[0.1, 0.25, 0.15, 0.5]]))
    blind, _ = odds_equal_scores(scores, groups, tau_max=0.15)
    assert blind is scores, "0.1 of 0.5 is 0.2"


def test_factors_are_the_shifts() -> None:
    scores, groups = random_rows(40, 12, seed=8)
    edited, shifts = odds_equal_scores(scores, groups, tau_max=0.5)
    assert shifts is not None
    weights = (scores - scores.max()).exp()
    sums = [(weights * (groups == g)).sum(-1) for g in (BRIDGE, CURRENT, OTHER)]
    counts = [(groups == g).sum(-1) for g in (BRIDGE, CURRENT)]
    factors = odds_equal_factors(*sums, *counts, 0.5)
    by_group = torch.stack([factors.other, factors.current, factors.bridge], -1)
    scaled = weights * by_group.gather(1, groups)
    torch.testing.assert_close(scaled / scaled.sum(-1, keepdim=True), edited.softmax(-1))
    assert torch.equal(factors.shifts.shifted, shifts.shifted)


def test_gradients_are_those_of_finite_differences() -> None:
    scores, groups = random_rows(6, 7, seed=4)
    scores[0, -2:] = -torch.inf
    groups[1][groups[1] == BRIDGE] = OTHER
    seen = torch.isfinite(scores)
    free = scores.masked_fill(~seen, 0.0).requires_grad_()

    def weights(values: torch.Tensor) -> torch.Tensor:
        masked = values.masked_fill(~seen, -torch.inf)
        return odds_equal_scores(masked, groups, tau_max=0.5)[0].softmax(-1)

    assert torch.autograd.gradcheck(weights, (free,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_precision_of_the_scores_is_kept(dtype: torch.dtype) -> None:
    scores, groups = random_rows(10, 12, seed=1, width=2.0)
    exact, _ = odds_equal_scores(scores, groups, tau_max=0.4)
    edited, _ = odds_equal_scores(scores.to(dtype), groups, tau_max=0.4)
    assert edited.dtype is dtype
    plain = (scores.to(dtype).double().softmax(-1) - scores.softmax(-1)).abs().max()
    found = (edited.double().softmax(-1) - exact.softmax(-1)).abs().max()
    assert found <= 3 * plain


def test_smoothing_flattens_the_same_rows_by_as_much() -> None:
    scores, groups = random_rows(60, 14, seed=6)
    scores[:20, -3:] = -torch.inf
    sinks = torch.linspace(-3, 3, 60, dtype=torch.float64)
    bridged, shifts = odds_equal_scores(scores, groups, tau_max=0.3, sinks=sinks)
    smooth, done = odds_equal_scores(scores, groups, tau_max=0.3, sinks=sinks, mode="smooth")
    assert shifts is not None
    assert done is not None
    assert torch.equal(done.shifted, shifts.shifted)
    assert torch.equal(smooth[~shifts.shifted], scores[~shifts.shifted])

    def whole(values: torch.Tensor) -> torch.Tensor:
        return torch.cat([values, sinks[:, None]], -1).log_softmax(-1)

    def divergence(edited: torch.Tensor) -> torch.Tensor:
        q, p = whole(edited), whole(scores)
        return torch.where(q.exp() > 0, q.exp() * (q - p), 0.0).sum(-1)

    flattened = smooth[shifts.shifted]
    visible = torch.isfinite(flattened)
    slopes = torch.stack(
        [
            torch.tensor(np.polyfit(x[seen].numpy(), y[seen].numpy(), 1))
            for x, y, seen in zip(scores[shifts.shifted], flattened, visible, strict=True)
        ]
    )
    beta, offset = slopes.unbind(-1)
    line = beta[:, None] * scores[shifts.shifted] + offset[:, None]
    torch.testing.assert_close(flattened[visible], line[visible])
    assert ((beta >= -1e-9) & (beta < 1)).all()
    torch.testing.assert_close(whole(smooth)[:, -1], whole(scores)[:, -1])
    reachable = torch.zeros_like(shifts.shifted)
    reachable[shifts.shifted] = beta > 1e-9
    assert reachable.sum() > 10
    torch.testing.assert_close(
        divergence(smooth)[reachable], divergence(bridged)[reachable], rtol=1e-6, atol=1e-9
    )
    torch.testing.assert_close(
        done.mass_after, (whole(smooth)[:, :-1].exp() * (groups == BRIDGE)).sum(-1)
    )


def conversation() -> Trace:
    return Trace.from_tokens(
        list(range(20)),
        starts=[0, 1, 5, 6, 10, 14, 15],
        regions=[
            "template", "question", "template", "thinking", "thinking", "template", "summary",
        ],
    )  # fmt: skip


def test_groups_by_hand() -> None:
    labels = StepLabels.from_traces([conversation()], length=22)
    groups = key_groups(labels, n_queries=22)[0, :, 2:].tolist()
    template, think, deep, final = groups[2 + 5], groups[2 + 7], groups[2 + 12], groups[2 + 17]
    assert template == [0] * 20
    assert think == [0] + [2] * 4 + [0] + [1] * 2 + [0] * 12
    assert deep == [0] + [2] * 4 + [0] + [1] * 7 + [0] * 7
    assert final == [0] * 6 + [2] * 8 + [0] + [1] * 3 + [0] * 2
    step = key_groups(labels, n_queries=1, current="step", bridge=[1, 3])[0, 0, 2:].tolist()
    assert step == [0] + [2] * 4 + [0] + [2] * 4 + [0] * 5 + [1] * 5
    both = key_groups(labels, n_queries=10, bridge=[3])[0, 2, 2:].tolist()
    assert both == [0] * 6 + [1] * 7 + [0] * 7, "a chosen key of the region is current"
    only = key_groups(labels, n_queries=22, bridge="thinking", current="step")[0, 14, 2:].tolist()
    assert only == [0] * 6 + [2] * 4 + [1] * 3 + [0] * 7
    assert not key_groups(labels, n_queries=22)[0, :, :2].any(), "padding"


def test_a_region_that_becomes_known_within_its_step() -> None:
    """Thinking at its first two tokens, summary from then on; to later queries all of it is."""
    step = torch.tensor([[0, 0, 1, 1, 2, 2, 2, 2]])
    region = torch.tensor([[1, 1, 2, 2, 2, 2, 3, 3]])
    previous = torch.tensor([[-1, -1, 0, 0, 1, 1, 1, 1]])
    whole = key_groups(StepLabels(step, region, previous), n_queries=8)[0]
    assert whole[5].tolist() == [2, 2, 1, 1, 1, 1, 0, 0]
    assert whole[6].tolist() == [0, 0, 2, 2, 1, 1, 1, 0]
    for stop in range(1, 9):
        part = StepLabels(step[:, :stop], region[:, :stop], previous[:, :stop])
        assert torch.equal(key_groups(part, n_queries=1)[0, 0], whole[stop - 1, :stop])


def test_the_random_bridge_has_as_many_keys_and_is_the_same_in_every_pass() -> None:
    trace = conversation()
    labels, padded = (StepLabels.from_traces([trace], length=n) for n in (20, 23))
    causal = torch.ones(1, 20, 20, dtype=torch.bool).tril()
    groups = key_groups(labels, n_queries=20)
    drawn = random_bridge(groups, causal, labels, seed=0)
    for group in KeyGroup:
        assert torch.equal((drawn == group).sum(-1), (groups == group).sum(-1))
    assert (drawn != groups).any()
    assert not torch.equal(drawn, random_bridge(groups, causal, labels, seed=1))
    wider = torch.nn.functional.pad(causal, (3, 0, 3, 0))
    again = random_bridge(key_groups(padded, n_queries=23), wider, padded, seed=0)
    assert torch.equal(again[:, 3:, 3:], drawn)
    for stop in (8, 13, 20):
        part = StepLabels(*(x[:, :stop] for x in labels.tensors))
        last = random_bridge(
            key_groups(part, n_queries=1), causal[:, stop - 1 : stop, :stop], part, seed=0
        )
        assert torch.equal(last[0, 0], drawn[0, stop - 1, :stop])


def test_schedules() -> None:
    assert strength_at(0.2, 3, None) == 0.2
    assert strength_at({3: 0.1}, 3, 8) == 0.1
    assert strength_at({3: 0.1}, 4, 8) == 0
    assert strength_at(linear(0.2, 0.1), 0, 5) == 0.2
    assert strength_at(linear(0.2, 0.1), 2, 5) == pytest.approx(0.15)
    assert strength_at(constant(0.3), 2, 5) == 0.3
    assert strength_at(lambda depth: depth**2, 1, 3) == 0.25
    with pytest.raises(ValueError, match="number of layers"):
        strength_at(linear(0, 1), 0, None)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: OddsEqualBridge([]), "must name layers"),
        (lambda: OddsEqualBridge([1, 1]), "each once"),
        (lambda: OddsEqualBridge([-1]), "0 or above"),
        (lambda: OddsEqualBridge([0], tau_max=1.0), "tau_max=1.0"),
        (lambda: OddsEqualBridge([0], tau_max={0: -0.1}), "tau_max=-0.1"),
        (lambda: OddsEqualBridge([0], bridge="answer"), "bridge='answer'"),
        (lambda: OddsEqualBridge([0], bridge=[]), "must name steps"),
        (lambda: OddsEqualBridge([0], current="all"), "current='all'"),
        (lambda: OddsEqualBridge([0], placebo="noise"), "placebo='noise'"),
        (lambda: OddsEqualBridge([5]).check(n_layers=4, n_heads=2), r"layers \[5\]"),
        (lambda: OddsEqualBridge([0], heads=[2]).check(n_layers=4, n_heads=2), r"heads \[2\]"),
        (lambda: OddsEqualBridge([0], heads=[1, 1]).check(n_layers=4, n_heads=2), "different"),
        (lambda: OddsEqualBridge([0], heads={1: [0]}).check(n_layers=4, n_heads=2), r"\[1\]"),
        (
            lambda: OddsEqualBridge([3], tau_max=lambda d: d).check(n_layers=4, n_heads=2),
            "tau_max=1.0 in layer 3",
        ),
        (lambda: odds_equal_scores(torch.zeros(1, 2), torch.zeros(1, 2).int(), tau_max=2), "2"),
    ],
)
def test_bad_options(make: Callable[[], Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()
