"""Costs by hand, cut answers against answers written under the limit, votes against `ss.vote`."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

import step_saliency as ss
from analyses import compute_matched as cm
from analyses.material.answers import answers
from analyses.material.conditions import BASELINE, METHODS
from analyses.material.problems import read_items
from tests.shuffled import BOUNDS, binary_sets, rejected, valued_sets

FAST: dict[str, Any] = {"n_resamples": 50, "n_permutations": 499}


@pytest.fixture(scope="module")
def model() -> Any:
    return ss.load_model("reasoner")


@pytest.fixture(scope="module")
def made(model: Any) -> pd.DataFrame:
    settings = cm.ComputeSettings(n=4, samples=4, limits=(60, 192))
    return cm.compute_matched(model, read_items(settings), settings)


def test_flops_by_hand() -> None:
    # two tokens: 2 N each; the first attends to 1 key, the second to 2; scores and values: 2 each
    assert cm.flops(10, layers=3, width=5, prompt=1, response=1) == 2 * 10 * 2 + 4 * 3 * 5 * 3


def test_weights_without_embeddings(model: Any) -> None:
    d, mlp, kv = 128, 352, 64
    layer = d * d + 2 * d * kv + d * d + 3 * d * mlp
    assert cm.weights_used(model) == pytest.approx(8 * layer, rel=0.02)


def test_cut_answers_are_those_written_under_the_limit(model: Any, made: pd.DataFrame) -> None:
    settings = cm.ComputeSettings(n=4, samples=1, max_new_tokens=60, temperature=0.0)
    _, short = answers(model, read_items(settings), None, settings)
    mine = made[
        (made["condition"] == BASELINE) & (made["method"] == "greedy") & (made["limit"] == 60)
    ]
    assert mine["is_correct"].tolist() == short["is_correct"].tolist()
    assert mine["tokens"].tolist() == short["n_tokens"].tolist()
    assert mine["finished"].tolist() == short["finished"].tolist()
    is_cut = ~mine["finished"].astype(bool)
    assert mine.loc[is_cut, ["answer", "error_kind"]].isna().all(axis=None)
    counted = cm.weights_used(model), model.cfg.n_layers, model.cfg.n_heads * model.cfg.d_head
    spans = zip(mine["prompt_tokens"], mine["tokens"], strict=True)
    assert mine["flops"].tolist() == [cm.flops(*counted, p, t) for p, t in spans]


def test_votes_and_costs_of_k_answers(model: Any, made: pd.DataFrame) -> None:
    base = made[made["condition"] == BASELINE]
    single = base[base["method"] == "sample"]
    assert (single.groupby("problem").size() == 4).all()
    settings = cm.ComputeSettings(n=4, samples=4, temperature=1.0)
    items = read_items(settings)
    traces, _ = answers(model, items, None, settings)
    for k in (2, 4):
        vote = base[(base["method"] == "vote") & (base["k"] == k)].set_index("problem")
        first = single[single["sample"] < k].groupby("problem")[["tokens", "flops"]].sum()
        for name in ("tokens", "flops"):
            assert vote[name].to_numpy() == pytest.approx(first.loc[vote.index, name].to_numpy())
        kept = [t for t in traces if t.meta["sample"] < k]
        expected = ss.vote(kept, problems=[item.problem for item in items])
        assert vote["is_correct"].tolist() == expected["is_correct"].tolist()


def test_forced_answers_are_longer_and_stand_in_the_tables(model: Any) -> None:
    settings = cm.ComputeSettings(n=4, samples=2, limits=(192,), forced_length=1.35)
    settings = replace(settings, vote_temperature=0.6)
    values = cm.compute_matched(model, read_items(settings), settings)
    singles = values[values["condition"] == BASELINE].set_index("problem")
    greedy, forced = (singles[singles["method"] == name] for name in ("greedy", "wait"))
    assert (forced["tokens"] > greedy.loc[forced.index, "tokens"]).all()
    assert (forced["cpu_seconds"] > greedy.loc[forced.index, "cpu_seconds"]).all()
    ratio = forced["tokens"].sum() / greedy["tokens"].sum()
    assert 1.15 < ratio < 1.6
    prompts, tokens = (forced[name].astype(int) for name in ("prompt_tokens", "tokens"))
    counted = cm.weights_used(model), model.cfg.n_layers, model.cfg.n_heads * model.cfg.d_head
    expected = [cm.flops(*counted, p, t) for p, t in zip(prompts, tokens, strict=True)]
    assert forced["flops"].tolist() == expected
    assert set(values.loc[values["method"] == "vote", "temperature"]) == {0.6}
    table = cm.comparisons(values, **FAST)
    against = table[table["question"] == "against greedy"]
    assert "baseline wait" in set(against["condition"])
    assert "wait" in set(cm.ways(values, **FAST)["method"])


def test_tables_of_a_run(made: pd.DataFrame) -> None:
    table = cm.ways(made, **FAST)
    assert set(table["outcome"]) == {"accuracy", *cm.COSTS}
    found = cm.comparisons(made, **FAST)
    assert set(found["question"]) == {"same way", "against greedy"}
    assert (found.loc[found["question"] == "same way", "condition"] == "both").all()
    assert not cm.cost_effects(made, **FAST).empty


def test_overhead_is_the_ratio_of_times_per_token() -> None:
    rows = [
        {"chunk": c, "condition": name, "method": "sample", "tokens": 100 + c, "cpu_seconds": t}
        for c in range(6)
        for name, t in ((BASELINE, (100 + c) * 0.01), ("both", (100 + c) * 0.0135))
    ]
    found = cm.overhead(pd.DataFrame(rows)).set_index("outcome")
    assert found.loc["per_token ratio", "estimate"] == pytest.approx(1.35)
    assert found.loc["tokens ratio", "estimate"] == pytest.approx(1.0)


def _as_values(frame: pd.DataFrame) -> pd.DataFrame:
    singles = frame.assign(method="sample", k=1, limit=pd.NA)
    greedy = frame[frame["sample"] == 0].assign(method="greedy", k=1, limit=192)
    both = pd.concat([singles, greedy], ignore_index=True)
    return both.astype({"limit": "Int64", "sample": "Int64"})


@pytest.mark.nightly
def test_false_positive_rate() -> None:
    def p_values(values: pd.DataFrame) -> np.ndarray:
        return cm.comparisons(_as_values(values), **FAST)["p"].to_numpy()

    names = [c.name for c in METHODS if c.name in (BASELINE, "both")]
    sets = binary_sets(names, n_problems=100, samples=3, seed=1)
    assert BOUNDS[0] <= rejected(sets, p_values) <= BOUNDS[1]


@pytest.mark.nightly
def test_false_positive_rate_of_costs() -> None:
    def p_values(values: pd.DataFrame) -> np.ndarray:
        counted = values.assign(
            method="greedy", k=1, limit=192, tokens=np.ceil(values["value"] * 9)
        )
        counted["flops"] = counted.pop("value") * 1e6
        return cm.cost_effects(counted, **FAST)["p"].to_numpy()

    rate = rejected(valued_sets([BASELINE, "both"], seed=2), p_values)
    assert BOUNDS[0] <= rate <= BOUNDS[1]


@pytest.mark.nightly
def test_power_for_a_gain_of_the_size_that_the_paper_reports() -> None:
    """4.6 points, as StepFlow on AIME 2025 with R1-Distill-Qwen-7B; 300 problems, 8 samples."""
    rng = np.random.default_rng(4)
    found = []
    for frame in binary_sets([BASELINE, "both"], n_problems=300, samples=8, alike=0.5, n_sets=40):
        wrong = ~frame["is_correct"]
        corrected = rng.random(len(frame)) < 0.046 / wrong.mean()
        frame["is_correct"] |= (frame["condition"] == "both") & corrected
        table = cm.comparisons(_as_values(frame), **FAST)
        row = table[(table["question"] == "same way") & (table["method"] == "sample")].iloc[0]
        found.append(row["p"] <= 0.05 and row["estimate"] > 0)
    assert np.mean(found) > 0.8


def test_planted_gain_is_found() -> None:
    rng = np.random.default_rng(0)
    frame = next(binary_sets([BASELINE, "both"], n_problems=200))
    better = (frame["condition"] == "both") & (rng.random(len(frame)) < 0.3)
    frame["is_correct"] |= better
    table = cm.comparisons(_as_values(frame), **FAST)
    row = table[(table["question"] == "same way") & (table["method"] == "sample")].iloc[0]
    assert row["lower"] > 0.05
    assert row["p"] < 0.01
