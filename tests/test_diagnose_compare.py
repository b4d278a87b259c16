"""Correct against error traces: intervals, permutations, AUROC and length matching."""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from maps import make_saliency, make_trace
from scipy import stats

from step_saliency.diagnosis import compare, diagnose
from step_saliency.diagnosis.same_step import contrast_at_steps
from step_saliency.options import Draws

RESULTS = ["estimate", "lower", "upper", "p_value", "effect_size", "auroc"]


def table_of(values, is_correct, problems, *, lengths=None):
    """One row per trace and column of ``values`` (each column is a metric of its own)."""
    values = np.asarray(values, float).reshape(len(problems), -1)
    n_metrics = values.shape[1]
    traces = pd.DataFrame(
        {
            "problem": problems,
            "trace": [f"t{i}" for i in range(len(problems))],
            "is_correct": is_correct,
            "n_tokens": lengths if lengths is not None else [100] * len(problems),
        }
    )
    long = traces.loc[np.repeat(traces.index, n_metrics)].reset_index(drop=True)
    names = [f"m{i}" for i in range(n_metrics)]
    return long.assign(metric=np.tile(names, len(problems)), value=values.ravel())


def simulate(rng, *, n_sims, n_problems, n_each, effect, spread):
    """Traces with a level and a size of the effect of their problem; a metric per simulation."""
    problems = np.repeat(np.arange(n_problems), 2 * n_each)
    is_correct = np.tile(np.repeat([True, False], n_each), n_problems)
    level = rng.normal(size=(n_problems, n_sims))[problems]
    shift = effect + spread * rng.normal(size=(n_problems, n_sims))[problems]
    noise = rng.normal(size=(len(problems), n_sims))
    values = 3 * level + np.where(is_correct[:, None], 0, shift) + noise
    return values, is_correct, problems


def plain(result, control="none"):
    chosen = result[result["control"].eq(control) & result["metric"].str.startswith("m")]
    return chosen.reset_index(drop=True)


def test_intervals_cover_a_known_effect_about_as_often_as_they_say():
    rng = np.random.default_rng(0)
    values, is_correct, problems = simulate(
        rng, n_sims=400, n_problems=12, n_each=2, effect=0.5, spread=1.0
    )
    result = plain(
        compare(table_of(values, is_correct, problems), n_permutations=200, n_resamples=2000)
    )
    covered = (result["lower"] <= 0.5) & (result["upper"] >= 0.5)
    assert 0.92 <= covered.mean() <= 0.98
    assert result["estimate"].mean() == pytest.approx(0.5, abs=0.05)


def test_a_test_that_takes_traces_as_independent_covers_far_less():
    rng = np.random.default_rng(1)
    values, is_correct, problems = simulate(
        rng, n_sims=300, n_problems=10, n_each=15, effect=0.5, spread=2.0
    )
    values = values - pd.DataFrame(values).groupby(problems).transform("mean").to_numpy()
    naive = stats.ttest_ind(values[~is_correct], values[is_correct]).confidence_interval(0.95)
    naive_covers = ((naive.low <= 0.5) & (naive.high >= 0.5)).mean()
    result = plain(
        compare(table_of(values, is_correct, problems), n_permutations=200, n_resamples=2000)
    )
    covers = ((result["lower"] <= 0.5) & (result["upper"] >= 0.5)).mean()
    assert naive_covers < 0.7
    assert 0.91 <= covers <= 0.98


def test_p_values_are_uniform_where_correctness_means_nothing():
    rng = np.random.default_rng(2)
    values, is_correct, problems = simulate(
        rng, n_sims=400, n_problems=10, n_each=2, effect=0, spread=0
    )
    p_values = plain(
        compare(table_of(values, is_correct, problems), n_permutations=2000, n_resamples=100)
    )["p_value"]
    assert stats.kstest(p_values, "uniform").pvalue > 0.01
    assert (p_values <= 0.05).mean() == pytest.approx(0.05, abs=0.02)


def test_problems_that_differ_in_both_directions_are_no_effect_over_problems():
    rng = np.random.default_rng(11)
    values, is_correct, problems = simulate(
        rng, n_sims=300, n_problems=12, n_each=6, effect=0, spread=2.0
    )
    table = table_of(values, is_correct, problems)
    result = plain(compare(table, n_permutations=4096, n_resamples=100))
    assert (result["p_sign"] <= 0.05).mean() == pytest.approx(0.05, abs=0.02)
    assert (result["p_value"] <= 0.05).mean() > 0.3  # correctness does matter within problems


