"""Indices around the first wrong step: what is planted is found at its place, and nowhere else."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import step_saliency as ss
from analyses.instruments.step_maps import READINGS, step_map
from analyses.material.answers import answers
from analyses.material.problems import read_items
from analyses.material.worked import Rule, first_wrong_of
from analyses.mediation import around as around_module
from analyses.mediation.around import (
    SUMMARY_ERROR,
    WHOLE,
    AroundSettings,
    around,
    around_table,
    step_rows,
    summarise,
    units,
)
from analyses.running.settings import parse
from step_saliency.tasks import make_problems
from step_saliency.trace import Region
from tests.shuffled import N_SETS, rejected, within_bounds

FAST: dict[str, Any] = {"n_resamples": 50, "n_permutations": 499}


def answers_of(
    rng: np.random.Generator,
    *,
    n_problems: int = 60,
    samples: int = 8,
    n_steps: int = 6,
    planted: dict[str, float] | None = None,
    levels: float = 0.5,
) -> pd.DataFrame:
    """Indices of answers that go wrong at random, raised where something is planted."""
    shape = (n_problems, samples, n_steps)
    lock_in = levels * rng.normal(size=(n_problems, 1, 1)) + rng.lognormal(sigma=0.5, size=shape)
    lock_in += np.linspace(0, 2, n_steps)  # drifts with the step
    wrong = rng.integers(1, n_steps, shape[:2])
    is_wrong = rng.random(shape[:2]) < 0.4
    step = np.broadcast_to(np.arange(n_steps), shape)
    for place, size in (planted or {}).items():
        at = {"before": step < wrong[..., None], "at": step == wrong[..., None],
              "after": step > wrong[..., None]}[place]  # fmt: skip
        lock_in = lock_in + size * (at & is_wrong[..., None])
    problem, sample, _ = np.indices(shape)
    frame = pd.DataFrame(
        {
            "problem": [f"p{i}" for i in problem.ravel()],
            "sample": sample.ravel(),
            "reading": "loss",
            "is_correct": np.repeat(~is_wrong.ravel(), n_steps),
            "n_steps": n_steps,
            "step": step.ravel(),
            "lock_in": lock_in.ravel(),
            "reach": rng.normal(size=lock_in.size),
            "decay": np.nan,
        }
    )
    means = frame.groupby(["problem", "sample"], sort=False)[["lock_in", "reach"]].mean()
    about = frame.drop_duplicates(["problem", "sample"]).drop(columns=["lock_in", "reach"])
    whole = about.assign(step=WHOLE).merge(means.reset_index(), on=["problem", "sample"])
    level = levels * rng.normal(size=n_problems).repeat(samples)
    whole["decay"] = level + rng.normal(size=len(whole))
    first = np.where(is_wrong, wrong, -1).ravel()
    frame = pd.concat([frame, whole], ignore_index=True)
    return frame.assign(
        first_wrong_step=pd.array([*first.repeat(n_steps), *first], dtype="Int64")
    ).assign(
        first_wrong_step=lambda rows: rows["first_wrong_step"].mask(rows["first_wrong_step"] < 0)
    )


@pytest.mark.parametrize("place", ["before", "at", "after"])
def test_what_is_planted_is_found_at_its_place_alone(place: str) -> None:
    values = answers_of(np.random.default_rng(3), planted={place: 0.6})
    table = around_table(values, **FAST).set_index(["index", "control", "place"]).sort_index()
    for control in ("risk set", "index"):
        rows = table.loc[("lock_in", control)]
        assert rows.loc[place, "lower"] > 0.2
        assert rows.loc[place, "estimate"] == pytest.approx(0.6, abs=0.25)
        for other in {"before", "at", "after"} - {place}:
            assert abs(rows.loc[other, "estimate"]) < 0.3
    assert (table.loc["reach", "p_holm"] > 0.01).all()


def test_an_index_that_drifts_alike_differs_nowhere_whatever_the_lengths() -> None:
    """Rows are held against the same rows: controls end sooner or later than errors."""
    lengths = {0: (6, 4), 1: (3, None), 2: (8, None), 3: (7, 2)}
    rows = [
        {"problem": problem, "sample": sample, "reading": "loss", "n_steps": n_steps,
         "is_correct": first is None, "first_wrong_step": first, "step": step,
         "lock_in": 0.1 * step, "reach": 0.2 * step, "decay": np.nan}
        for problem in ("a", "b", "c")
        for sample, (n_steps, first) in lengths.items()
        for step in range(n_steps)
    ]  # fmt: skip
    values = pd.DataFrame(rows).astype({"first_wrong_step": "Int64"})
    table = around_table(values, **FAST)
    found = table[table["place"].isin(["before", "at", "after"]) & table["estimate"].notna()]
    assert len(found) == 12
    assert found["estimate"].to_numpy() == pytest.approx(0, abs=1e-12)


def test_whole_answers_are_held_against_those_of_as_many_steps() -> None:
    """Errors are shorter, and the index grows along an answer: as long ones do not differ."""
    lengths = {0: (4, 2), 1: (4, None), 2: (8, None), 3: (9, None), 4: (6, 1)}
    rows = [
        {"problem": problem, "sample": sample, "reading": "loss", "n_steps": n_steps,
         "is_correct": first is None, "first_wrong_step": first, "step": step,
         "lock_in": lock_in, "reach": 2 * lock_in, "decay": 0.3 * n_steps}
        for problem in ("a", "b", "c")
        for sample, (n_steps, first) in lengths.items()
        for step, lock_in in [*((i, 0.1 * i) for i in range(n_steps)), (WHOLE, 0.05 * n_steps)]
    ]  # fmt: skip
    values = pd.DataFrame(rows).astype({"first_wrong_step": "Int64"})
    table = around_table(values, **FAST).set_index(["control", "place", "index"]).sort_index()
    whole = table.loc[("risk set", "whole")]
    assert whole["estimate"].to_numpy() == pytest.approx([0, 0, 0], abs=1e-12)
    assert (whole["n"] == 3).all(), "the error of six steps has no control"


def test_answers_that_went_wrong_before_are_no_controls() -> None:
    """By hand: one error at step 2; of its controls one is right and one goes wrong at step 3."""
    rows = []
    for problem in ("a", "b"):
        for sample, first, values in (
            (0, 2, [0, 1, 5, 7]),
            (1, None, [0, 2, 3, 4]),
            (2, 3, [0, 4, 2, 9]),
            (3, 1, [0, 90, 90, 90]),
        ):
            rows += [
                {"problem": problem, "sample": sample, "reading": "loss", "n_steps": 4,
                 "is_correct": first is None, "first_wrong_step": first, "step": step,
                 "lock_in": float(value), "reach": np.nan, "decay": np.nan}
                for step, value in enumerate(values)
            ]  # fmt: skip
    values = pd.DataFrame(rows).astype({"first_wrong_step": "Int64"})
    only = values[~((values["sample"] > 1) & (values["problem"] == "b"))]
    table = around_table(only, **FAST)
    found = table[table["control"] == "risk set"].set_index("place")["estimate"]
    # a: errors at 2, 3 and 1; b: at 2 alone
    at = {"a": [5 - (3 + 2) / 2, 9 - 4, 90 - (1 + 2 + 4) / 3], "b": [5 - 3]}
    after = {"a": [7 - 4, 90 - (3 + 4) / 2], "b": [7 - 4]}
    for place, by_problem in (("at", at), ("after", after)):
        expected = np.mean([np.mean(of_problem) for of_problem in by_problem.values()])
        assert found[place] == pytest.approx(expected)


def test_summary_errors_are_compared_alone_and_corrected_alone() -> None:
    """By hand: of two thinking steps, so that a first wrong step of 2 or 3 is in the summary."""
    answers = {
        ("a", 0): (2, 0.1),
        ("a", 1): (3, 0.4),
        ("a", 2): (1, -5.0),  # wrong in the thinking: neither an error here nor a control
        ("a", 3): (None, 0.5),
        ("a", 4): (None, 0.7),
        ("b", 0): (3, 0.3),
        ("b", 1): (None, 0.2),
        ("c", 0): (1, 9.0),
        ("c", 1): (None, 0.0),
    }
    rows = [
        {"problem": problem, "sample": sample, "reading": "loss", "n_steps": 2,
         "is_correct": first is None, "first_wrong_step": first, "step": step,
         "lock_in": np.nan, "reach": np.nan, "decay": decay if step == WHOLE else np.nan}
        for (problem, sample), (first, decay) in answers.items()
        for step in (0, 1, WHOLE)
    ]  # fmt: skip
    values = pd.DataFrame(rows).astype({"first_wrong_step": "Int64"})
    table = around_table(values, **FAST).set_index(["place", "control"])
    of_a, of_b = np.mean([0.1 - 0.6, 0.4 - 0.6]), 0.3 - 0.2
    alone = table.loc[(SUMMARY_ERROR, "risk set")]
    assert alone["estimate"] == pytest.approx((of_a + of_b) / 2)
    assert alone["n"] == 2
    assert alone["p_holm"] == alone["p"]
    others = np.mean([0.1 - 0.2 / 2, 0.4 - 0.2 / 2]), 0.3 - (0.5 + 0.7 + 0.0) / 3
    assert table.loc[(SUMMARY_ERROR, "index"), "estimate"] == pytest.approx(np.mean(others))
    assert table.loc[("whole", "risk set"), "estimate"] != alone["estimate"]
    in_thinking = values[values["first_wrong_step"].fillna(1) < 2]
    assert SUMMARY_ERROR not in set(around_table(in_thinking, **FAST)["place"])


@pytest.mark.nightly
def test_power_for_a_difference_of_half_a_standard_deviation() -> None:
    """Planted in the row that decides the first wrong step, as large as lock-in is said to be."""
    rng = np.random.default_rng(8)
    found = []
    for _ in range(40):
        table = around_table(answers_of(rng, n_problems=60, planted={"at": 0.3}), **FAST)
        rows = table.query("index == 'lock_in' and control == 'risk set'").set_index("place")
        found.append(rows.loc["at", "p"] <= 0.05)
    assert np.mean(found) > 0.8


@pytest.mark.nightly
@pytest.mark.parametrize("levels", [0.0, 0.5, 2.0])
def test_false_positive_rates(levels: float) -> None:
    """Indices drift with the step, problems differ, errors come at random.

    Rates are taken over indices and places: 200 sets tell a single one to 1.5 points only.
    """
    rng = np.random.default_rng(5)
    tables = [
        around_table(answers_of(rng, n_problems=40, samples=6, levels=levels), **FAST)
        for _ in range(N_SETS)
    ]
    rates = {
        control: rejected(
            iter(tables),
            lambda table, control=control: table.loc[  # type: ignore[misc]
                table["control"] == control, "p"
            ].to_numpy(),
        )
        for control in ("risk set", "index")
    }
    assert within_bounds(rates), rates


def test_controls_from_other_problems_by_hand() -> None:
    """Mean over problems of error minus other problems' controls; who is a control only counts."""
    rng = np.random.default_rng(1)
    values = answers_of(rng, n_problems=7, samples=3, n_steps=4, levels=3.0)
    table = around_table(values, **FAST).set_index(["index", "control", "place"]).sort_index()
    steps = values.set_index(["problem", "sample", "step"])["lock_in"]
    first = values.drop_duplicates(["problem", "sample"]).set_index(["problem", "sample"])
    first_wrong = first["first_wrong_step"]
    by_problem: dict[str, list[float]] = {}
    for (problem, sample), k in first_wrong.dropna().items():
        controls = [
            steps[other, number, k]
            for (other, number), at in first_wrong.items()
            if other != problem and (pd.isna(at) or at > k)
        ]
        if controls:
            difference = steps[problem, sample, k] - np.mean(controls)
            by_problem.setdefault(problem, []).append(difference)
    expected = np.mean([np.mean(of_problem) for of_problem in by_problem.values()])
    found = table.loc[("lock_in", "index", "at")]
    assert found["estimate"] == pytest.approx(expected)
    assert found["n"] == 7


