"""Scores of maps against the known step graph."""

import numpy as np
import pandas as pd
import pytest
import torch

from analyses.gold_graph.picks import KEYS, pick_best_heads, pick_best_layers
from analyses.gold_graph.scores import edge_kinds, gold_graph, readings
from analyses.gold_graph.summary import differences, headline, summarise
from analyses.instruments.edge_ranking import auroc, average_precision, rank_edges
from analyses.instruments.maps import Maps, rollout
from step_saliency.models.convert import from_transformers
from step_saliency.tasks import Difficulty, make_problems
from tests.tiny import BACKEND
from training.model import TrainConfig, build_model
from training.tokenizer import build_tokenizer

SHORT = Difficulty(n_steps=3, n_distractors=2, digits=1)


@pytest.fixture(scope="module")
def untrained():
    tokenizer = build_tokenizer()
    checkpoint = build_model(TrainConfig(n_layers=2, d_model=32, d_mlp=48), tokenizer)
    return from_transformers(checkpoint, tokenizer, backend=BACKEND)


@pytest.fixture(scope="module")
def values(untrained) -> pd.DataFrame:
    problems = make_problems(n=4, level=SHORT)
    return gold_graph(untrained, problems, pools=["mean"], progress=False)


def by_thresholds(scores: list[float], truth: list[bool]) -> float:
    """Average precision by its definition: one threshold after the other."""
    total, recall_before = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        kept = [hit for score, hit in zip(scores, truth, strict=True) if score >= threshold]
        recall = sum(kept) / sum(truth)
        total += (recall - recall_before) * sum(kept) / len(kept)
        recall_before = recall
    return total


def by_pairs(scores: list[float], truth: list[bool]) -> float:
    """AUROC by its definition: every true against every false pair."""
    true = [s for s, hit in zip(scores, truth, strict=True) if hit]
    false = [s for s, hit in zip(scores, truth, strict=True) if not hit]
    return sum((a > b) + (a == b) / 2 for a in true for b in false) / len(true) / len(false)


@pytest.mark.parametrize("n_levels", [2, 5, 1000])
def test_metrics_match_their_definitions_with_and_without_ties(n_levels):
    rng = np.random.default_rng(n_levels)
    scores = rng.integers(0, n_levels, size=(40, 23)).astype(float)
    truth = rng.random(23) < 0.3
    expected = [by_thresholds(list(row), list(truth)) for row in scores]
    np.testing.assert_allclose(average_precision(scores, truth), expected, atol=1e-12)
    expected = [by_pairs(list(row), list(truth)) for row in scores]
    np.testing.assert_allclose(auroc(scores, truth), expected, atol=1e-12)


def test_the_truth_as_a_map_scores_one_and_its_opposite_chance_or_less():
    tokenizer = build_tokenizer()
    for problem in make_problems(n=5, level="hard"):
        trace = problem.trace(tokenizer, split_question=True)
        for _, truth, candidate in edge_kinds(problem.edges(trace), trace):
            maps = np.stack([truth, ~truth]).astype(float)
            for ranking in ("problem", "row"):
                for value in rank_edges(maps, truth, candidate, ranking=ranking).values():
                    assert value[0] == 1.0
                    assert value[1] < 0.5


def test_kinds_of_edges_part_the_whole():
    tokenizer = build_tokenizer()
    problem = make_problems(n=1, level="medium")[0]
    trace = problem.trace(tokenizer, split_question=True)
    (_, premise, among_premises), (_, step, among_steps), (_, both, among_all) = edge_kinds(
        problem.edges(trace), trace
    )
    assert not (among_premises & among_steps).any()
    assert (among_premises | among_steps == among_all).all()
    assert premise.sum() + step.sum() == both.sum()


def test_a_row_scale_matters_for_problems_and_not_for_rows():
    truth = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], bool)
    candidate = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0]], bool)
    even = np.array([[0, 0, 0], [3, 0, 0], [1, 2, 0.0]])
    scaled = even * np.array([[1], [0.1], [1]])
    maps = np.stack([even, scaled])
    assert rank_edges(maps, truth, candidate, ranking="problem")["auroc"].tolist() == [1.0, 0.5]
    assert rank_edges(maps, truth, candidate, ranking="row")["auroc"].tolist() == [1.0, 1.0]


def test_readings_average_heads_then_layers():
    maps = torch.rand(2, 3, 4, 4)
    stacked, names = readings(Maps("saliency", None, maps))
    by_name = dict(zip(names, stacked, strict=True))
    assert np.allclose(by_name[1, "2"], maps[1, 2])
    assert np.allclose(by_name[0, "mean"], maps[0].mean(0))
    assert np.allclose(by_name[None, "mean"], maps.mean((0, 1)))
    assert len(names) == 6 + 2 + 1


