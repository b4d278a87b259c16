"""Doses: what an edit moves is reported, and placebos are matched to it."""

import math
from typing import Any

import pandas as pd
import pytest
import torch
from edit_passes import a_trace, activations, load
from tiny import BACKENDS

import step_saliency as ss
from step_saliency.intervene import (
    Effects,
    OddsEqualBridge,
    StepFlow,
    StepMomentumInjection,
    doses,
    momentum_bank,
)
from step_saliency.intervene.groups import KeyGroup
from step_saliency.intervene.heads import HeadScale
from step_saliency.intervene.labels import StepLabels
from step_saliency.intervene.matching import effects_on, matched_strength
from step_saliency.intervene.oeb import placebo_scores, random_block
from step_saliency.intervene.oeb.equal_dose import share_at_divergence
from step_saliency.intervene.oeb.permuted import permuted_bridge
from step_saliency.storage.described import described

N_LAYERS = 4
FLOW = StepFlow(oeb=OddsEqualBridge([0, 1], tau_max=0.3), smi=StepMomentumInjection([3], alpha=0.5))
TRACES = [
    a_trace(
        seed=i, regions="_QTTTTTT_SSS", lengths=(2, 6 + i % 3, 6, 5 - i % 2, 5, 7, 4, 6, 2, 4, 5, 4)
    )
    for i in range(72)
]
FIT, HELD_OUT = TRACES[:48], TRACES[48:]


def table_of(model: Any, flow: StepFlow, traces: Any = HELD_OUT) -> Any:
    return doses(model, {"it": flow}, traces).set_index("edit")


@pytest.mark.parametrize(
    "kind",
    [
        "bridge",
        *(pytest.param(k, marks=pytest.mark.nightly) for k in ("block", "layers", "permuted")),
    ],
)
def test_matched_bridges_have_the_dose_on_held_out_traces(kind: Any) -> None:
    model = load("qwen2", n_layers=N_LAYERS)
    flow = StepFlow(oeb=FLOW.oeb)
    fake = flow.placebo(kind, 3, model=model, traces=FIT, tolerance=0.002)
    real, matched, loose = (
        table_of(model, f).loc["OddsEqualBridge"]
        for f in (flow, fake, flow.placebo(kind, 3, n_layers=N_LAYERS))
    )
    assert matched["kl"] == pytest.approx(real["kl"], rel=0.05)
    assert abs(loose["kl"] / real["kl"] - 1) > 0.02, "matching is not for nothing"
    if kind != "layers":
        assert matched["rows_shifted"] == pytest.approx(real["rows_shifted"], rel=0.05)


@pytest.mark.parametrize(
    ("kind", "within"),
    [
        ("direction", 0.05),
        pytest.param("other", 0.05, marks=pytest.mark.nightly),
        pytest.param("boundaries", 0.1, marks=pytest.mark.nightly),
        pytest.param("layers", 0.1, marks=pytest.mark.nightly),
    ],
)
def test_matched_momentum_has_the_norm_on_held_out_traces(kind: Any, within: float) -> None:
    """Norms of the residual at other tokens and layers of a random model have long tails."""
    model = load("qwen2", n_layers=N_LAYERS)
    bank = momentum_bank(model, [a_trace(seed=9)], layers=range(N_LAYERS), progress=False)
    flow = StepFlow(smi=FLOW.smi)
    fake = flow.placebo(
        kind, 3, model=model, traces=FIT, bank=bank if kind == "other" else None, tolerance=0.002
    )
    real, matched = (
        table_of(model, f).loc["StepMomentumInjection", "injected_norm"] for f in (flow, fake)
    )
    assert matched == pytest.approx(real, rel=within)


def test_both_halves_in_other_layers_are_matched_together() -> None:
    model = load("qwen2", n_layers=6)
    flow = StepFlow(oeb=OddsEqualBridge([0]), smi=StepMomentumInjection([5], alpha=0.5))
    fake = flow.placebo("layers", 2, model=model, traces=FIT[:8], tolerance=0.005)
    real, matched = (table_of(model, f, FIT[:8]) for f in (flow, fake))
    for edit, dose in (("OddsEqualBridge", "kl"), ("StepMomentumInjection", "injected_norm")):
        assert matched.loc[edit, dose] == pytest.approx(real.loc[edit, dose], rel=0.02)


