"""Planted heads are found, on the half that they are to be found on, and steering bites there."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import step_saliency as ss
from analyses import head_steering as hs
from analyses.head_steering.transfer import accuracy_table
from analyses.instruments.forced import forced_logits
from analyses.material.conditions import BASELINE
from analyses.material.problems import read_items
from step_saliency.intervene import OddsEqualBridge
from step_saliency.tasks import make_problems
from tests.shuffled import BOUNDS, N_SETS, binary_sets, rejected, valued_sets

FAST: dict[str, Any] = {"n_resamples": 50, "n_permutations": 499}
DEPTH, HEADS = 3, 4


@pytest.fixture(scope="module")
def model() -> Any:
    return ss.load_model("reasoner")


def values(
    gains: dict[tuple[int, int], float] | None = None, *, n: int = 40, seed: int = 0
) -> pd.DataFrame:
    """Margins of every head steered alone; some heads have a gain."""
    rng = np.random.default_rng(seed)
    base = rng.normal(-1, 0.5, n)
    rows = []
    for place in [None, *np.ndindex(DEPTH, HEADS)]:
        gain = 0.0 if place is None else (gains or {}).get(place, 0.0)
        moved = base if place is None else base + gain + rng.normal(0, 0.2, n)
        layer, head = place or (None, None)
        for number, value in enumerate(moved):
            row: dict[str, Any] = {"problem": f"p{number}", "half": hs.HALVES[number % 2]}
            row |= {"outcome": "margin", "value": value, "layer": layer, "head": head}
            rows.append({**row, "way": BASELINE if place is None else "oeb"})
    return pd.DataFrame(rows).astype({"layer": "Int64", "head": "Int64"})


def test_planted_heads_are_found_and_no_others() -> None:
    frame = values({(1, 2): 0.5, (2, 0): -0.4})
    table = hs.effects(frame, **FAST).set_index("condition")
    found = set(table.index[table["p_holm"] < 0.05])
    assert found == {"L1H2", "L2H0"}
    assert table.loc["L1H2", "estimate"] == pytest.approx(0.5, abs=0.15)
    assert (table.loc["L1H2", "layer"], table.loc["L1H2", "head"]) == (1, 2)


def test_top_heads_come_from_their_half_alone() -> None:
    frame = values({(1, 2): 0.5, (0, 3): 0.3})
    assert hs.top_heads(frame, half="even", k=2) == [(1, 2), (0, 3)]
    spoilt = frame.copy()
    odd = (spoilt["half"] == "odd") & (spoilt["way"] == "oeb")
    spoilt.loc[odd, "value"] = -spoilt.loc[odd, "value"] * 5
    assert hs.top_heads(spoilt, half="even", k=2) == [(1, 2), (0, 3)]
    edits = hs.transfer_edits(spoilt, "odd", depth=DEPTH, n_heads=HEADS, tau_max=0.3, seed=0)
    top = edits["top-2"][0]
    assert isinstance(top, OddsEqualBridge)
    assert top.heads == {0: (3,), 1: (2,)}
    with pytest.raises(ValueError, match="no margins"):
        hs.top_heads(frame, half="even", k=1, way="ablated")


def test_heads_by_lot_are_as_many_and_others() -> None:
    frame = values({(1, 2): 0.5})
    edits = hs.transfer_edits(frame, "even", depth=DEPTH, n_heads=HEADS, tau_max=0.3, seed=0)
    for k in (1, 2, 4):
        pairs = []
        for name in (f"top-{k}", f"random-{k}"):
            heads = edits[name][0].heads  # type: ignore[attr-defined]
            pairs.append({(layer, head) for layer, some in heads.items() for head in some})
        assert len(pairs[0]) == len(pairs[1]) == k
        assert not pairs[0] & pairs[1]


def test_halves_agree_on_planted_heads_only() -> None:
    gains = {place: 0.1 * i for i, place in enumerate(np.ndindex(DEPTH, HEADS))}
    assert hs.half_agreement(values(gains))["estimate"].item() > 0.9
    nothing = [hs.half_agreement(values(seed=seed))["estimate"].item() for seed in range(20)]
    assert abs(np.mean(nothing)) < 0.25


@pytest.mark.nightly
def test_false_positive_rate() -> None:
    def p_values(frame: pd.DataFrame) -> np.ndarray:
        return hs.effects(frame, **FAST)["p"].to_numpy()

    sets = (values(n=20, seed=seed) for seed in range(N_SETS))
    assert BOUNDS[0] <= rejected(sets, p_values) <= BOUNDS[1]


@pytest.mark.nightly
def test_false_positive_rate_of_transfer() -> None:
    def p_values(values: pd.DataFrame) -> np.ndarray:
        return hs.transfer_table(values.assign(outcome="margin"), **FAST)["p"].to_numpy()

    sets = valued_sets([BASELINE, "band", "top-2", "random-2"], seed=3)
    assert BOUNDS[0] <= rejected(sets, p_values) <= BOUNDS[1]


@pytest.mark.nightly
def test_power_of_transfer_for_half_a_standard_deviation() -> None:
    """A gain of the chosen heads over none and over the band, as large as planted heads give."""
    rng = np.random.default_rng(4)
    found = []
    for sample in valued_sets([BASELINE, "band", "top-2"], n_problems=60, seed=5, n_sets=60):
        gain = rng.normal(0.8, 0.8, len(sample)) * (sample["condition"] == "top-2")
        frame = sample.assign(outcome="margin", value=sample["value"] + gain)
        table = hs.transfer_table(frame, **FAST)
        table = table[table["condition"] == "top-2"].set_index("reference")
        found.append((table.loc[[BASELINE, "band"], "p"] <= 0.05).to_numpy())
    assert (np.mean(found, axis=0) > 0.8).all()


def test_one_head_of_many_can_pass_holm() -> None:
    rng = np.random.default_rng(0)
    n, layers, heads = 20, 30, 9
    base = pd.DataFrame({"problem": range(n), "half": "even", "outcome": "margin", "value": 0.0})
    tables = [base.assign(way=BASELINE, layer=pd.NA, head=pd.NA)]
    for layer, head in np.ndindex(layers, heads):
        moved = rng.normal(5.0 if (layer, head) == (3, 1) else 0.0, 1.0, n)
        tables.append(base.assign(value=moved, way="oeb", layer=layer, head=head))
    frame = pd.concat(tables, ignore_index=True).astype({"layer": "Int64", "head": "Int64"})
    found = hs.effects(frame, n_resamples=20)
    assert found.loc[found["p_holm"] < 0.05, "condition"].tolist() == ["L3H1"]
    assert found["p"].min() < 0.5 / (layers * heads) / 10


def test_accuracy_of_several_samples_is_paired_by_sample() -> None:
    values = next(binary_sets([BASELINE, "band", "top-2"], samples=2, alike=0.5))
    table = accuracy_table(values)
    assert set(table["n_pairs"]) == {120}
    assert set(table["n"]) == {60}


def test_margins_of_a_file_are_refused() -> None:
    with pytest.raises(ValueError, match="margins need the right steps"):
        hs.units(hs.HeadSettings(data="rows.jsonl"))


def test_transfer_compares_with_baseline_and_band() -> None:
    frame = values({(1, 2): 0.5}).query("layer.isna() or (layer == 1 and head == 2)")
    frame = frame.assign(condition=np.where(frame["way"] == BASELINE, BASELINE, "top-1"))
    band = frame[frame["condition"] == "top-1"].assign(condition="band")
    table = hs.transfer_table(pd.concat([frame, band]), **FAST)
    same = table[(table["reference"] == "band") & (table["condition"] == "top-1")]
    assert same["estimate"].item() == 0
    gain = table[(table["reference"] == BASELINE) & (table["condition"] == "top-1")]
    assert gain["lower"].item() > 0.3


@pytest.mark.parametrize("way", hs.WAYS)
def test_every_way_changes_its_head_alone(model: Any, way: str) -> None:
    trace = make_problems(1)[0].trace(model.tokenizer)
    layer, head = 2, 1
    edit = hs.head_edit(way, layer, head, tau_max=0.9)
    seen: list[torch.Tensor] = []

    def keep(z: torch.Tensor, hook: Any) -> None:
        seen.append(z[0].detach().clone())

    hooks = [(f"blocks.{layer}.attn.hook_z", keep)]
    with torch.no_grad(), model.hooks(fwd_hooks=hooks):
        model(trace.tokens[None])
    with torch.no_grad(), edit.attached(model, trace=trace), model.hooks(fwd_hooks=hooks):
        model(trace.tokens[None])
    before, after = seen
    others = [h for h in range(4) if h != head]
    assert torch.equal(before[:, others], after[:, others])
    assert not torch.equal(before[:, head], after[:, head])
    if way == "ablated":
        assert after[:, head].abs().max() == 0


def test_unknown_way_is_refused() -> None:
    with pytest.raises(ValueError, match="way='louder'"):
        hs.head_edit("louder", 0, 0, tau_max=0.1)


def test_margins_of_a_small_run(model: Any) -> None:
    settings = hs.HeadSettings(n=6, level="hard")
    items = read_items(settings)
    errors = hs.errors_of(model, items, settings)
    assert errors
    frame = hs.steered(model, items[:1], errors, [])
    margins = frame[frame["outcome"] == "margin"]
    assert (margins["value"] < 0).all()  # a greedy answer preferred what it wrote
    assert margins["half"].tolist() == [hs.HALVES[item.number % 2] for item, _ in errors]
    _, at = errors[0]
    logits = forced_logits(model, at.trace)
    assert int(logits[at.position].argmax()) == at.written
