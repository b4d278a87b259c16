"""Worths by hand, scores by loops, continuations by calls of their own, planted agreement."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tiny import BACKENDS

import analyses.resampling
import step_saliency as ss
from analyses.instruments.step_maps import step_maps
from analyses.material.answers import greedy_answers
from analyses.material.continuations import beginnings
from analyses.material.problems import read_items
from analyses.resampling import ANALYSIS, ResamplingSettings, resampling, summarise, units
from analyses.resampling.agreement import map_scores, ranked
from analyses.resampling.worths import Drawn, is_another, worths
from analyses.running.runner import run_analysis
from step_saliency.decoding import Continuation

SETTINGS = ResamplingSettings(
    n=2, level="easy", max_new_tokens=90, rollouts=4, fork_temperature=1.0, differs="text"
)


@cache
def model() -> Any:
    return ss.load_model("reasoner", backend=BACKENDS[0])


@cache
def made() -> pd.DataFrame:
    return resampling(model(), read_items(SETTINGS), SETTINGS)


def drawn(same: str, differs: str) -> Drawn:
    """Of marks such as ``"1011"``."""
    read = [np.array([mark == "1" for mark in marks]) for marks in (same, differs)]
    return Drawn({"same": read[0]}, read[1])


def test_worths_by_hand() -> None:
    found = worths(
        {2: drawn("110010", "011010"), 3: drawn("111101", "000000"), 4: drawn("111111", "000000")},
        [2, 3],
    ).set_index(["step", "importance"])
    whole = found.loc[(2, "resample")]
    assert (whole["kept"], whole["anew"], whole["n_anew"]) == (5 / 6, 3 / 6, 6)
    assert whole["value"] == pytest.approx(2 / 6)
    assert whole["half"] == pytest.approx(2 / 3 - 2 / 3)
    assert whole["other_half"] == pytest.approx(3 / 3 - 1 / 3)
    others = found.loc[(2, "counterfactual")]  # continuations 1, 2 and 4, of which 1 and 4 agree
    assert (others["anew"], others["n_anew"]) == (2 / 3, 3)
    assert others["value"] == pytest.approx(5 / 6 - 2 / 3)
    assert others["half"] == pytest.approx(2 / 3 - 1 / 2)  # of 0, 2, 4: 2 and 4
    last = found.loc[(3, "counterfactual")]
    assert last["n_anew"] == 0
    assert np.isnan(last["value"])
    assert found.loc[(3, "resample"), "value"] == pytest.approx(1 / 6)


def test_equal_worths_are_ties() -> None:
    """17/20 - 16/20 and 3/20 - 2/20 are one worth, though not one float."""
    shares = [17 / 20 - 16 / 20, 3 / 20 - 2 / 20]
    assert shares[0] != shares[1]
    marks = {count: "1" * count + "0" * (20 - count) for count in (2, 3, 16, 17)}
    none = "0" * 20
    found = [
        worths({0: drawn(marks[low], none), 1: drawn(marks[high], none)}, [0])["value"].iloc[0]
        for low, high in ((16, 17), (2, 3))
    ]
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("new", "old", "by", "expected"),
    [
        ("So 3 + 4 = 7.", "That is 4+3=7", "numbers", False),
        ("So 3 + 4 = 8.", "So 3 + 4 = 7.", "numbers", True),
        ("So it is.", "So  it\nIS.", "numbers", False),
        ("So it is.", "So it goes.", "numbers", True),
        ("So it is.", "So 3 + 4 = 7.", "numbers", True),
        ("", "So it is.", "numbers", True),
        ("That is 4+3=7", "So 3 + 4 = 7.", "text", True),
        ("so 3 + 4 = 7.\n", "So 3 + 4 = 7.", "text", False),
    ],
)
def test_which_steps_are_another(new: str, old: str, by: Any, expected: bool) -> None:
    assert is_another(new, old, by) is expected


def test_what_steps_receive_is_the_mean_of_their_column() -> None:
    (trace, _) = greedy_answers(model(), read_items(SETTINGS), SETTINGS)
    (saliency,) = step_maps(model(), trace, ["loss"], rows="target").values()
    thinking, (summary,) = (trace.region_steps(name) for name in ("thinking", "summary"))
    found = map_scores(saliency).set_index(["step", "rows"])["value"]
    assert len(found) == 2 * len(thinking)
    for step, key in enumerate(thinking):
        later = [*thinking[step + 1 :], summary]
        columns = {
            name: np.mean([[float(layer[query, key]) for query in rows] for layer in saliency.maps])
            for name, rows in (("summary", [summary]), ("later", later))
        }
        assert columns["later"] > 0
        for name, value in columns.items():
            assert found[(step, name)] == pytest.approx(value, rel=1e-5)


def test_continuations_are_those_of_calls_of_their_own() -> None:
    """Shares of one answer at every place, with answers and steps read anew."""
    item = read_items(SETTINGS)[0]
    assert item.problem is not None
    trace = greedy_answers(model(), [item], SETTINGS)[0]
    lines = trace.response.split("</think>")[0].splitlines()
    same, another = [], []
    for place, words in enumerate(beginnings(trace)):
        alone = ss.generate(
            model(),
            [item.question],
            n=4,
            temperature=1.0,
            seed=SETTINGS.seed,
            question_numbers=[item.number],
            samples=[4 * place],
            continued=[Continuation(written=words, max_new_tokens=90 - len(words))],
            progress=False,
        )
        answer = item.problem.grade(trace.response).answer
        same.append(np.mean([item.problem.grade(one.response).answer == answer for one in alone]))
        new = [one.response.split("</think>")[0].splitlines()[place:] for one in alone]
        another.append(sum(found[:1] != lines[place : place + 1] for found in new))
    rows = made()[(made()["problem"] == item.id) & (made()["outcome"] == "same")]
    rows = rows.set_index(["importance", "step"])
    assert len(rows) == 2 * len(lines)
    for step in range(len(lines)):
        worth = rows.loc[("resample", step)]
        assert (worth["kept"], worth["anew"]) == (same[step + 1], same[step])
        assert rows.loc[("counterfactual", step), "n_anew"] == another[step]


def test_greedy_continuations_are_the_answer_and_worth_nothing() -> None:
    settings = replace(SETTINGS, fork_temperature=0.0, rollouts=2, n=1, max_steps=2)
    values = resampling(model(), read_items(settings), settings)
    rows = values[(values["kind"] == "worth") & (values["outcome"] == "same")]
    assert rows["step"].nunique() == 2
    whole = rows[rows["importance"] == "resample"]
    assert (whole["kept"] == 1).all()
    assert (whole["value"] == 0).all()
    assert (rows.loc[rows["importance"] == "counterfactual", "n_anew"] == 0).all()


def planted(*, noise: float, n_problems: int = 30) -> pd.DataFrame:
    """Steps that are worth what the loss says, which falls along the answer, and noise."""
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for number in range(n_problems):
        rows.append(
            {"problem": f"p{number}", "kind": "answer", "is_drawn": True, "is_correct": True}
        )
        truth = (rng.normal(size=8) - np.arange(8)) / 20
        for step, value in enumerate(truth):
            about = {"problem": f"p{number}", "step": step}
            halves = value + noise * rng.normal(size=2) / 20
            worth = {"kind": "worth", "importance": "resample", "outcome": "same"}
            worth |= {"value": halves.mean(), "half": halves[0], "other_half": halves[1]}
            scores = {
                ("loss", "later"): value,
                ("attention", "later"): rng.normal(),
                ("position", "none"): step,
                ("length", "none"): 7,
            }
            rows.append(about | worth)
            rows += [
                about | {"kind": "score", "score": score, "rows": of, "value": one}
                for (score, of), one in scores.items()
            ]
    return pd.DataFrame(rows)


def test_planted_agreement_is_found_and_noise_is_not() -> None:
    tables = summarise(planted(noise=0.5), SETTINGS)
    found = tables["summary"].set_index("score")
    assert "length" not in found.index  # equal for all steps, so that nothing is ranked
    assert found.loc["loss", "lower"] > 0.9
    assert found.loc["loss", "n"] == 30
    assert found.loc["position", "upper"] < -0.7
    assert found.loc["attention", "p_holm"] > 0.05
    r = found.loc["other half", "estimate"]
    assert found.loc["loss", "estimate"] == pytest.approx(np.sqrt(2 * r / (1 + r)), abs=0.03)
    rivals = tables["rivals"].set_index(["condition", "reference"])
    assert rivals.loc[("loss later", "position"), "lower"] > 0
    assert rivals.loc[("attention later", "position"), "upper"] < 0
    assert set(rivals.index.get_level_values("reference")) == {"position"}
    assert tables["counts"].to_dict("records") == [{"answers": 30, "drawn": 30, "right": 30}]


def test_rhos_that_are_equal_have_no_spread() -> None:
    """Rank correlations of -1 and 1 over 3 to 9 steps, whose last bits differ, are equal."""
    rows = []
    for number, n_steps in enumerate(range(3, 10)):
        rows.append({"problem": f"p{number}", "kind": "answer", "is_drawn": True,
                     "is_correct": True})  # fmt: skip
        for step in range(n_steps):
            about = {"problem": f"p{number}", "step": step}
            rows.append(about | {"kind": "worth", "importance": "resample", "outcome": "same",
                                 "value": step / 10, "half": step / 10,
                                 "other_half": step / 10})  # fmt: skip
            rows += [
                about | {"kind": "score", "score": score, "rows": of, "value": value}
                for score, of, value in (("loss", "later", -step), ("position", "none", step))
            ]
    (rival,) = summarise(pd.DataFrame(rows), SETTINGS)["rivals"].to_dict("records")
    assert rival["estimate"] == -2
    assert np.isnan(rival["effect_size"])


def test_answers_of_two_steps_or_of_one_worth_are_not_ranked() -> None:
    values = planted(noise=0.0, n_problems=3)
    flat = (values["kind"] == "worth") & (values["problem"] == "p1")
    values.loc[flat, ["value", "half", "other_half"]] = 0.25
    short = values[(values["problem"] != "p2") | ~(values["step"] >= 2)]
    assert set(ranked(short)["problem"]) == {"p0"}
    alone = summarise(short[short["problem"] == "p1"], SETTINGS)
    assert set(alone) == {"counts", "worth"}


def test_a_run_over_rows_of_a_file(tmp_path: Path) -> None:
    """Answers of a file are compared as they are read; one that was cut is not drawn anew."""
    file = tmp_path / "rows.jsonl"
    items = read_items(SETTINGS)
    assert items[0].problem is not None
    row = {"question": items[0].question, "answer": items[0].problem.answer}
    file.write_text(json.dumps(row) + "\n")
    settings = replace(SETTINGS, data=str(file), n=1)
    results = run_analysis(ANALYSIS, settings, out=tmp_path / "a", model=model(), progress=False)
    assert results.values is not None
    mine = made()[(made()["problem"] == items[0].id) & (made()["kind"] == "worth")]
    of_file = results.values[results.values["kind"] == "worth"]
    for name in ("kept", "anew", "n_anew", "value"):
        assert of_file[name].tolist() == pytest.approx(mine[name].tolist(), nan_ok=True)
    assert set(results.tables) >= {"counts", "worth"}
    cost = json.loads((tmp_path / "a" / "manifest.json").read_text())["cost"]
    assert cost["passes"] > 90
    short = replace(settings, max_new_tokens=10)
    cut = run_analysis(ANALYSIS, short, out=tmp_path / "b", model=model(), progress=False)
    assert cut.tables["counts"]["drawn"].tolist() == [0]


def test_continuations_that_are_cut_off_end_in_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of greedy continuations, which are the answer itself, those said to be cut count as none."""
    settings = replace(SETTINGS, fork_temperature=0.0, rollouts=4, n=1, max_steps=1)
    plain = analyses.resampling.continuations

    def cut_by_halves(*args: Any, **options: Any) -> list[list[ss.Trace]]:
        found = plain(*args, **options)
        return [
            [replace(trace, meta={**trace.meta, "finished": i < 3}) for i, trace in enumerate(some)]
            for some in found
        ]

    monkeypatch.setattr(analyses.resampling, "continuations", cut_by_halves)
    values = resampling(model(), read_items(settings), settings)
    rows = values[(values["kind"] == "worth") & (values["importance"] == "resample")]
    shares = rows.set_index("outcome")["kept"]
    assert shares["same"] == 0.75
    right = values.loc[values["kind"] == "answer", "is_correct"].iloc[0]
    assert shares["right"] == (0.75 if right else 0)


def test_settings_that_mean_nothing_here_are_refused() -> None:
    with pytest.raises(ValueError, match="continuations have --fork-temperature"):
        units(replace(SETTINGS, temperature=0.6))