@pytest.fixture(scope="module")
def model() -> Any:
    return ss.load_model("reasoner")


def test_readings_are_maps_of_one_pooling(model: Any) -> None:
    trace = make_problems(1, level="easy")[0].trace(model.tokenizer)
    maps = {reading: step_map(model, trace, reading, rows="target") for reading in READINGS}
    patterns: list[torch.Tensor] = []
    with model.hooks(
        fwd_hooks=[("blocks.2.attn.hook_pattern", lambda p, hook: patterns.append(p[0].mean(0)))]
    ):
        model(trace.tokens[None])
    own, earlier = trace.steps[-2], trace.steps[-4]
    rows = slice(own.start - 1, own.stop - 1)  # filed by the token that is predicted
    expected = patterns[0][rows, earlier.start : earlier.stop].detach().mean()
    row, key = len(trace.steps) - 2, len(trace.steps) - 4
    assert float(maps["attention"].maps[2, row, key]) == pytest.approx(float(expected), rel=1e-4)
    assert len({float(saliency.maps.sum()) for saliency in maps.values()}) == 3
    for saliency in maps.values():
        frame = step_rows(saliency)
        thinking = trace.region_steps(Region.THINKING)
        assert frame["step"].tolist() == [*range(len(thinking)), WHOLE]
        assert frame["lock_in"].iloc[1:].notna().all()
        assert frame["reach"].iloc[1:].between(0, 1).all()


