"""Statistics against other implementations, by hand, and by simulation under null and effect."""

import itertools
import math
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from step_saliency.options import Draws
from step_saliency.stats.binary import binary_table, mcnemar, odds_ratio
from step_saliency.stats.equivalence import detectable_effect, equivalence
from step_saliency.stats.multiplicity import holm, with_holm
from step_saliency.stats.paired import paired_table, standardised
from step_saliency.stats.permutation import exchanged_labels, permutation_p_values, sign_flip_p
from step_saliency.stats.problems import mean_intervals, mean_table, reduce_to_problems
from step_saliency.stats.ranks import (
    correlation_table,
    rank_correlation,
    rank_correlation_over_problems,
    row_correlations,
)
from step_saliency.stats.resampling import problem_shares
from step_saliency.stats.statistic import bootstrap, bootstrap_means, difference, ratio
from tests.shuffled import binary_sets, rejected

SHUFFLED = 200
MANY = 4000


def rate(p_values) -> float:
    return float((np.asarray(p_values) < 0.05).mean())


def skewed(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).lognormal(size=shape)


def shuffled_differences(n_problems: int, n_sets: int, seed: int, effect: float = 0.0):
    """Differences of two conditions whose values are exchanged at random within each problem."""
    rng = np.random.default_rng(seed)
    values = skewed((n_problems, n_sets, 2), seed)
    swap = rng.random((n_problems, n_sets)) < 0.5
    before, after = values[..., 0], values[..., 1]
    return np.where(swap, after - before, before - after) + effect


@pytest.mark.parametrize("n_problems", [9, 12, 40])
def test_sign_flips_reject_five_percent_of_shuffled_data_exact_or_drawn(n_problems):
    null = shuffled_differences(n_problems, SHUFFLED, seed=n_problems)
    p, exact = sign_flip_p(null, n_permutations=4096)
    assert exact == (n_problems <= 12)
    assert 0.03 <= rate(p) <= 0.07
    p, _ = sign_flip_p(shuffled_differences(n_problems, MANY, seed=2), n_permutations=4096)
    assert 0.04 <= rate(p) <= 0.06


def test_sign_flips_find_a_planted_effect():
    p, _ = sign_flip_p(shuffled_differences(40, SHUFFLED, seed=3, effect=2.0), n_permutations=2000)
    assert rate(p) > 0.9


def test_sign_flip_p_is_that_of_all_signs_written_out():
    sample = np.array([0.3, -1.2, 2.0, 0.7, 1.1])
    sums = [abs(np.dot(signs, sample)) for signs in itertools.product((1, -1), repeat=5)]
    expected = np.mean([s >= abs(sample.sum()) - 1e-12 for s in sums])
    p, exact = sign_flip_p(sample[:, None])
    assert exact
    assert p[0] == pytest.approx(expected)


def test_sums_that_are_equal_on_paper_are_ties_whatever_the_first_arrangement_weighs():
    """0.1 + 0.2 and 0.3 differ in the last bit, and the first arrangement weighs neither."""
    values = np.array([[0.1], [0.2], [0.3], [5.0]])
    weights = np.array([[0.0, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0]])
    for row in (1, 2):
        p = permutation_p_values(weights, values, weights[row] @ values, exact=True)
        assert p.tolist() == [2 / 3]


def test_missing_differences_take_no_part():
    sample = np.array([0.3, -1.2, 2.0, 0.7, 1.1])
    padded = np.concatenate([sample, [np.nan] * 3])
    assert sign_flip_p(padded[:, None])[0] == pytest.approx(sign_flip_p(sample[:, None])[0])