def test_rollout_by_hand():
    first, second = torch.tensor([[1.0, 0.0], [0.4, 0.6]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    flows = list(rollout([first[None], second[None]]))
    assert torch.allclose(flows[0], torch.tensor([[1.0, 0.0], [0.2, 0.8]]))
    assert torch.allclose(flows[1], torch.tensor([[1.0, 0.0], [0.6, 0.4]]))
    assert torch.allclose(flows[1].sum(-1), torch.ones(2))


def test_table_has_every_reading_of_every_method(values):
    assert not values.duplicated([*KEYS, "problem"]).any()
    assert values["value"].between(0, 1).all()
    assert set(values["method"]) == {
        "saliency",
        "gradient",
        "score_gradient",
        "attention",
        "attention_norm",
        "rollout",
        "distance",
        "key_length",
        "random",
    }
    per_method = values.groupby("method").size() / (4 * 3 * 2 * 2)
    n_readings = 2 * 4 + 2 + 1
    assert per_method["saliency"] == 3 * n_readings
    assert per_method["gradient"] == per_method["score_gradient"] == 2 * n_readings
    assert per_method["attention"] == per_method["attention_norm"] == n_readings
    assert per_method["rollout"] == 3
    assert per_method["distance"] == per_method["key_length"] == per_method["random"] == 1


def test_saliency_in_the_table_is_what_step_saliency_maps(untrained, values):
    import step_saliency as ss

    problem = make_problems(n=4, level=SHORT)[2]
    trace = problem.trace(untrained.tokenizer, split_question=True)
    maps = ss.step_saliency(
        untrained, trace, objective="log_odds", rows="target", method="hooks"
    ).maps
    _, truth, candidate = list(edge_kinds(problem.edges(trace), trace))[2]
    found = rank_edges(maps.double().numpy(), truth, candidate, ranking="problem")
    table = values.query(
        "problem == @problem.id and method == 'saliency' and objective == 'log_odds' "
        "and head == 'mean' and edge == 'all' and ranking == 'problem' and metric == 'auroc'"
    ).dropna(subset=["layer"])
    np.testing.assert_allclose(table.sort_values("layer")["value"], found["auroc"], atol=1e-6)


def planted(n_problems: int, means: list[float], seed: int = 0) -> pd.DataFrame:
    """Values of one layer's heads, normal around ``means``."""
    rng = np.random.default_rng(seed)
    rows = [
        dict.fromkeys(KEYS, "x")
        | {"problem": f"p{i}", "layer": 0, "head": str(head)}
        | {"value": rng.normal(mean, 0.1), "method": "attention"}
        for i in range(n_problems)
        for head, mean in enumerate(means)
    ]
    return pd.DataFrame(rows).astype({"layer": "Int64", "head": "string"})


def test_the_best_head_is_found_and_picking_gains_nothing_from_noise():
    found = pick_best_heads(planted(60, [0.4, 0.9, 0.5]))
    assert found["value"].mean() == pytest.approx(0.9, abs=0.05)
    noise = planted(60, [0.5] * 100, seed=1)
    assert noise.groupby("head")["value"].mean().max() > 0.52
    assert pick_best_heads(noise)["value"].mean() == pytest.approx(0.5, abs=0.03)


def test_summary_states_means_intervals_and_counts(values):
    summary = summarise(values, n_bootstrap=200)
    assert (summary["lower"] <= summary["estimate"] + 1e-12).all()
    assert (summary["estimate"] <= summary["upper"] + 1e-12).all()
    assert set(summary["n"]) == {4}
    row = summary.query("method == 'random' and edge == 'step' and ranking == 'row'")
    picked = values.query("method == 'random' and edge == 'step' and ranking == 'row'")
    assert row.set_index("metric")["estimate"].to_dict() == pytest.approx(
        picked.groupby("metric")["value"].mean().to_dict()
    )
    best = summary[summary["head"] == "best"]
    assert best["layer"].isna().any()
    assert best["layer"].notna().any()
    assert set(headline(summary)["method"]) == set(values["method"])


def test_differences_are_paired_with_attention(values):
    table = differences(values, n_bootstrap=200)
    assert "attention" not in set(table["method"])
    summary = summarise(values, n_bootstrap=200)
    where = "objective.isna() and layer == 1 and head == 'mean' and edge == 'all' "
    where += "and ranking == 'problem' and metric == 'auroc'"
    both = summary.query(where).set_index("method")["estimate"]
    found = table.query(where).set_index("method")["estimate"]
    assert found["rollout"] == pytest.approx(both["rollout"] - both["attention"])


def test_the_best_layer_is_picked_on_the_other_half():
    rng = np.random.default_rng(2)
    means = [0.5] * 60
    noise = pd.DataFrame(
        dict.fromkeys(KEYS, "x")
        | {"problem": f"p{i}", "layer": layer, "head": "mean", "value": rng.normal(mean, 0.1)}
        for i in range(60)
        for layer, mean in enumerate(means)
    ).astype({"layer": "Int64", "head": "string"})
    assert noise.groupby("layer")["value"].mean().max() > 0.52
    found = pick_best_layers(noise)
    assert found["value"].mean() == pytest.approx(0.5, abs=0.03)
    assert found["layer"].isna().all()
    assert sorted(found["problem"]) == sorted(noise["problem"].unique())
    better = noise.assign(value=noise["value"] + 0.3 * (noise["layer"] == 7).astype(float))
    assert pick_best_layers(better)["value"].mean() == pytest.approx(0.8, abs=0.05)


def test_the_summary_has_picked_layers_for_every_method_with_layers(values):
    summary = summarise(values, n_bootstrap=200)
    picked = summary[summary["head"] == "best_layer"]
    by_layer = {"saliency", "gradient", "score_gradient", "attention", "attention_norm", "rollout"}
    assert set(picked["method"]) == by_layer
    assert picked["layer"].isna().all()
    keys = [key for key in KEYS if key not in ("layer", "head")]
    per_layer = summary[(summary["head"] == "mean") & summary["layer"].notna()]
    merged = picked.merge(
        per_layer.groupby(keys, dropna=False)["estimate"].agg(["min", "max"]).reset_index(), on=keys
    )
    assert len(merged) == len(picked)
    assert (merged["estimate"] <= merged["max"] + 1e-12).all()