def test_copies_of_traces_and_layers_do_not_sharpen_anything():
    rng = np.random.default_rng(3)
    values, is_correct, problems = simulate(
        rng, n_sims=1, n_problems=8, n_each=1, effect=0.8, spread=1.0
    )
    once = table_of(values, is_correct, problems).assign(layer=0)
    copies = [once.assign(trace=once["trace"] + f"/{i}") for i in range(6)]
    layers = [once.assign(layer=layer) for layer in range(5)]
    one_name, listed = compare(once, metrics="m0"), compare(once, metrics=["m0"])
    pd.testing.assert_frame_equal(one_name, listed)
    expected = plain(compare(once)).loc[
        0, ["estimate", "lower", "upper", "p_sign", "effect_size", "auroc"]
    ]
    copied = plain(compare(pd.concat(copies))).loc[0]
    layered = plain(compare(pd.concat(layers)))
    for column, value in expected.items():
        assert copied[column] == pytest.approx(value)
        assert layered[column].to_numpy() == pytest.approx(np.full(5, value))
    naive = [
        stats.ttest_rel(*(t[t["is_correct"].eq(c)]["value"] for c in (False, True))).pvalue
        for t in (once, pd.concat(copies))
    ]
    assert naive[1] < naive[0] / 3


def test_problems_count_alike_however_many_traces_they_have():
    few = table_of([1.0, 0.0], [False, True], ["a", "a"])
    many = table_of([5.0, 5.0, 5.0, 2.0], [False, False, False, True], ["b"] * 4)
    many["trace"] = "b" + many["trace"]
    result = plain(compare(pd.concat([few, many]))).loc[0]
    assert result["estimate"] == pytest.approx((1 + 3) / 2)
    assert (result["n"], result["n_traces"], result["n_pairs"]) == (2, 6, 4)
    assert result["mean_error"] == pytest.approx(3)
    assert result["mean_correct"] == pytest.approx(1)


def test_permutation_p_value_is_that_of_all_assignments_written_out():
    a, b = np.array([3.0, 1.0]), np.array([2.5, 0.5, 1.5])  # the first of each is the error
    statistics = []
    for i, j in itertools.product(range(2), range(3)):
        d_a = a[i] - np.delete(a, i).mean()
        d_b = b[j] - np.delete(b, j).mean()
        statistics.append((d_a + d_b) / 2)
    expected = np.mean(np.abs(statistics) >= abs(statistics[0]) - 1e-12)
    table = table_of([*a, *b], [False, True, False, True, True], ["a"] * 2 + ["b"] * 3)
    result = plain(compare(table)).loc[0]
    assert result["exact"]
    assert result["p_value"] == pytest.approx(expected)
    assert result["estimate"] == pytest.approx(statistics[0])


def test_sign_p_value_is_that_of_all_signs_written_out():
    differences = np.array([2.0, 1.0, -0.5, 1.5])
    flipped = [np.dot(signs, differences) for signs in itertools.product((1, -1), repeat=4)]
    expected = np.mean(np.abs(flipped) >= abs(differences.sum()) - 1e-12)
    values = np.stack([differences, np.zeros(4)], 1).ravel()
    table = table_of(values, [False, True] * 4, np.repeat(list("abcd"), 2))
    assert plain(compare(table)).loc[0, "p_sign"] == pytest.approx(expected)


def test_drawn_permutations_come_close_to_all_of_them():
    rng = np.random.default_rng(4)
    values, is_correct, problems = simulate(
        rng, n_sims=5, n_problems=9, n_each=1, effect=1.0, spread=1.0
    )
    table = table_of(values, is_correct, problems)
    exact, drawn = (plain(compare(table, n_permutations=n)) for n in (512, 511))
    assert exact["exact"].all()
    assert not drawn["exact"].any()
    many = plain(compare(table, n_permutations=511, seed=5))
    assert drawn["p_value"].to_numpy() == pytest.approx(exact["p_value"].to_numpy(), abs=0.07)
    assert not np.array_equal(drawn["p_value"], many["p_value"])


