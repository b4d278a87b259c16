"""Forks: beginnings and continuations against whole edited answers, places by hand, contrasts."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
from tiny import BACKENDS

import step_saliency as ss
from analyses.fork_points import (
    ANALYSIS,
    ANY,
    ForkPointSettings,
    contrasts,
    first_errors,
    fork_points,
    states,
    summarise,
    units,
)
from analyses.material.answers import greedy_answers
from analyses.material.conditions import BASELINE, conditions
from analyses.material.continuations import Fork, beginnings, continuations, ends_right
from analyses.material.flows import model_flow
from analyses.material.problems import Item, is_right, read_items
from analyses.running.runner import run_analysis
from step_saliency.decoding import Continuation
from step_saliency.intervene import OddsEqualBridge, StepFlow, StepMomentumInjection
from step_saliency.tasks.answers import final_answer

FAST: dict[str, Any] = {"n_resamples": 50, "n_permutations": 499}
SETTINGS = ForkPointSettings(
    n=6, level="hard", max_new_tokens=120, n_errors=2, continuations=2, fork_temperature=1.0,
    conditions="both,oeb-bridge",
)  # fmt: skip
STRONG = StepFlow(
    oeb=OddsEqualBridge([0, 1], tau_max=0.6), smi=StepMomentumInjection([6, 7], alpha=0.5)
)


@cache
def model() -> Any:
    return ss.load_model("reasoner", backend=BACKENDS[0])


def tokens_of(traces: list[ss.Trace]) -> list[list[int]]:
    return [trace.tokens.tolist() for trace in traces]


@pytest.mark.parametrize("method", ["hooks", "fast"])
def test_beginning_and_continuation_are_one_edited_answer(
    method: Literal["hooks", "fast"],
) -> None:
    """From places of two answers, token for token; without the edit they go on otherwise."""
    questions = [item.question for item in read_items(replace(SETTINGS, n=2))]
    options: dict[str, Any] = {"temperature": 0.0, "method": method, "progress": False}
    whole = ss.generate(model(), questions, flow=STRONG, max_new_tokens=90, **options)
    asked, expected, begun = [], [], []
    for question, trace in zip(questions, whole, strict=True):
        places = beginnings(trace)[::3]
        assert len(places) > 1
        asked += [question] * len(places)
        expected += [trace.tokens.tolist()] * len(places)
        begun += [Continuation(written=w, max_new_tokens=90 - len(w)) for w in places]
    options |= {"continued": begun, "question_numbers": list(range(len(asked)))}
    assert tokens_of(ss.generate(model(), asked, flow=STRONG, **options)) == expected
    assert tokens_of(ss.generate(model(), asked, **options)) != expected


def test_places_are_those_of_the_steps() -> None:
    items = read_items(SETTINGS)
    traces = greedy_answers(model(), items, SETTINGS)
    for trace in traces:
        prompt = len(trace) - trace.meta["response_tokens"]
        lines = trace.response.split("</think>")[0].splitlines(keepends=True)
        begun = beginnings(trace)
        assert len(begun) == len(lines) + 1
        for number, tokens in enumerate(begun):
            assert model().tokenizer.decode(tokens) == "".join(lines[:number])
            assert list(tokens) == trace.tokens[prompt : prompt + len(tokens)].tolist()


@cache
def made() -> pd.DataFrame:
    some = conditions(8, SETTINGS.conditions)
    return fork_points(model(), read_items(SETTINGS), some, SETTINGS)


@pytest.mark.nightly
def test_continuations_are_those_of_calls_of_their_own() -> None:
    """Which answers are wrong, where they are cut and what becomes of them, one by one."""
    items = read_items(SETTINGS)
    graded = [
        (item, trace, item.problem.grade(trace.response))
        for item, trace in zip(items, greedy_answers(model(), items, SETTINGS), strict=True)
        if item.problem is not None
    ]
    wrong = [(item, trace, grade) for item, trace, grade in graded if not grade.is_correct][:2]
    assert len(wrong) == 2
    forked = made()[made()["kind"] == "forked"]
    assert forked["problem"].unique().tolist() == [item.id for item, _, _ in wrong]
    for condition in conditions(8, SETTINGS.conditions):
        flow = model_flow(model(), condition, SETTINGS)
        for item, trace, grade in wrong:
            rows = forked[(forked["problem"] == item.id) & (forked["condition"] == condition.name)]
            kept = grade.first_wrong_step
            words = beginnings(trace)[kept]
            assert set(rows["kept_steps"]) == {kept}
            assert set(rows["kept_tokens"]) == {len(words)}
            alone = ss.generate(
                model(),
                [item.question],
                flow=flow,
                n=2,
                temperature=1.0,
                seed=SETTINGS.seed,
                question_numbers=[item.number],
                continued=[Continuation(written=words, max_new_tokens=120 - len(words))],
                progress=False,
            )
            assert rows["sample"].tolist() == [0, 1]
            right = [is_right(item, trace.response) for trace in alone]
            assert rows["is_correct"].tolist() == right
            steps = [len(trace.region_steps("thinking")) for trace in alone]
            assert rows["n_steps"].tolist() == steps


def test_greedy_continuations_without_an_edit_are_the_wrong_answers_again() -> None:
    settings = replace(SETTINGS, n=2, level="easy", fork_temperature=0.0)
    items = read_items(settings)
    traces = greedy_answers(model(), items, settings)
    forks = [Fork(item, beginnings(trace)[1]) for item, trace in zip(items, traces, strict=True)]
    found = continuations(model(), forks, None, settings, n=1)
    assert tokens_of([one for (one,) in found]) == tokens_of(traces)
    assert continuations(model(), [], None, settings, n=2) == []


GOLD = "Two and three are 2+3=<<2+3=5>>5. Then 5*4=<<5*4=20>>20.\n#### 20"


def asked_in(folder: Path, settings: ForkPointSettings, gold: str = GOLD) -> list[Item]:
    """A question of the task as the rows of a file, with another solution."""
    row = {"question": read_items(replace(settings, data="task"))[0].question, "answer": gold}
    (folder / "rows.jsonl").write_text(f"{json.dumps(row)}\n" * settings.n)
    return read_items(replace(settings, data=str(folder / "rows.jsonl")))


def test_rows_of_a_file_are_cut_by_their_worked_solutions(tmp_path: Path) -> None:
    settings = replace(SETTINGS, n=2, rule="last on", conditions=BASELINE)
    asked_in(tmp_path, settings)
    settings = replace(settings, data=str(tmp_path / "rows.jsonl"))
    results = run_analysis(ANALYSIS, settings, out=tmp_path / "out", model=model(), progress=False)
    assert results.values is not None
    kept = results.values.loc[results.values["kind"] == "forked", "kept_steps"]
    assert kept.tolist() == [0] * 4  # no step states 5 or 20, so that the first is the wrong one
    assert set(results.tables) == {"states", "accuracy", "kept"}


def test_answers_without_a_place_are_counted_and_left_out(tmp_path: Path) -> None:
    """An answer that never ends its thinking, all steps in order, has no place to go on from."""
    settings = replace(SETTINGS, n=1, rule="first off", max_new_tokens=14)
    values = fork_points(model(), asked_in(tmp_path, settings), conditions(8, BASELINE), settings)
    assert not values["finished"].any()
    found = states(values).set_index("state")["n"]
    assert found.to_dict() == {"right": 0, "thinking": 0, "summary": 0, "left out": 1}
    assert set(summarise(values, settings)) == {"states"}


def test_what_is_cut_off_is_wrong_whatever_stands_in_it(tmp_path: Path) -> None:
    """An answer in which the right number stands already, and continuations of it."""
    settings = replace(SETTINGS, n=1, rule="last on", max_new_tokens=24, conditions=BASELINE)
    (item,) = asked_in(tmp_path, settings)
    (trace,) = greedy_answers(model(), [item], settings)
    gold = final_answer(trace.response)
    assert gold is not None
    items = asked_in(
        tmp_path, settings, f"So it is {gold} + 0 = <<{gold}+0={gold}>>{gold}.\n#### {gold}"
    )
    assert is_right(items[0], trace.response)
    assert not ends_right(items[0], trace)
    assert ends_right(items[0], replace(trace, meta={**trace.meta, "finished": True}))
    values = fork_points(model(), items, conditions(8, BASELINE), settings)
    assert not values["finished"].any()
    assert not values["is_correct"].any()


def test_rows_whose_solution_computes_nothing_are_left_out(tmp_path: Path) -> None:
    settings = replace(SETTINGS, n=1, rule="first off", conditions=BASELINE)
    untold = asked_in(tmp_path, settings, "As many as before.\n#### 7")
    values = fork_points(model(), untold, conditions(8, BASELINE), settings)
    found = states(values).set_index("state")["n"]
    assert found.to_dict() == {"right": 0, "thinking": 0, "summary": 0, "left out": 1}


def synthetic(n_problems: int = 40, *, seed: int = 0) -> pd.DataFrame:
    """Continuations of which ``both`` corrects 0.4 more in the thinking, a placebo none."""
    rng = np.random.default_rng(seed)
    rows = []
    chances = {BASELINE: 0.2, "both": 0.6, "both-layers-kl": 0.2}
    for number in range(n_problems):
        place = "thinking" if number % 4 else "summary"
        for condition, chance in chances.items():
            right = chance if place == "thinking" else 0.2
            about = {
                "problem": f"p{number}", "number": number, "condition": condition,
                "group": "method" if condition != "both-layers-kl" else "placebo",
                "edit": "none" if condition == BASELINE else "both",
                "placebo": "layers" if condition == "both-layers-kl" else None,
                "kind": "forked", "place": place, "kept_steps": number, "kept_tokens": 9,
            }  # fmt: skip
            rows += [
                about | {"sample": sample, "is_correct": bool(rng.random() < right)}
                for sample in range(8)
            ]
    return pd.DataFrame(rows)


def test_planted_gains_are_found_where_they_are() -> None:
    table = contrasts(first_errors(synthetic(), 40), **FAST)
    table = table.set_index(["contrast", "place"]).sort_index()
    for contrast in ("edit - baseline", "edit - placebo"):
        there = table.loc[(contrast, "thinking")]
        assert there["lower"] > 0.25
        assert there["estimate"] == pytest.approx(0.4, abs=0.12)
        assert there["n"] == 30
        nowhere = table.loc[(contrast, "summary")]
        assert abs(nowhere["estimate"]) < 0.2
        assert nowhere["p_holm"] > 0.02
        together = table.loc[(contrast, ANY), "estimate"]
        assert together == pytest.approx(0.75 * there["estimate"] + 0.25 * nowhere["estimate"])
    assert table.loc[("placebo - baseline", "thinking"), "p_holm"] > 0.05
    assert set(table["reference"]) == {BASELINE, "both-layers-kl"}


def test_only_the_first_errors_count_whatever_unit_has_them() -> None:
    values = synthetic()
    shuffled = values.sample(frac=1, random_state=3)
    for order in (values, shuffled):
        kept = first_errors(order, 10)
        assert set(kept["number"]) == set(range(10))
    assert first_errors(values, 99)["number"].nunique() == 40
    greedy = values.drop_duplicates("problem").assign(kind="greedy", is_correct=False)
    tables = summarise(pd.concat([greedy, values]), replace(SETTINGS, n_errors=10))
    rows = tables["accuracy"].set_index(["place", "condition"])
    assert rows.loc[(ANY, "both"), "n"] == 10
    kept = tables["kept"].set_index(["place", "outcome"])["estimate"]
    assert kept[(ANY, "kept_steps")] == 4.5
    assert tables["states"].set_index("state")["n"]["thinking"] == 30


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"temperature": 1.0}, "temperature=1.0, samples=1: the answers that are gone on from"),
        ({"samples": 2}, "samples=2"),
        ({"rule": "first off"}, "rule='first off' reads worked solutions of a file"),
        ({"data": "rows.jsonl"}, "first wrong steps need the right steps"),
    ],
)
def test_settings_that_mean_nothing_here_are_refused(change: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        units(replace(SETTINGS, **change))