def answers(n_sets: int, n: int, seed: int, repair: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Right and wrong of two conditions, exchanged at random; ``repair`` mends wrong answers."""
    rng = np.random.default_rng(seed)
    hard = rng.beta(1, 1, size=(n_sets, n))
    before, after = rng.random((2, n_sets, n)) < hard
    return before, after | (rng.random((n_sets, n)) < repair)


def test_mcnemar_is_a_binomial_test_of_the_answers_that_changed():
    for before, after in zip(*answers(20, 60, seed=1), strict=True):
        changed = before != after
        expected = scipy_stats.binomtest(int(after[changed].sum()), int(changed.sum())).pvalue
        assert mcnemar(before, after)["p_mcnemar"] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("corrected", "broken"), [(19, 20), (20, 19), (20, 20), (0, 1), (0, 0)])
def test_mcnemar_of_all_but_equal_counts_is_exactly_one(corrected, broken):
    after = np.repeat([True, False], [corrected, broken])
    assert mcnemar(~after, after)["p_mcnemar"] == 1.0


def test_mid_p_of_mcnemar_is_the_exact_one_with_half_the_observed_arrangement():
    before = np.array([False] * 8 + [True] * 2)
    found = mcnemar(before, ~before)
    half = scipy_stats.binom.cdf(1, 10, 0.5) + scipy_stats.binom.pmf(2, 10, 0.5) / 2
    assert found["p_mid"] == pytest.approx(2 * half)
    assert (found["corrected"], found["broken"], found["odds_ratio"]) == (8, 2, pytest.approx(4))
    even = mcnemar(before[5:], ~before[5:])  # 3 and 2: all arrangements are as extreme
    assert even["p_mid"] == pytest.approx(1 - scipy_stats.binom.pmf(2, 5, 0.5))
    tie = mcnemar(before[6:], ~before[6:])
    assert tie["p_mid"] == pytest.approx(1 - scipy_stats.binom.pmf(2, 4, 0.5) / 2)


@pytest.mark.parametrize(("n_sets", "low", "high"), [(SHUFFLED, 0.03, 0.07), (1500, 0.04, 0.06)])
def test_mcnemar_rejects_five_percent_of_shuffled_data_and_the_exact_form_no_more(
    n_sets, low, high
):
    found = [mcnemar(b, a) for b, a in zip(*answers(n_sets, 300, seed=5), strict=True)]
    assert low <= rate([row["p_mid"] for row in found]) <= high
    assert rate([row["p_mcnemar"] for row in found]) <= high


def test_mcnemar_finds_repaired_answers():
    found = [mcnemar(b, a) for b, a in zip(*answers(SHUFFLED, 300, 6, repair=0.3), strict=True)]
    assert rate([row["p_mcnemar"] for row in found]) > 0.9


def test_mcnemar_odds_ratio_interval_covers_the_truth():
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(400):
        corrected = rng.random(40) < 0.75
        found = mcnemar(~corrected, corrected)
        covered.append(found["odds_lower"] <= 3 <= found["odds_upper"])
    assert np.mean(covered) >= 0.94


def test_nothing_changed_is_no_evidence_and_no_odds():
    same = np.array([True, False, True])
    found = mcnemar(same, same)
    assert found["p_mcnemar"] == found["p_mid"] == 1.0
    assert math.isnan(found["odds_ratio"])


def test_holm_is_that_of_statsmodels_and_leaves_missing_values_out():
    p = np.random.default_rng(0).random(12) ** 3
    expected = multipletests(p, method="holm")[1]
    np.testing.assert_allclose(holm(p), expected)
    padded = holm(np.concatenate([[np.nan], p, [np.nan]]))
    np.testing.assert_allclose(padded[1:-1], expected)
    assert np.isnan(padded[[0, -1]]).all()


def test_holm_keeps_the_chance_of_any_false_finding_at_five_percent():
    p = np.random.default_rng(1).random((MANY, 8))
    assert 0.04 <= rate([holm(row).min() for row in p]) <= 0.06
    assert rate(p.min(1)) > 0.3


def correlated(n_sets: int, seed: int, slope: float = 0.0) -> pd.DataFrame:
    """Scores and effects of 12 problems of 2 rows of 6 keys; rows differ in level."""
    rng = np.random.default_rng(seed)
    index = pd.MultiIndex.from_product(
        [range(n_sets), range(12), range(2), range(6)],
        names=["data_set", "problem", "query_step", "key_step"],
    )
    frame = index.to_frame(index=False)
    level = rng.normal(size=(n_sets * 12 * 2, 1)) * 5
    score = rng.normal(size=(len(level), 6))
    frame["score"] = (score + level).ravel()
    frame["effect"] = (slope * score + rng.normal(size=score.shape) + level).ravel()
    return frame


def test_rank_correlation_rejects_five_percent_of_shuffled_data_and_finds_planted_ones():
    options = {"row": ["query_step"], "by": ["data_set"], "n_resamples": 20, "n_permutations": 199}
    null = correlation_table(correlated(SHUFFLED, 1), "score", "effect", **options)
    assert 0.03 <= rate(null["p"]) <= 0.07
    planted = correlation_table(correlated(20, 2, slope=0.6), "score", "effect", **options)
    assert rate(planted["p"]) > 0.9


def test_rank_correlation_is_within_rows_then_problems():
    frame = correlated(1, 3, slope=1.0)
    found = correlation_table(frame, "score", "effect", row=["query_step"], n_resamples=200)
    by_row = [
        (names[0], scipy_stats.spearmanr(rows["score"], rows["effect"]).statistic)
        for names, rows in frame.groupby(["problem", "query_step"])
    ]
    expected = pd.DataFrame(by_row).groupby(0)[1].mean().mean()
    assert found["estimate"][0] == pytest.approx(expected)
    assert (found["n"][0], found["n_rows"][0]) == (12, 24)
    between_rows = scipy_stats.spearmanr(frame["score"], frame["effect"]).statistic
    assert between_rows > expected + 0.2


def with_groups_that_cannot_be_ranked() -> pd.DataFrame:
    """Two groups with values and, between and before them, too few keys, ties, no values."""
    frame = correlated(5, 3, slope=1.0)
    frame["data_set"] = frame["data_set"].map(dict(enumerate("ABCDE")))
    short = (frame["data_set"] == "A") & (frame["key_step"] > 1)
    frame.loc[frame["data_set"] == "C", "score"] = 1.5
    frame.loc[frame["data_set"] == "D", "effect"] = math.nan
    return frame[~short]


def test_groups_that_cannot_be_ranked_are_named_and_leave_the_others_as_they_are():
    frame = with_groups_that_cannot_be_ranked()
    options = {"row": ["query_step"], "n_resamples": 50, "n_permutations": 99}
    with pytest.warns(UserWarning, match="can be ranked") as warned:
        table = correlation_table(frame, "score", "effect", by=["data_set"], **options)
    (warning,) = warned
    assert "3 of 5 groups" in str(warning.message)
    assert "data_set='A'; data_set='C'; data_set='D'" in str(warning.message)
    assert list(table["data_set"]) == list("ABCDE")
    bad = table[table["data_set"].isin(list("ACD"))]
    assert (bad[["n", "n_rows"]] == 0).all(axis=None)
    assert bad[["estimate", "lower", "upper", "p"]].isna().all(axis=None)
    assert set(bad["interval"]) == {"none"}
    for name in "BE":
        alone = correlation_table(frame[frame["data_set"] == name], "score", "effect", **options)
        both = table[table["data_set"] == name].drop(columns="data_set").reset_index(drop=True)
        pd.testing.assert_frame_equal(both, alone)


def test_where_no_group_can_be_ranked_there_is_no_table():
    frame = with_groups_that_cannot_be_ranked()
    frame = frame[frame["data_set"].isin(list("AC"))]
    with pytest.raises(ValueError, match=r"no row of \['problem', 'query_step'\] has 3 entries"):
        correlation_table(frame, "score", "effect", row=["query_step"], by=["data_set"])


def test_rank_correlation_matches_scipy_with_ties_and_is_missing_for_constants():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 4, size=(5, 9)).astype(float)
    effect = rng.integers(0, 4, size=9).astype(float)
    expected = [scipy_stats.spearmanr(row, effect).statistic for row in scores]
    np.testing.assert_allclose(rank_correlation(scores, effect), expected)
    assert np.isnan(rank_correlation(np.ones((1, 9)), effect)).all()


@pytest.mark.parametrize(("x", "y"), [([1, 1, 1], [1, 2, 3]), ([1, 2, 3], [1, 1, 1]), ([1], [1])])
def test_what_does_not_vary_over_problems_has_no_correlation_and_no_p(x, y):
    x, y = np.array(x, dtype=float), np.array(y, dtype=float)
    found = rank_correlation_over_problems(x, y, n_resamples=20, n_permutations=20)
    assert np.isnan([found.estimate, found.lower, found.upper, found.p]).all()
    assert found.n == len(x)


def test_a_correlation_of_zero_is_no_rarer_than_any():
    """Of ranks that give 0 some sums end a bit off it: every permutation is as far."""
    found = [
        rank_correlation_over_problems(np.arange(4.0), np.array(y), n_resamples=20)
        for y in ([2.0, 4.0, 1.0, 3.0], [3.0, 1.0, 4.0, 2.0])
    ]
    assert [one.estimate for one in found] == pytest.approx([0, 0])
    assert [one.p for one in found] == [1, 1]


def test_problems_without_a_value_are_no_ranks():
    x, y = np.arange(6.0), np.arange(6.0)
    x[0], y[3] = np.nan, np.nan
    with pytest.raises(ValueError, match="2 problems lack a value"):
        rank_correlation_over_problems(x, y)


def test_rank_correlations_of_rows_are_scipys():
    x, y = np.random.default_rng(0).integers(0, 5, (2, 4, 9)).astype(float)
    x[3] = 1.0
    expected = [scipy_stats.spearmanr(*pair).statistic for pair in zip(x[:3], y[:3], strict=True)]
    assert row_correlations(x, y)[:3] == pytest.approx(expected)
    assert np.isnan(row_correlations(x, y)[3])


def test_equivalence_is_claimed_wrongly_five_percent_of_the_time_at_the_margin():
    rng = np.random.default_rng(1)
    at_margin = 1.0 + rng.normal(size=(SHUFFLED, 30))
    assert 0.03 <= rate([equivalence(row, margin=1.0).p for row in at_margin]) <= 0.07
    within = 0.1 + rng.normal(size=(SHUFFLED, 30))
    found = [equivalence(row, margin=1.0) for row in within]
    assert rate([row.p for row in found]) > 0.9
    assert all((row.lower > -1 and row.upper < 1) == (row.p < 0.05) for row in found)


def test_intervals_of_means_cover_the_truth_and_exclude_it_five_percent_of_the_time():
    rng = np.random.default_rng(4)
    values = rng.normal(1.0, 2.0, size=(25, 2000))
    index = pd.MultiIndex.from_product([range(25), range(2000)], names=["problem", "data_set"])
    frame = pd.DataFrame({"value": values.ravel()}, index).reset_index()
    table = mean_table(frame, "value", by=["data_set"], n_resamples=2000, n_permutations=50)
    missed = (table["lower"] > 1.0) | (table["upper"] < 1.0)
    assert 0.03 <= missed.mean() <= 0.07
    few = missed.iloc[:SHUFFLED]
    assert 0.03 <= few.mean() <= 0.07


@pytest.mark.parametrize("levels", ["expanded", "plain"])
def test_bootstrap_interval_is_that_of_the_mean(levels):
    rng = np.random.default_rng(0)
    sample = rng.normal(3.0, 2.0, size=(400, 1))
    table = mean_intervals(sample, Draws(n_resamples=4000), levels=levels)
    half = 1.96 * sample.std(ddof=1) / 20
    assert table["lower"][0] == pytest.approx(sample.mean() - half, abs=0.02)
    assert table["upper"][0] == pytest.approx(sample.mean() + half, abs=0.02)


def test_bootstrap_leaves_missing_values_out():
    column = np.array([[1.0], [np.nan], [1.0], [1.0]])
    table = mean_intervals(column, Draws(n_resamples=200), levels="plain")
    assert table.iloc[0].tolist() == [1.0, 1.0, 1.0, 3]


def test_unknown_levels_are_refused():
    with pytest.raises(ValueError, match="levels='narrow' is unknown; choose one of expanded"):
        mean_intervals(np.ones((3, 1)), Draws(), levels="narrow")


def test_expanded_levels_widen_the_interval_of_few_problems_as_far_as_students_t():
    sample = np.random.default_rng(1).normal(size=(6, 1))
    draws = Draws(n_resamples=20_000)
    plain, expanded = (
        mean_intervals(sample, draws, levels=levels).iloc[0] for levels in ("plain", "expanded")
    )
    assert expanded["lower"] < plain["lower"] < plain["upper"] < expanded["upper"]
    tail, n = 0.025, 6
    level = scipy_stats.norm.cdf(scipy_stats.t.ppf(tail, n - 1) * math.sqrt(n / (n - 1)))
    means = problem_shares(n, 20_000, [0, 0]) @ sample[:, 0]
    assert expanded["lower"] == pytest.approx(np.quantile(means, level))
    assert plain["lower"] == pytest.approx(np.quantile(means, tail))


def test_draws_are_given_as_an_object_or_as_keywords_and_unknown_ones_refused():
    frame = pd.DataFrame({"problem": range(20), "value": skewed((20,), 1)})
    draws = Draws(n_resamples=300, confidence=0.9, seed=4)
    whole = mean_table(frame, "value", draws=draws)
    keywords = mean_table(frame, "value", n_resamples=300, confidence=0.9, seed=4)
    pd.testing.assert_frame_equal(whole, keywords)
    changed = mean_table(frame, "value", draws=draws, seed=5)
    assert changed["lower"][0] != whole["lower"][0]
    with pytest.raises(TypeError, match="n_resample"):
        mean_table(frame, "value", n_resample=300)
    with pytest.raises(ValueError, match="confidence=95 is not between 0 and 1"):
        mean_table(frame, "value", confidence=95)


def test_exchanged_labels_keep_the_errors_of_each_stratum():
    labels = np.array([True, False, False, True, True, False])
    strata = [np.array([0, 2, 4]), np.array([1, 3, 5])]
    every, exact = exchanged_labels(labels, strata, 9, seed=0)
    assert exact
    assert len({tuple(row) for row in every}) == len(every) == 9
    drawn, exact = exchanged_labels(labels, strata, 8, seed=0)
    assert not exact
    assert len(drawn) == 8
    for arrangement in (*every, *drawn):
        assert [arrangement[members].sum() for members in strata] == [2, 1]


def test_mean_over_problems_counts_each_problem_once():
    frame = pd.DataFrame({"problem": list("aaab"), "value": [1.0, 2.0, 3.0, 10.0]})
    table = mean_table(frame, "value", n_resamples=100)
    assert table["estimate"].tolist() == [6.0]
    assert table["n"].tolist() == [2]


def test_copying_samples_narrows_no_interval():
    frame = pd.DataFrame({"problem": range(20), "value": skewed((20,), 1)})
    once = mean_table(frame, "value", null=1.0)
    copied = mean_table(pd.concat([frame] * 5), "value", null=1.0)
    pd.testing.assert_frame_equal(once, copied)


def test_missing_names_are_a_group_of_their_own():
    frame = pd.DataFrame(
        {"problem": [1, 2, 1, 2], "layer": [None, None, 3, 3], "value": [1.0, 2.0, 5.0, 7.0]}
    )
    keys, values = reduce_to_problems(frame, "value", by=["layer"])
    assert keys["layer"].isna().tolist() == [True, False]
    np.testing.assert_array_equal(values, [[1, 5], [2, 7]])


def test_rows_without_a_problem_count_towards_none():
    frame = two_conditions(n=4)
    frame["problem"] = frame["problem"].astype(object).where(frame["problem"] < 3)
    with pytest.raises(ValueError, match="6 of 24 rows have no problem"):
        mean_table(frame, "value", by=["condition"])
    with pytest.raises(ValueError, match="6 of 24 rows have no problem"):
        paired_table(frame, "value", condition="condition", reference="base")
    with pytest.raises(ValueError, match="6 of 24 rows have no problem"):
        bootstrap(frame, lambda rows: rows["value"].mean())
    # what is left out for want of a value needs no problem
    frame["value"] = frame["value"].where(frame["problem"].notna())
    assert set(mean_table(frame, "value", by=["condition"], n_resamples=20)["n"]) == {3}
    table = paired_table(frame, "value", condition="condition", reference="base", n_resamples=20)
    assert set(table["n"]) == {3}


def test_differences_that_are_equal_up_to_rounding_have_no_effect_size():
    differences = np.array([0.2 - 0.1, 0.3 - 0.2, 0.4 - 0.3])
    assert differences.std() > 0
    assert np.isnan(standardised(differences[:, None])).all()
    assert standardised(1e-9 * np.array([[1.0], [2.0], [3.0]])) == pytest.approx(2.0)


def two_conditions(seed: int = 0, n: int = 60, effect: float = 0.5) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    difficulty = rng.normal(size=n) * 5
    rows = [
        {"problem": p, "sample": s, "condition": c, "value": difficulty[p] + shift + rng.normal()}
        for p in range(n)
        for s in range(2)
        for c, shift in (("base", 0.0), ("oeb", effect), ("same", 0.0))
    ]
    return pd.DataFrame(rows)


def test_paired_table_takes_what_problems_have_in_common_out():
    frame = two_conditions()
    options = {"condition": "condition", "reference": "base"}
    table = paired_table(frame, "value", pair=["sample"], **options).set_index("condition")
    wide = frame.pivot(index=["problem", "sample"], columns="condition", values="value")
    by_problem = (wide["oeb"] - wide["base"]).groupby("problem").mean()
    assert table.loc["oeb", "estimate"] == pytest.approx(by_problem.mean())
    assert table.loc["oeb", "effect_size"] == pytest.approx(by_problem.mean() / by_problem.std())
    assert table.loc["oeb", "lower"] > 0
    assert table.loc["oeb", "p_holm"] < 0.05 < table.loc["same", "p"]
    assert table.loc["oeb", "upper"] - table.loc["oeb", "lower"] < 1
    expected = scipy_stats.ttest_1samp(by_problem, 0).confidence_interval()
    assert table.loc["oeb", "lower"] == pytest.approx(expected.low, abs=0.03)


def test_unpaired_rows_are_left_out_and_no_pair_at_all_is_refused():
    frame = two_conditions(n=6)
    lonely = frame[~((frame["problem"] == 5) & (frame["condition"] == "base"))]
    options = {"condition": "condition", "reference": "base", "n_resamples": 50}
    assert set(paired_table(lonely, "value", **options)["n"]) == {5}
    apart = frame[(frame["condition"] == "base") == (frame["problem"] < 3)]
    with pytest.raises(ValueError, match="no problem has a value both for 'base'"):
        paired_table(apart, "value", **options)
    with pytest.raises(ValueError, match="reference 'none' is none of the conditions"):
        paired_table(frame, "value", condition="condition", reference="none")
    with pytest.raises(ValueError, match="columns \\['nothing'\\] are missing"):
        paired_table(frame, "nothing", **options)


def test_binary_table_counts_corrected_and_broken_apart():
    before, after = answers(1, 100, seed=7, repair=0.2)
    frame = pd.DataFrame(
        {
            "problem": np.tile(np.arange(100), 2),
            "condition": np.repeat(["base", "both"], 100),
            "is_correct": np.concatenate([before[0], after[0]]),
        }
    )
    (row,) = binary_table(frame, condition="condition", reference="base").to_dict("records")
    assert row["corrected"] - row["broken"] == after.sum() - before.sum()
    assert row["estimate"] == pytest.approx((row["corrected"] - row["broken"]) / 100)
    assert row["p_mcnemar"] == mcnemar(before[0], after[0])["p_mcnemar"]
    assert row["p"] == pytest.approx(row["p_mcnemar"], abs=0.03)


@pytest.mark.parametrize(("samples", "n_problems"), [(1, 300), (4, 60)])
def test_sign_flips_reject_five_percent_of_shuffled_answers_most_of_which_are_alike(
    samples, n_problems
):
    sets = binary_sets(
        ["base", "a", "b"], n_problems=n_problems, samples=samples, alike=0.5, seed=samples
    )
    options = {"condition": "condition", "reference": "base", "pair": ["sample"]}
    options |= {"n_resamples": 20, "n_permutations": 499}
    rate_ = rejected(sets, lambda values: binary_table(values, **options)["p"])
    assert 0.03 <= rate_ <= 0.07


def test_binary_table_gives_no_mcnemar_for_dependent_pairs():
    rows = [
        {"problem": p, "sample": s, "condition": c, "is_correct": (p + s + len(c)) % 2}
        for p, s, c in itertools.product(range(5), range(2), ["a", "bb"])
    ]
    options = {"condition": "condition", "reference": "a", "pair": ["sample"], "n_resamples": 50}
    (row,) = binary_table(pd.DataFrame(rows), **options).to_dict("records")
    assert math.isnan(row["p_mcnemar"])
    assert (row["corrected"], row["broken"], row["n"]) == (5, 5, 5)
    with pytest.raises(ValueError, match="an answer stands twice"):
        binary_table(pd.DataFrame(rows), condition="condition", reference="a")
    with pytest.raises(ValueError, match="right and wrong are 1 and 0"):
        binary_table(pd.DataFrame(rows).assign(is_correct=2), **options)


def test_odds_ratio_and_risk_difference_of_unpaired_groups():
    found = odds_ratio(np.array([[30, 10], [15, 25]]))
    assert found["odds_ratio"] == pytest.approx(5.0, rel=0.05)
    assert found["odds_lower"] > 1
    assert found["risk_difference"] == pytest.approx(30 / 40 - 15 / 40)
    assert found["risk_lower"] < 0.375 < found["risk_upper"]
    with pytest.raises(ValueError, match="is empty"):
        odds_ratio(np.array([[0, 0], [1, 1]]))


def test_bootstrap_of_any_statistic_agrees_with_that_of_means():
    frame = two_conditions(n=30)
    base = frame[frame["condition"] == "base"]
    slow = bootstrap(base, lambda rows: rows["value"].mean(), interval="percentile", seed=1)
    fast = mean_table(base, "value", n_resamples=20_000).iloc[0]
    assert slow.estimate == pytest.approx(fast["estimate"])
    width = fast["upper"] - fast["lower"]
    assert slow.lower == pytest.approx(fast["lower"], abs=0.1 * width)
    assert slow.upper == pytest.approx(fast["upper"], abs=0.1 * width)


def test_a_problem_drawn_twice_is_two_problems():
    frame = pd.DataFrame({"problem": ["a", "b", "c"], "value": [1.0, 2.0, 3.0]})
    counts = []

    def count(rows: pd.DataFrame) -> float:
        counts.append(rows["problem"].nunique())
        return rows["value"].mean()

    bootstrap(frame, count, interval="percentile", n_resamples=20)
    assert set(counts) == {3}


@pytest.mark.parametrize("interval", ["percentile", "bca"])
def test_interval_of_a_ratio_covers_the_truth(interval):
    rng = np.random.default_rng(2)
    covered = []
    for seed in range(SHUFFLED):
        values = np.stack([rng.gamma(2, 3, 40), rng.gamma(4, 0.5, 40)], 1)
        found = bootstrap_means(values, ratio, interval=interval, n_resamples=600, seed=seed)
        covered.append(found.lower <= 3.0 <= found.upper)
    assert 0.92 <= np.mean(covered) <= 0.98


@pytest.mark.parametrize("interval", ["percentile", "bca"])
@pytest.mark.parametrize("share", [0.0, 0.1])
def test_the_interval_of_a_statistic_that_does_not_vary_is_a_point(interval, share):
    """Nothing out of numbers that differ, and a tenth of them, up to rounding."""
    sizes = np.arange(1.0, 13.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = bootstrap_means(
            np.stack([share * sizes, sizes], axis=1), ratio, interval=interval, n_resamples=200
        )
    point = pytest.approx(share, abs=1e-12)
    assert (found.estimate, found.lower, found.upper) == (point, point, point)


def test_difference_of_means_agrees_with_welch_in_kind_and_refuses_missing_values():
    values = np.random.default_rng(0).normal([1.0, 0.0], 1.0, size=(50, 2))
    found = bootstrap_means(values, difference, interval="percentile")
    assert found.estimate == pytest.approx(np.diff(values, axis=1).mean() * -1)
    expected = scipy_stats.ttest_rel(values[:, 0], values[:, 1]).confidence_interval()
    assert (found.lower, found.upper) == pytest.approx((expected.low, expected.high), abs=0.05)
    values[0, 0] = np.nan
    with pytest.raises(ValueError, match="1 problems lack a value"):
        bootstrap_means(values, difference)
    with pytest.raises(ValueError, match="interval='normal' is unknown"):
        bootstrap_means(values[1:], difference, interval="normal")


def test_a_detectable_effect_is_found_as_often_as_said():
    rng = np.random.default_rng(0)
    sample = rng.normal(size=40)
    effect = detectable_effect(sample) / sample.std(ddof=1)
    found = scipy_stats.ttest_1samp(rng.normal(effect, 1, size=(40, MANY)), 0).pvalue
    assert rate(found) == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize("n", [3, 10, 73, 87, 92, 109, 120, 1000])
def test_the_detectable_effect_has_the_power_that_statsmodels_computes(n):
    sample = np.random.default_rng(n).normal(size=n)
    ratio_ = detectable_effect(sample, power=0.8) / sample.std(ddof=1)
    assert TTestPower().power(ratio_, n, 0.05) == pytest.approx(0.8, abs=1e-6)


@pytest.mark.parametrize(
    ("n", "power", "alpha"), [(3, 0.95, 0.05), (4, 0.99, 0.05), (5, 0.9, 0.01), (5, 0.5, 0.001)]
)
def test_a_detectable_effect_beyond_what_scipy_has_a_far_tail_for(n, power, alpha):
    """Power as the mean over the spread that is seen, by quadrature."""
    sample = np.random.default_rng(n).normal(size=n)
    shift = detectable_effect(sample, power=power, alpha=alpha) / sample.std(ddof=1) * n**0.5
    critical = scipy_stats.t.ppf(1 - alpha / 2, n - 1)
    spread = (np.arange(200_000) + 0.5) / 200_000
    seen = critical * np.sqrt(scipy_stats.chi2.ppf(spread, n - 1) / (n - 1))
    found = scipy_stats.norm.sf(seen - shift) + scipy_stats.norm.cdf(-seen - shift)
    assert found.mean() == pytest.approx(power, abs=1e-4)


@pytest.mark.parametrize(("power", "alpha"), [(1.0, 0.05), (0.01, 0.05), (0.8, 0.0)])
def test_a_power_that_no_effect_has_is_refused(power, alpha):
    with pytest.raises(ValueError, match=r"need 0 < alpha < power < 1"):
        detectable_effect(np.arange(5.0), power=power, alpha=alpha)


def test_holm_within_families():
    table = pd.DataFrame({"kind": ["a", "a", "b"], "p": [0.01, 0.04, 0.04]})
    assert with_holm(table, family=["kind"])["p_holm"].tolist() == pytest.approx([0.02, 0.04, 0.04])
    assert with_holm(table)["p_holm"].tolist() == pytest.approx([0.03, 0.08, 0.08])