def test_draws_are_different_placebos_of_one_dose() -> None:
    model = load("qwen2", n_layers=N_LAYERS)
    flow = StepFlow(oeb=FLOW.oeb)
    drawn = flow.placebos("block", 5, seed=10, model=model, traces=iter(FIT[:8]))
    assert [fake.oeb.seed for fake in drawn] == [10, 11, 12, 13, 14]
    reached = [table_of(model, fake, FIT[:8]).loc["OddsEqualBridge", "kl"] for fake in drawn]
    table = doses(model, {"it": flow, "again": flow}, iter(FIT[:8])).set_index("flow")
    target = table.loc["it", "kl"]
    assert table.loc["again", "kl"] == target
    assert reached == pytest.approx([target] * 5, rel=0.011)
    rows = [
        activations(model, FIT[0], ["blocks.0.attn.hook_pattern"], fake)[
            "blocks.0.attn.hook_pattern"
        ]
        for fake in drawn
    ]
    assert len({float(row.double().square().sum()) for row in rows}) == 5


def test_old_calls_hold_the_mass() -> None:
    assert FLOW.placebo("bridge", 2).oeb.dose is None
    by_name = FLOW.placebo("bridge", 2, match="mass")
    assert vars(by_name.oeb) == vars(FLOW.placebo("bridge", 2).oeb)
    assert FLOW.placebo("direction", 2).smi.alpha == FLOW.smi.alpha


def test_settings_of_before_are_those_of_an_edit_without_a_dose() -> None:
    assert "dose" not in described(FLOW.oeb)
    fake = OddsEqualBridge([0], placebo="random", dose=1.5)
    assert described(fake)["dose"] == 1.5


@pytest.mark.parametrize("inner", [0.0, 0.4, 2.0])
def test_the_mass_of_a_divergence_is_the_larger_root(inner: float) -> None:
    """Against a fine grid, on which the divergence is written out."""
    grid = torch.linspace(1e-6, 0.999, 400_001).double()
    for odds in (-4.0, -1.0, 0.5):
        b = 1 / (1 + math.exp(-odds))
        reached = grid * (grid / b).log() + (1 - grid) * ((1 - grid) / (1 - b)).log() + grid * inner
        least = int(reached.argmin())
        for target in (float(reached[least]) + 0.01, float(reached[least] + reached[-1]) / 2):
            share, found = share_at_divergence(
                *(torch.tensor([x], dtype=torch.float64) for x in (odds, target, inner))
            )
            truth = grid[least:][(reached[least:] - target).abs().argmin()]
            assert float(share) == pytest.approx(float(truth), abs=1e-5)
            assert float(found) == pytest.approx(target, abs=1e-9)
    far, found = share_at_divergence(
        *(torch.tensor([x], dtype=torch.float64) for x in (0.0, 50.0, inner))
    )
    assert float(far) == pytest.approx(0.999)
    assert float(found) < 50


def test_blocks_follow_each_other_and_stay_through_a_step() -> None:
    trace = a_trace()
    labels, edit = StepLabels.from_traces([trace]), OddsEqualBridge([0])
    groups = edit.groups(labels, len(trace))
    causal = torch.ones(1, len(trace), len(trace), dtype=torch.bool).tril()
    places = set()
    for seed in range(30):
        drawn = random_block(groups, causal, labels, seed=seed)[0]
        for query in (20, 30):
            pool = (groups[0, query] != KeyGroup.OTHER).nonzero()[:, 0].tolist()
            block = (drawn[query] == KeyGroup.BRIDGE).nonzero()[:, 0].tolist()
            start = pool.index(block[0])
            assert block == pool[start : start + len(block)]
            assert len(block) == int((groups[0, query] == KeyGroup.BRIDGE).sum())
            places.add((query, start))
    assert len({start for query, start in places if query == 20}) > 5
    other = random_block(groups[:, -3:], causal[:, -3:], labels, seed=4)
    assert torch.equal(other, random_block(groups, causal, labels, seed=4)[:, -3:])