def test_a_small_run(model: Any) -> None:
    settings = parse(AroundSettings, "--n", "2", "--level", "medium")
    values = around(model, read_items(settings), settings, samples=2)
    assert set(values["reading"]) == set(READINGS)
    assert values.groupby(["problem", "sample"])["first_wrong_step"].nunique().max() <= 1
    around_table(values, **FAST)
    written = around(model, read_items(settings), settings, samples=2, written_only=True)
    pd.testing.assert_frame_equal(written, values, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("rule", ["first off", "last on"])
def test_rows_of_a_file_go_wrong_where_their_worked_solution_says(
    rule: Rule, model: Any, tmp_path: Path
) -> None:
    problem = make_problems(1)[0]
    solution = "It is 2 + 3 = <<2+3=5>>5.\n#### 5"
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"question": problem.question, "answer": solution}) + "\n")
    settings = parse(AroundSettings, "--data", str(file), "--n", "1", "--rule", rule)
    items = read_items(settings)
    other: Rule = "last on" if rule == "first off" else "first off"
    values = around(
        model,
        items,
        settings,
        samples=2,
        temperature=0.5,
        readings=["attention"],
        rule=rule,
        second_rule=other,
    )
    written, graded = answers(model, items, None, replace(settings, samples=2, temperature=0.5))
    assert not graded["is_correct"].any()
    for trace, (_, rows) in zip(written, values.groupby("sample"), strict=True):
        for column, by in (("first_wrong_step", rule), ("second_wrong_step", other)):
            expected = first_wrong_of(trace, problem.question, solution, by)
            n_thinking = len(trace.region_steps(Region.THINKING))
            assert rows[column].unique().tolist() == [n_thinking if expected is None else expected]
    assert len(units(settings)) == 1