@pytest.mark.parametrize("n_problems", [2, 12])
@pytest.mark.parametrize("match", ["length", "step_index"])
def test_problems_that_all_agree_leave_the_area_an_interval(n_problems, match):
    problems = np.repeat(np.arange(n_problems), 4)
    is_correct = np.tile([True, True, False, False], n_problems)
    values = problems + ~is_correct
    if match == "length":
        result = compare(table_of(values, is_correct, problems), n_permutations=50)
    else:
        rows = [[[value]] for value in values]
        result = contrast_at_steps(np.array(rows, float), problems, ~is_correct, Draws())
        result = result.assign(metric="m0", control="none")
    row = plain(result).iloc[0]
    z_squared = stats.norm.ppf(0.975) ** 2
    assert (row["auroc"], row["auroc_upper"]) == (1, 1)
    assert row["auroc_lower"] == pytest.approx(n_problems / (n_problems + z_squared))


def test_auroc_is_the_share_of_pairs_that_a_loop_counts():
    rng = np.random.default_rng(5)
    problems = np.repeat(["a", "b", "c"], [5, 4, 6])
    is_correct = np.array([1, 0, 1, 0, 0, 1, 1, 0, 1, 0, 0, 0, 1, 1, 1], bool)
    values = rng.integers(0, 4, len(problems)).astype(float)  # with ties
    by_problem = []
    for problem in "abc":
        chosen = problems == problem
        wins = [
            1.0 if e > c else 0.5 if e == c else 0.0
            for e in values[chosen & ~is_correct]
            for c in values[chosen & is_correct]
        ]
        by_problem.append(np.mean(wins))
    result = plain(compare(table_of(values, is_correct, problems))).loc[0]
    assert result["auroc"] == pytest.approx(np.mean(by_problem))
    assert result["auroc_lower"] <= result["auroc"] <= result["auroc_upper"]


def test_effect_size_is_the_difference_in_standard_deviations_over_problems():
    rng = np.random.default_rng(6)
    values, is_correct, problems = simulate(
        rng, n_sims=1, n_problems=7, n_each=1, effect=1, spread=1
    )
    differences = values[~is_correct, 0] - values[is_correct, 0]
    result = plain(compare(table_of(values, is_correct, problems))).loc[0]
    assert result["effect_size"] == pytest.approx(differences.mean() / differences.std(ddof=1))


def test_only_problems_with_both_kinds_enter():
    table = table_of([1, 0, 9, 9, -9], [False, True, False, False, True], list("aabbc"))
    result = plain(compare(table)).loc[0]
    assert (result["n"], result["n_traces"]) == (1, 2)
    assert result["estimate"] == pytest.approx(1)
    assert np.isnan(result["lower"])
    assert np.isnan(result["effect_size"])


def test_missing_values_leave_out_their_trace_for_that_metric_alone():
    values = [[1, 1], [0, 0], [5, np.nan], [2, 2]]
    table = table_of(values, [False, True, False, True], list("aabb"))
    result = plain(compare(table)).set_index("metric")
    assert result.loc["m0", "n"] == 2
    assert result.loc["m1", "n"] == 1
    assert result.loc["m1", "estimate"] == pytest.approx(1)


def test_length_alone_makes_a_difference_that_matching_takes_away():
    rng = np.random.default_rng(7)
    problems = np.repeat(np.arange(30), 8)
    is_correct = np.tile([True] * 4 + [False] * 4, 30)
    lengths = np.exp(rng.normal(6, 0.5, len(problems)) + 0.5 * ~is_correct).round()
    values = np.log(lengths) + 0.05 * rng.normal(size=len(problems))
    result = compare(table_of(values, is_correct, problems, lengths=lengths), caliper=0.1)
    free, matched = plain(result).loc[0], plain(result, "length").loc[0]
    assert free["lower"] > 0.3
    assert abs(matched["estimate"]) < 0.05
    assert 0 < matched["n_pairs"] < 120
    assert matched["n_traces"] == 2 * matched["n_pairs"]
    balance = result[result["metric"].eq("n_tokens")].set_index("control")
    assert balance.loc["none", "estimate"] > 100 > abs(balance.loc["length", "estimate"])


def test_an_effect_beyond_length_survives_matching():
    rng = np.random.default_rng(8)
    problems = np.repeat(np.arange(30), 8)
    is_correct = np.tile([True] * 4 + [False] * 4, 30)
    lengths = np.exp(rng.normal(6, 0.5, len(problems)) + 0.3 * ~is_correct).round()
    values = np.log(lengths) + 1.0 * ~is_correct + 0.3 * rng.normal(size=len(problems))
    matched = plain(compare(table_of(values, is_correct, problems, lengths=lengths)), "length")
    assert matched.loc[0, "lower"] < 1 < matched.loc[0, "upper"]
    assert matched.loc[0, "p_value"] < 0.001