def test_permuted_scores_are_the_same_scores() -> None:
    trace = a_trace()
    labels = StepLabels.from_traces([trace])
    scores = torch.randn(1, 2, len(trace), len(trace)).double()
    members = OddsEqualBridge([0]).groups(labels, len(trace))[:, None] == KeyGroup.BRIDGE
    drawn = permuted_bridge(scores, members, labels, seed=1)
    assert torch.equal(drawn[~members.expand_as(drawn)], scores[~members.expand_as(drawn)])
    inside = [torch.where(members, x, 1e9).sort(-1).values for x in (drawn, scores)]
    assert torch.equal(*inside)
    assert (drawn != scores).float().mean() > 0.1
    moves = [(drawn[0, head] - scores[0, head]).abs() > 0 for head in range(2)]
    assert torch.equal(moves[0], moves[1]), "alike in all heads"


def test_sums_over_layers_and_heads_by_hand() -> None:
    effects = Effects()
    effects.add("A", 0, rows_seen=torch.tensor([4.0, 4.0]), rows_shifted=torch.tensor([1.0, 3.0]),
                kl=torch.tensor([0.2, 0.3]), total_variation=torch.tensor([0.1, 0.1]))  # fmt: skip
    effects.add("A", 1, rows_seen=torch.tensor([4.0, 4.0]), rows_shifted=torch.tensor([0.0, 1.0]),
                kl=torch.tensor([0.0, 0.5]), total_variation=torch.tensor([0.0, 0.3]))  # fmt: skip
    effects.add("B", 1, injections=2, injected_norm=0.5)
    table = effects.doses().set_index("edit")
    assert table.loc["A", "kl"] == pytest.approx(1.0 / 5)
    assert table.loc["A", "total_variation"] == pytest.approx(0.1)
    assert (table.loc["A", "rows_seen"], table.loc["A", "rows_shifted"]) == (16, 5)
    assert table.loc["B", "injected_norm"] == pytest.approx(0.25)
    assert repr(Effects()) == "Effects(no edit acted)"
    _, names, first, second = repr(effects).splitlines()
    shown = ["rows_seen", "rows_shifted", "kl", "total_variation", "injections", "injected_norm"]
    assert names.split() == ["edit", *shown]
    assert first.split()[:5] == ["A", "16", "5", "0.2", "0.1"]
    assert second.split()[0] == "B"
    assert second.split()[-1] == "0.25"
    frame = effects.to_frame()
    assert frame["kl"].tolist()[:2] == pytest.approx([0.2, 0.1])
    assert frame["kl"].isna().tolist() == [False, False, True, False, True]


