"""Conditions are what they say, and the ablation finds planted effects and no others."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import step_saliency as ss
from analyses import ablation
from analyses.ablation import (
    AblationSettings,
    against_placebos,
    dose_table,
    doses,
    effects,
    interaction,
    loss_effects,
    losses_against_placebos,
    trends,
)
from analyses.instruments.losses import gold_losses, token_losses
from analyses.material import doses as material_doses
from analyses.material import flows
from analyses.material.answers import answers
from analyses.material.conditions import (
    BASELINE,
    CORE_PLACEBOS,
    METHODS,
    PLACEBOS,
    Condition,
    conditions,
    layers_in,
    windows,
)
from analyses.material.draws import draw_table
from analyses.material.flows import condition_flow
from analyses.material.problems import SourceSettings, read_items
from analyses.running.runner import run_analysis
from analyses.running.settings import parse
from step_saliency.diagnosis import Bands
from step_saliency.intervene import OddsEqualBridge
from tests.shuffled import (
    BOUNDS,
    binary_sets,
    rejected,
    valued_sets,
)

FAST: dict[str, Any] = {"n_resamples": 50, "n_permutations": 499}


@pytest.fixture(scope="module")
def model() -> Any:
    return ss.load_model("reasoner")


def frame(rows: Mapping[str, np.ndarray], about: Mapping[str, Condition]) -> pd.DataFrame:
    """One answer per problem and condition."""
    tables = [
        pd.DataFrame({"problem": [f"p{i}" for i in range(len(right))], "is_correct": right}).assign(
            sample=0, oeb_layers="", smi_layers="", **about[name].columns()
        )
        for name, right in rows.items()
    ]
    return pd.concat(tables, ignore_index=True)


ABOUT = {c.name: c for c in conditions(8)}


def test_layers_of_bands_by_hand() -> None:
    assert layers_in("quarter", 8) == ((0, 1), (6, 7))
    assert layers_in("third", 8) == ((0, 1, 2), (5, 6, 7))
    assert layers_in("half", 8) == ((0, 1, 2, 3), (4, 5, 6, 7))
    assert layers_in("window-3", 8) == ((3, 4), (3, 4))
    found = Bands(shallow=(0,), middle=(1, 2, 3, 4, 5), deep=(6, 7))
    assert layers_in("automatic", 8, automatic=found) == ((0,), (6, 7))
    for seed in range(5):
        shallow, deep = layers_in("random", 8, seed=seed)
        assert len(shallow) == len(deep) == 2
        assert not {0, 1} & set(shallow)
        assert not {6, 7} & set(deep)
    covered = {layer for name in windows(30) for layer in layers_in(name, 30)[0]}
    assert covered == set(range(30))


@pytest.mark.parametrize("name", ["fifth", "window-7", "window-x", "automatic"])
def test_unknown_bands_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="unknown"):
        layers_in(name, 8)


def test_strengths_of_no_set_have_names_too() -> None:
    _, tau, alpha = conditions(8, "oeb-tau-0.2,smi-alpha-0.17")
    assert (tau.edit, tau.tau_max, tau.group) == ("oeb", 0.2, "tau_max")
    assert (alpha.edit, alpha.alpha, alpha.group) == ("smi", 0.17, "alpha")
    for name in ("smi-alpha-0.170", "smi-alpha-", "both-tau-0.2"):
        with pytest.raises(ValueError, match="unknown"):
            conditions(8, name)


def test_placebos_of_both_halves_are_those_of_each_half(model: Any) -> None:
    """Each half is matched once for all conditions that have it."""
    settings = AblationSettings(n=2, n_matching=2)
    names = "oeb-bridge-kl,smi-direction-kl,both-bridge-direction-kl"
    oeb, smi, both = (flows.model_flow(model, c, settings) for c in conditions(8, names)[1:])
    assert both.oeb is oeb.oeb
    assert both.smi is smi.smi
    other = flows.model_flow(model, conditions(8, "oeb-bridge-kl")[1], replace(settings, seed=1))
    assert other.oeb is not oeb.oeb


def test_flows_of_conditions() -> None:
    flows = {c.name: condition_flow(c, 8) for c in (*METHODS, *PLACEBOS) if c.placebo != "other"}
    assert flows[BASELINE] is None
    both = flows["both"]
    assert both is not None
    assert both.oeb is not None
    assert both.smi is not None
    assert (both.oeb.layers, both.smi.layers) == ((0, 1), (6, 7))
    oeb, smi = flows["oeb"], flows["smi"]
    assert oeb is not None
    assert oeb.smi is None
    assert smi is not None
    assert smi.oeb is None
    smooth, moved = flows["oeb-smooth"], flows["smi-boundaries"]
    assert smooth is not None
    assert smooth.oeb is not None
    assert smooth.oeb.placebo == "smooth"
    assert moved is not None
    assert moved.smi is not None
    assert moved.smi.boundaries == "random"
    assert condition_flow(Condition("x", edit="oeb", tau_max=0.0), 8) is None
    with pytest.raises(ValueError, match="edit='half'"):
        condition_flow(Condition("x", edit="half"), 8)


def test_matched_placebos_have_the_dose_on_other_problems(model: Any) -> None:
    """Mean KL of rows moved, on solutions that took no part in matching; others have less."""
    matched = conditions(8, "oeb-bridge-kl,smi-boundaries-kl")[1:]
    some = [ABOUT["oeb"], ABOUT["oeb-bridge"], matched[0], ABOUT["smi"], matched[1]]
    settings = AblationSettings(n=16)
    items = read_items(settings)
    table = dose_table(doses(model, items, some, settings)).set_index("condition")
    kl = table["kl"]
    assert kl["oeb-bridge-kl"] == pytest.approx(kl["oeb"], rel=0.05)
    assert kl["oeb-bridge"] < 0.9 * kl["oeb"]
    rows = table["rows_shifted"]
    assert rows["oeb-bridge-kl"] == pytest.approx(rows["oeb"], rel=0.05)
    assert rows["oeb-bridge"] < 0.6 * rows["oeb"]
    assert table["match"].fillna("").tolist() == ["", "mass", "kl", "", "kl"]
    ratio = table["dose_ratio"]
    assert ratio["oeb-bridge"] == pytest.approx(kl["oeb-bridge"] / kl["oeb"])
    assert ratio["smi-boundaries-kl"] == pytest.approx(1, abs=0.05)
    assert ratio[["oeb", "smi"]].isna().all()
    moved = table["moved_ratio"]
    assert moved["oeb-bridge"] == pytest.approx(rows["oeb-bridge"] / rows["oeb"])
    injections = table["injections"]
    assert moved["smi-boundaries-kl"] == injections["smi-boundaries-kl"] / injections["smi"] < 1
    assert moved[["oeb", "smi"]].isna().all()


def test_no_solutions_are_written_for_the_doses_of_no_edit(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(
        material_doses, "solution_traces", lambda _model, items, _settings: asked.append(len(items))
    )
    settings = AblationSettings(n=2)
    assert doses(model, read_items(settings), [ABOUT[BASELINE]], settings).empty
    assert not asked


def test_a_placebo_of_both_has_the_dose_of_each_half(model: Any) -> None:
    settings = AblationSettings(n=16)
    some = conditions(8, "both,both-bridge-direction-kl,both-layers-kl")
    table = dose_table(doses(model, read_items(settings), some, settings))
    fakes = table[table["placebo"].notna()]
    assert len(fakes) == 4
    assert fakes["dose_ratio"].to_numpy() == pytest.approx(1, abs=0.1)
    of_kinds = condition_flow(replace(some[2], match="mass"), 8)
    assert of_kinds is not None
    assert of_kinds.oeb is not None
    assert of_kinds.smi is not None
    assert (of_kinds.oeb.placebo, of_kinds.smi.momentum) == ("random", "random")
    assert (of_kinds.oeb.layers, of_kinds.smi.layers) == ((0, 1), (6, 7))


def test_condition_sets() -> None:
    drawn = conditions(8, "draws")
    assert len(drawn) == 4 + 3 * 20
    assert len({(c.placebo, c.seed) for c in drawn if c.placebo}) == 60
    assert all(c.match == "kl" for c in conditions(8, "matched") if c.placebo)
    assert [c.name for c in conditions(8, "oeb-smooth")] == [BASELINE, "oeb-smooth"]
    names = [c.name for c in conditions(8)]
    assert len(set(names)) == len(names)
    assert "oeb-window-0" not in names  # the quarter itself
    alike = [replace(c, name="", group="") for c in conditions(8)]
    assert len(set(alike)) == len(alike)  # no condition twice under two names
    with pytest.raises(ValueError, match="nonsense"):
        conditions(8, "nonsense")


def test_planted_correction_is_counted_and_found() -> None:
    base = np.arange(200) < 120
    better = base.copy()
    better[120:150] = True  # corrects 30
    better[:5] = False  # breaks 5
    values = frame({BASELINE: base, "oeb": better, "smi": base}, ABOUT)
    table = effects(values, **FAST).set_index("condition")
    row = table.loc["oeb"]
    assert (row["corrected"], row["broken"], row["n_pairs"]) == (30, 5, 200)
    assert row["estimate"] == pytest.approx(25 / 200)
    assert row["lower"] > 0
    assert row["p_holm"] < 0.01
    same = table.loc["smi"]
    assert (same["estimate"], same["corrected"], same["broken"]) == (0, 0, 0)
    assert same["p"] == 1
    assert same["p_equivalent"] < 0.05


def test_placebo_that_does_as_much_leaves_nothing() -> None:
    base = np.arange(200) < 100
    better = np.arange(200) < 130
    values = frame({BASELINE: base, "oeb": better, "oeb-bridge": better}, ABOUT)
    assert against_placebos(values, **FAST)["estimate"].tolist() == [0]
    values = frame({BASELINE: base, "oeb": better, "oeb-bridge": base}, ABOUT)
    table = against_placebos(values, **FAST)
    assert table["estimate"].tolist() == [pytest.approx(0.15)]
    assert table["p"].item() < 0.01


def test_an_edit_among_draws_of_its_placebo_by_hand() -> None:
    columns = ["condition", "edit", "placebo", "match", "is_correct"]
    plain = [("baseline", "none", None, None, True), ("oeb", "oeb", None, None, True)]
    plain += [("oeb", "oeb", None, None, False)]
    rights = [(True, True), (True, False), (False, False)]
    drawn = [
        (f"oeb-bridge-kl-{i}", "oeb", "bridge", "kl", right)
        for i, pair in enumerate(rights)
        for right in pair
    ]
    lone = [("smi-direction-kl", "smi", "direction", "kl", True)]
    (row,) = draw_table(pd.DataFrame([*plain, *drawn, *lone], columns=columns)).to_dict("records")
    assert (row["condition"], row["placebo"], row["n_draws"]) == ("oeb", "bridge", 3)
    assert (row["real"], row["mean"], row["lowest"], row["highest"]) == (0.5, 0.5, 0.0, 1.0)
    assert row["spread"] == pytest.approx(0.5)
    assert row["p"] == 3 / 4
    assert draw_table(pd.DataFrame(plain, columns=columns)).empty


def test_interaction_is_zero_where_effects_add_up() -> None:
    at = np.arange(100)
    rows = {BASELINE: at < 50, "oeb": at < 60, "smi": (at < 50) | (at >= 90)}
    rows["both"] = rows["oeb"] | rows["smi"]
    assert interaction(frame(rows, ABOUT), **FAST)["estimate"].item() == pytest.approx(0)
    rows["both"] = rows["both"] | (at >= 80)
    assert interaction(frame(rows, ABOUT), **FAST)["estimate"].item() == pytest.approx(0.1)


def test_slope_of_a_linear_dose_response() -> None:
    at = np.arange(100)
    doses = {BASELINE: 0.0, "oeb": 0.15, "oeb-tau-0.3": 0.3, "oeb-tau-0.6": 0.6}
    rows = {name: at < 80 - 100 * dose for name, dose in doses.items()}
    table = trends(frame(rows, ABOUT), **FAST)
    assert table["dose"].tolist() == ["tau_max"]
    assert table["estimate"].item() == pytest.approx(-1.0)


@pytest.mark.nightly
def test_false_positive_rate() -> None:
    names = [BASELINE, "oeb", "smi", "both"]

    def p_values(values: pd.DataFrame) -> np.ndarray:
        whole = described(values)
        table = effects(whole, **FAST)
        return np.append(table["p"].to_numpy(), interaction(whole, **FAST)["p"])

    assert BOUNDS[0] <= rejected(binary_sets(names), p_values) <= BOUNDS[1]


def described(values: pd.DataFrame) -> pd.DataFrame:
    about = pd.DataFrame([ABOUT[name].columns() for name in values["condition"].unique()])
    return values.merge(about, on="condition").assign(oeb_layers="", smi_layers="")


@pytest.mark.nightly
def test_power_for_gains_of_the_size_that_the_paper_reports() -> None:
    """1,000 greedy answers, 3.5% corrected and 1% broken: 2.5 points, as OEB alone on AIME 2025.

    Held against a placebo that corrects and breaks 1% each, the same gain is found as well.
    """
    rng = np.random.default_rng(7)
    found = []
    for _ in range(60):
        right = rng.random(1000) < 0.72
        draw, other = rng.random((2, 1000))
        helped = np.where(right, draw > 0.01 / 0.72, draw < 0.035 / 0.28)
        moved = np.where(right, other > 0.01 / 0.72, other < 0.01 / 0.28)
        values = frame({BASELINE: right, "oeb": helped, "oeb-bridge": moved}, ABOUT)
        gain = effects(values, **FAST).set_index("condition").loc["oeb", "p"]
        left = against_placebos(values, **FAST)["p"].item()
        found.append([gain <= 0.05, left <= 0.05])
    power = np.mean(found, axis=0)
    assert power[0] > 0.8
    assert power[1] > 0.7


@pytest.mark.nightly
def test_false_positive_rate_among_draws() -> None:
    """An edit like any of 20 draws is the best of them once in 21 times; ties count for draws."""
    draws = {f"draw-{i}": {"edit": "oeb", "placebo": "bridge", "match": "kl"} for i in range(20)}
    about = pd.DataFrame({"oeb": {"edit": "oeb", "placebo": None, "match": None}, **draws}).T

    def p_values(frame: pd.DataFrame) -> np.ndarray:
        return draw_table(frame.join(about, on="condition"))["p"].to_numpy()

    sets = binary_sets([*about.index], n_problems=200, n_sets=1000)
    assert BOUNDS[0] <= rejected(sets, p_values) <= BOUNDS[1]


@pytest.mark.nightly
def test_false_positive_rate_of_contrasts_with_placebos() -> None:
    names = [BASELINE, "oeb", "smi", *CORE_PLACEBOS]
    # fewer answers that differ make the test conservative: their sum takes few values
    sets = binary_sets(names, n_problems=200, samples=2, alike=0.5, seed=1)

    def p_values(values: pd.DataFrame) -> np.ndarray:
        return against_placebos(described(values), **FAST)["p"].to_numpy()

    assert BOUNDS[0] <= rejected(sets, p_values) <= BOUNDS[1]


@pytest.mark.nightly
def test_false_positive_rate_of_trends() -> None:
    names = [BASELINE, "oeb", "smi", "oeb-tau-0.3", "oeb-tau-0.6", "smi-alpha-0.25"]
    # with 200 sets, rates of both doses, which share their baseline, lie within 0.025 to 0.075
    sets = binary_sets(names, n_problems=200, samples=2, alike=0.5, seed=1, n_sets=1000)

    def p_values(values: pd.DataFrame) -> np.ndarray:
        draws = {**FAST, "n_resamples": 2}
        return trends(described(values), **draws)["p"].to_numpy()

    assert BOUNDS[0] <= rejected(sets, p_values) <= BOUNDS[1]


@pytest.mark.nightly
def test_false_positive_rate_of_gold_losses() -> None:
    def p_values(values: pd.DataFrame) -> np.ndarray:
        whole = described(values).rename(columns={"value": "loss"})
        whole["answer_loss"] = whole["loss"].where(whole["loss"] > 1)  # some have no summary
        return loss_effects(whole, **FAST)["p"].to_numpy()

    rate = rejected(valued_sets([BASELINE, "oeb", "smi"]), p_values)
    assert BOUNDS[0] <= rate <= BOUNDS[1]


@pytest.mark.nightly
def test_false_positive_rate_of_gold_losses_against_placebos() -> None:
    def p_values(values: pd.DataFrame) -> np.ndarray:
        whole = described(values).rename(columns={"value": "loss"})
        whole["answer_loss"] = whole["loss"].where(whole["loss"] > 1)
        return losses_against_placebos(whole, **FAST)["p"].to_numpy()

    names = ["oeb", "smi", *CORE_PLACEBOS]
    assert BOUNDS[0] <= rejected(valued_sets(names, seed=5), p_values) <= BOUNDS[1]


def test_gold_losses_are_held_against_their_own_placebos() -> None:
    shift = {"oeb": 0.5, "oeb-bridge": 0.2, "smi": 0.1, "smi-boundaries": 0.1}
    rows = [
        {"problem": f"p{i}", "condition": name, "value": i + more}
        for i in range(8)
        for name, more in shift.items()
    ]
    whole = described(pd.DataFrame(rows)).rename(columns={"value": "loss"})
    table = losses_against_placebos(whole.assign(answer_loss=whole["loss"]), **FAST)
    assert list(zip(table["condition"], table["reference"], table["outcome"], strict=True)) == [
        (edit, placebo, outcome)
        for edit, placebo in (("oeb", "oeb-bridge"), ("smi", "smi-boundaries"))
        for outcome in ("loss", "answer_loss")
    ]
    assert table["estimate"].tolist() == pytest.approx([0.3, 0.3, 0, 0])
    assert losses_against_placebos(whole[whole["placebo"].isna()], **FAST).empty


def test_equivalence_is_claimed_five_percent_of_the_time_where_the_effect_is_the_margin() -> None:
    def sets() -> Iterator[pd.DataFrame]:
        rng = np.random.default_rng(2)
        for values in binary_sets([BASELINE, "oeb"], n_problems=800, samples=1, alike=0.9):
            raised = (values["condition"] == "oeb") & ~values["is_correct"]
            share = ablation.MARGIN * 800 / raised.sum()
            values["is_correct"] |= raised & (rng.random(len(values)) < share)
            yield described(values)

    def p_values(values: pd.DataFrame) -> np.ndarray:
        return ablation._equivalent(values)["p_equivalent"].to_numpy()

    assert BOUNDS[0] <= rejected(sets(), p_values) <= BOUNDS[1]


def test_conditions_share_problems_and_random_numbers(model: Any) -> None:
    settings = AblationSettings(n=4, temperature=1.0, samples=2)
    items = read_items(settings)
    _, whole = answers(model, items, None, settings)
    _, part = answers(model, items[2:], None, settings)
    pd.testing.assert_frame_equal(whole.iloc[4:].reset_index(drop=True), part)
    idle = OddsEqualBridge([0, 1], tau_max=0.0)
    _, idle_answers = answers(model, items, idle, settings)
    pd.testing.assert_frame_equal(whole, idle_answers)


def test_strong_bridge_raises_the_gold_loss(model: Any) -> None:
    items = read_items(AblationSettings(n=4))
    plain = gold_losses(model, items, None)
    weak = gold_losses(model, items, OddsEqualBridge([0, 1], tau_max=0.0))
    strong = gold_losses(model, items, OddsEqualBridge([0, 1], tau_max=0.9))
    pd.testing.assert_frame_equal(plain, weak)
    assert (strong["loss"] > plain["loss"] + 0.1).all()
    trace = items[0].problem.trace(model.tokenizer)  # type: ignore[union-attr]
    own = token_losses(model, trace, None)
    logits = model(trace.tokens[None])[0, :-1].log_softmax(-1)
    by_hand = -logits.gather(1, trace.tokens[1:, None])[:, 0]
    assert own.detach().numpy() == pytest.approx(by_hand.detach().numpy(), abs=1e-4)


SMALL = ["--n", "4", "--chunk", "2", "--n-losses", "2", "--conditions", "oeb-tau-0.6"]


@pytest.mark.nightly
def test_kill_in_the_middle_loses_nothing(model: Any, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "analyses.ablation", *SMALL, "--no-progress"]
    killed = subprocess.Popen(
        [*command, "--out", str(tmp_path / "a")],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    parts = tmp_path / "a" / "parts"
    while killed.poll() is None and not list(parts.glob("*.parquet")):
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert list(parts.glob("*.parquet"))
    settings = parse(AblationSettings, *SMALL)
    again, whole = (
        run_analysis(ablation.ANALYSIS, settings, out=tmp_path / x, model=model, progress=False)
        for x in "ab"
    )
    assert again.skipped >= 1
    assert again.computed + again.skipped == whole.computed
    for name in ("values", "summary", "losses"):
        left, right = (pd.read_parquet(tmp_path / x / f"{name}.parquet") for x in "ab")
        pd.testing.assert_frame_equal(left, right)


def test_seed_of_the_draws_changes_intervals_alone() -> None:
    rng = np.random.default_rng(0)
    rows = {BASELINE: rng.random(50) < 0.6, "oeb": rng.random(50) < 0.7}
    values = frame(rows, ABOUT)
    one, other = (effects(values, seed=seed, **FAST) for seed in (0, 1))
    drawn = ["lower", "upper", "p", "p_holm"]
    pd.testing.assert_frame_equal(one.drop(columns=drawn), other.drop(columns=drawn))
    assert not one[drawn].equals(other[drawn])


def test_a_depth_that_is_not_the_models_is_refused(model: Any) -> None:
    settings = AblationSettings(n=1, depth=12)
    with pytest.raises(ValueError, match="depth=12: the model has 8 layers"):
        ablation.run_unit(model, ablation.units(settings)[0], settings)


def test_rows_that_are_answered_set_up_no_condition(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    rows = [{"asks": f"How many is {i}?", "key": str(i)} for i in range(20)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = SourceSettings(data=str(file), n=12, field="question=asks,gold=key")
    others = flows._other_rows(settings)
    assert [item.number for item in others] == list(range(12, 20))
    assert others[0].question == "How many is 12?"
    with pytest.raises(ValueError, match=r"n=20: .* has no other rows"):
        flows._other_rows(replace(settings, n=20))


def test_units_are_the_same_whatever_the_number_of_problems() -> None:
    units = ablation.units(AblationSettings(n=500))
    fewer = ablation.units(AblationSettings(n=250))
    assert {u.name for u in fewer} <= {u.name for u in units}
    assert replace(units[0]).payload[2].name == BASELINE


def test_fewer_answers_leave_losses_and_doses_whole() -> None:
    settings = AblationSettings(n=200, n_answers=100, n_losses=200, n_doses=150, chunk=50)
    spans: dict[str, list[tuple[int, int]]] = {}
    for unit in ablation.units(settings):
        kind, span, condition = unit.payload
        if condition.name == BASELINE:
            spans.setdefault(kind, []).append(span)
    assert spans["answers"] == [(0, 50), (50, 100)]
    assert spans["losses"] == [(0, 50), (50, 100), (100, 150), (150, 200)]
    assert spans["doses"] == [(0, 50), (50, 100), (100, 150)]