def test_a_wrong_answer_in_order_is_wrong_in_its_summary_and_no_control(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worked solution that has all its numbers names no step."""
    file = tmp_path / "rows.jsonl"
    row = {"question": make_problems(1)[0].question, "answer": "<<2+3=5>>5.\n#### 5"}
    file.write_text(json.dumps(row) + "\n")
    settings = parse(AroundSettings, "--data", str(file), "--n", "1", "--rule", "last on")
    monkeypatch.setattr(around_module, "first_wrong", lambda *_: None)
    items = read_items(settings)
    options: dict[str, Any] = {"samples": 1, "readings": ["attention"]}
    values = around(model, items, settings, rule="last on", **options)
    assert not values["is_correct"].any()
    assert (values["first_wrong_step"] == values["n_steps"]).all()
    assert around(model, items, settings, **options)["first_wrong_step"].isna().all()


def test_each_rule_has_a_table_of_its_own() -> None:
    values = answers_of(np.random.default_rng(0), n_problems=12)
    settings = AroundSettings(data="rows.jsonl", rule="first off", second_rule="last on")
    values = values.assign(second_wrong_step=values["first_wrong_step"] + 1)
    tables = summarise(values, settings)
    assert set(tables) == {"summary", "second"}
    again = around_table(values.assign(first_wrong_step=values["second_wrong_step"]))
    pd.testing.assert_frame_equal(tables["second"], again)
    assert not tables["summary"].equals(tables["second"])
    assert set(summarise(values, replace(settings, second_rule=None))) == {"summary"}


def test_a_rule_that_does_not_fit_the_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="reads worked solutions of a file"):
        units(parse(AroundSettings, "--rule", "last on"))
    with pytest.raises(ValueError, match="known for the bundled task alone"):
        units(parse(AroundSettings, "--data", str(tmp_path / "rows.jsonl")))