def test_matching_makes_as_many_pairs_as_there_can_be():
    # The nearest partner of both errors is the correct trace of 110 tokens; only one may have it.
    lengths = [100, 115, 110, 125]
    table = table_of([0, 0, 1, 2], [False, False, True, True], ["a"] * 4, lengths=lengths)
    matched = plain(compare(table, caliper=0.12), "length").loc[0]
    assert matched["n_pairs"] == 2
    assert matched["estimate"] == pytest.approx(-1.5)


def test_no_pair_alike_enough_gives_an_empty_row_and_no_error():
    table = table_of([1, 0], [False, True], ["a", "a"], lengths=[1000, 100])
    matched = plain(compare(table), "length").loc[0]
    assert matched["n"] == 0
    assert pd.isna(matched["estimate"])


def test_holm_correction_over_layers_worked_out_by_hand():
    rng = np.random.default_rng(9)
    values, is_correct, problems = simulate(
        rng, n_sims=3, n_problems=8, n_each=1, effect=1.2, spread=0.5
    )
    layers = [
        table_of(values[:, i], is_correct, problems).assign(layer=i) for i in range(values.shape[1])
    ]
    result = plain(compare(pd.concat(layers)))
    first, second, third = np.sort(result["p_value"])
    expected = np.maximum.accumulate(np.minimum([3 * first, 2 * second, third], 1))
    assert np.sort(result["p_holm"]) == pytest.approx(expected)
    assert (result["p_holm"] >= result["p_value"]).all()


def test_same_seed_same_numbers_and_the_global_generator_is_left_alone():
    rng = np.random.default_rng(10)
    table = table_of(
        *simulate(rng, n_sims=2, n_problems=16, n_each=2, effect=0, spread=1)[:2],
        np.repeat(np.arange(16), 4),
    )
    state = np.random.get_state()[1].tolist()
    first, again, other = (compare(table, seed=seed) for seed in (0, 0, 1))
    assert np.random.get_state()[1].tolist() == state
    pd.testing.assert_frame_equal(first, again)
    assert not first["lower"].equals(other["lower"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.assign(is_correct=True), "no problem has both"),
        (lambda t: t.drop(columns="value"), r"columns \['value'\] are missing"),
        (lambda t: pd.concat([t, t]), "stands twice"),
        (lambda t: t.assign(problem=None), "no problem"),
        (lambda t: t.assign(trace=None), "no trace"),
    ],
)
def test_tables_that_cannot_be_compared_are_refused(change, message):
    table = table_of([1, 0], [False, True], ["a", "a"])
    with pytest.raises(ValueError, match=message):
        compare(change(table))


def test_unknown_metrics_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'m7'.*there are \['m0'\]"):
        compare(table_of([1, 0], [False, True], ["a", "a"]), metrics=["m7"])


def test_diagnoses_of_traces_go_in_as_they_are():
    generator = torch.Generator().manual_seed(0)
    diagnoses = []
    for problem in range(6):
        for sample in range(4):
            meta = {"problem": problem, "is_correct": sample < 2}
            regions = "_QTTTTTSS" if (problem, sample) != (5, 0) else "_QTTTTT"
            trace = make_trace(regions, id=f"{problem}/{sample}", meta=meta)
            n = len(regions)
            maps = torch.rand(8, n, n, generator=generator) + 0.5
            if sample >= 2:
                maps[:2] += 3 * torch.eye(n)
            diagnoses.append(diagnose(make_saliency(maps.tril(), trace)))
    result = compare(diagnoses).set_index(["metric", "control"]).sort_index()
    index = result.loc[("lock_in_index", "none")].squeeze()
    assert index["lower"] > 0.1
    assert index["auroc"] == 1
    assert index["n_traces"] == 24
    assert result.loc[("decay_index", "none"), "n_traces"].item() == 23
    layers = result.loc[("lock_in", "none")].set_index("layer")
    assert (layers.loc[[0, 1], "lower"] > 0).all()
    assert (layers.loc[2:, "estimate"].abs() < layers.loc[0, "estimate"] / 2).all()