def test_strengths_are_found_where_doses_bend() -> None:
    for dose in (lambda s: 0.3 * s, lambda s: s / (1 + s), lambda s: max(0.0, s - 2) ** 3):
        strength = matched_strength(dose, 0.4, tolerance=1e-4)
        assert dose(strength) == pytest.approx(0.4, rel=1e-4)
    with pytest.raises(ValueError, match=r"the dose of the edit, 2; the nearest is 1"):
        matched_strength(lambda s: s / (0.01 + s), 2.0)
    with pytest.raises(ValueError, match="moves nothing"):
        matched_strength(lambda s: s, 0.0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_low_precision_keeps_doses(backend: str) -> None:
    """bfloat16 rows, moved as far as float32 rows are."""
    exact, rough = (
        table_of(load("qwen2", backend, n_layers=N_LAYERS, dtype=dtype), FLOW, HELD_OUT[:3])
        for dtype in (torch.float32, torch.bfloat16)
    )
    for edit, dose in (("OddsEqualBridge", "kl"), ("StepMomentumInjection", "injected_norm")):
        assert rough.loc[edit, dose] == pytest.approx(exact.loc[edit, dose], rel=0.1)


def test_dosed_placebos_decode_alike_by_hooks_and_fast() -> None:
    """Token for token, with the same doses."""
    model = ss.load_model("reasoner")
    problems = ss.tasks.make_problems(n=3, level="easy", seed=2)
    options: Any = {"temperature": 0, "max_new_tokens": 40, "progress": False, "splitter": "line"}
    for placebo in ("random", "permuted"):
        flow = StepFlow(OddsEqualBridge([0, 1], tau_max=0.4, placebo=placebo, dose=1.3, seed=1))
        tables, texts = [], []
        for method in ("hooks", "fast"):
            effects = Effects()
            traces = ss.generate(
                model, problems, flow=flow, method=method, effects=effects, **options
            )
            tables.append(effects.doses().loc[0])
            texts.append([trace.tokens.tolist() for trace in traces])
        assert texts[0] == texts[1]
        assert tables[0]["rows_shifted"] == tables[1]["rows_shifted"] > 100
        for dose in ("kl", "total_variation"):
            assert tables[0][dose] == pytest.approx(tables[1][dose], abs=1e-5)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: FLOW.placebo("bridge", match="kl"), "needs model= and a few traces"),
        (lambda: FLOW.placebo("bridge", match="norm"), "match='norm'"),
        (lambda: FLOW.placebo("bridge", traces=[]), "needs model= and a few traces"),
        (lambda: FLOW.placebo("bridge", match="mass", traces=FIT), "traces= are of match='kl'"),
        (lambda: FLOW.placebo("bridge", tolerance=0.01), "tolerance= are of match='kl'"),
        (lambda: FLOW.placebo("bridge", match="kl", tolerance=0), "tolerance=0 is no number above"),
        (lambda: FLOW.placebo("bridge", match="kl", tolerance=float("nan")), "tolerance=nan is no"),
        (lambda: matched_strength(lambda s: s, 1.0, tolerance=-1.0), "tolerance=-1.0 is no number"),
        (lambda: FLOW.placebos("smooth", 3), "'smooth' has one"),
        (lambda: FLOW.placebos("bridge", 0), "draws=0"),
        (lambda: OddsEqualBridge([0], dose=1.0), "is of a placebo"),
        (lambda: OddsEqualBridge([0], placebo="block", dose=0.0), "must be above 0"),
        (lambda: OddsEqualBridge([0], placebo="block", dose=math.nan), "must be above 0"),
        (lambda: OddsEqualBridge([0], placebo="blocks"), "placebo='blocks'"),
        (lambda: doses(load("qwen2"), {"a": FLOW}, []), "traces="),
    ],
)  # fmt: skip
def test_bad_options(make: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()


def test_smoothing_is_drawn_once_by_default() -> None:
    assert len(FLOW.placebos("smooth")) == 1
    assert len(FLOW.placebos("bridge")) == 20


def test_a_row_out_of_reach_is_counted() -> None:
    """A block that has nearly all of the mass cannot be given much more."""
    trace = a_trace()
    labels = StepLabels.from_traces([trace])
    groups = OddsEqualBridge([0]).groups(labels, len(trace))
    scores = 6 * torch.randn(
        1, 1, len(trace), len(trace), generator=torch.Generator().manual_seed(0)
    )
    hidden = ~torch.ones(len(trace), len(trace), dtype=torch.bool).tril()
    scores = scores.masked_fill(hidden, -torch.inf)
    options: Any = {"placebo": "block", "tau_max": 0.5, "seed": 0}
    low, high = (placebo_scores(scores, groups, labels, dose=d, **options)[1] for d in (0.01, 30.0))
    assert low is not None
    assert high is not None
    assert low.infeasible.sum() < 0.3 * low.shifted.sum()
    assert high.infeasible.sum() > 0.7 * high.shifted.sum()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "flow",
    [FLOW, StepFlow(oeb=FLOW.oeb), HeadScale([(1, 0)], 0.5)],
    ids=["all layers", "shallow layers", "heads"],
)
def test_a_pass_for_doses_ends_where_no_dose_is_left(backend: Any, flow: Any) -> None:
    """As many counts, to the bit, as in whole passes; and the model goes on as before."""
    model = load("qwen2", n_layers=N_LAYERS, backend=backend)
    traces = HELD_OUT[:2]
    before = model(traces[0].tokens[None])
    whole = Effects()
    for trace in traces:
        with flow.attached(model, trace=trace) as session:
            model(trace.tokens[None])
        whole.include(session.effects)
    reached: list[int] = []
    names = [f"blocks.{layer}.hook_resid_post" for layer in range(N_LAYERS)]
    with model.hooks(
        fwd_hooks=[(name, lambda _, hook: reached.append(hook.layer())) for name in names]
    ):
        table = effects_on(model, flow, traces).to_frame()
    pd.testing.assert_frame_equal(table, whole.to_frame())
    assert max(reached) == int(table["layer"].max())
    assert torch.equal(model(traces[0].tokens[None]), before)
