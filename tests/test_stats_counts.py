"""Few changes: intervals and equivalence from counts, against formulas written out."""

import itertools
import math
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, special, stats

from step_saliency.stats.binary import binary_table
from step_saliency.stats.counts import (
    FEW,
    difference_from_counts,
    equivalence_from_counts,
    share_from_counts,
    unpaired_from_counts,
)
from step_saliency.stats.equivalence import detectable_effect, equivalence
from step_saliency.stats.paired import paired_table
from step_saliency.stats.problems import mean_table
from step_saliency.stats.ranks import correlation_table
from step_saliency.stats.score import equivalence_by_score, score

Z = stats.norm.ppf(0.975)


def wilson(count: float, n: int) -> tuple[float, float]:
    """Roots of (p - count / n)^2 = z^2 p (1 - p) / n."""
    roots = np.roots([n + Z**2, -(2 * count + Z**2), count**2 / n])
    return float(min(roots)), float(max(roots))


def flips(n: int, better: int, worse: int) -> np.ndarray:
    return np.array([1.0] * better + [-1.0] * worse + [0.0] * (n - better - worse))


def answers(n: int, better: int, worse: int, samples: int = 1) -> pd.DataFrame:
    """Right and wrong under two conditions, the first of the problems changed."""
    change = flips(n, better, worse)
    base = np.where(change > 0, 0, np.where(change < 0, 1, np.arange(n) % 2))
    frames = [
        pd.DataFrame(
            {"problem": range(n), "sample": s, "condition": name, "is_correct": base + shift}
        )
        for name, shift in (("base", 0), ("edit", change.astype(int)))
        for s in range(samples)
    ]
    return pd.concat(frames, ignore_index=True)


def table(frame: pd.DataFrame, **options):
    options = {"condition": "condition", "reference": "base", "n_permutations": 200} | options
    return binary_table(frame, **options).iloc[0]


@pytest.mark.parametrize(("n", "better", "worse"), [(12, 0, 0), (60, 3, 0), (60, 1, 2), (5, 5, 0)])
def test_few_flips_have_newcombes_interval(n, better, worse):
    (low_b, high_b), (low_c, high_c) = wilson(better, n), wilson(worse, n)
    b, c = better / n, worse / n
    r = math.sqrt(b * c / ((1 - b) * (1 - c))) if b < 1 else 0.0
    lower = (
        b - c - math.sqrt((b - low_b) ** 2 + (high_c - c) ** 2 + 2 * r * (b - low_b) * (high_c - c))
    )
    upper = (
        b - c + math.sqrt((high_b - b) ** 2 + (c - low_c) ** 2 + 2 * r * (high_b - b) * (c - low_c))
    )
    row = table(answers(n, better, worse))
    assert (row["lower"], row["upper"]) == pytest.approx((max(lower, -1), min(upper, 1)), abs=1e-7)
    assert row["lower"] <= row["estimate"] <= row["upper"]
    assert row["upper"] - row["lower"] > 0.05
    assert (row["interval"], row["interval_corrected"]) == ("newcombe", False)


@pytest.mark.parametrize(("better", "worse"), [(6, 2), (4, 4), (1, 7)])
def test_where_all_flip_the_difference_is_a_share_of_one_direction(better, worse):
    limits = difference_from_counts(flips(8, better, worse), 0.95)
    assert limits == pytest.approx([2 * limit - 1 for limit in wilson(better, 8)])


def test_more_flips_have_the_bootstrap_as_before():
    frame = answers(60, 4, 1)
    row = table(frame)
    plain = paired_table(
        frame, "is_correct", condition="condition", reference="base", n_permutations=200
    ).iloc[0]
    assert row["interval"] == plain["interval"] == "bootstrap"
    assert (row["lower"], row["upper"]) == (plain["lower"], plain["upper"])
    assert difference_from_counts(flips(60, FEW - 1, 0), 0.95) is not None
    assert difference_from_counts(flips(60, FEW, 0), 0.95) is None


def test_samples_of_a_problem_narrow_no_interval():
    once, thrice = table(answers(20, 2, 0)), table(answers(20, 2, 0, samples=3), pair=["sample"])
    assert (once["lower"], once["upper"]) == (thrice["lower"], thrice["upper"])


def test_rare_flips_are_covered_where_a_bootstrap_misses_them():
    rng = np.random.default_rng(0)
    hits = []
    for changed in rng.binomial(60, 0.02, 300):
        row = table(answers(60, changed, 0), n_resamples=300)
        hits.append(row["lower"] <= 0.02 <= row["upper"])
    assert np.mean(hits) > 0.93


def test_all_right_is_not_certainly_right():
    frame = pd.DataFrame({"problem": range(20), "is_correct": 1, "length": 7.5})
    row = mean_table(frame, "is_correct", kind="share").iloc[0]
    assert (row["lower"], row["upper"]) == pytest.approx(wilson(20, 20))
    assert row["interval"] == "wilson"
    assert share_from_counts(np.array([1.0] * 15 + [0.0] * 5), 0.95) is None
    assert mean_table(frame, "length").iloc[0]["interval"] == "bootstrap"


def test_a_measure_that_is_zero_everywhere_is_no_share():
    """Decided by what the caller says, not by the values."""
    frame = pd.DataFrame({"problem": range(78), "margin": 0.0})
    row = mean_table(frame, "margin", kind="measure", null=0.0).iloc[0]
    assert (row["lower"], row["upper"], row["interval"]) == (0.0, 0.0, "bootstrap")
    share = mean_table(frame, "margin", kind="share").iloc[0]
    assert (share["lower"], share["upper"]) == (0.0, pytest.approx(wilson(0, 78)[1]))
    difference = mean_table(frame, "margin", kind="difference").iloc[0]
    assert -difference["lower"] == difference["upper"] == pytest.approx(wilson(0, 78)[1])
    assert difference["interval"] == "newcombe"
    twice = mean_table(frame, "margin", kind="difference", bound=2.0).iloc[0]
    assert (twice["lower"], twice["upper"]) == (2 * difference["lower"], 2 * difference["upper"])


def test_truth_values_declare_themselves_and_numbers_ask():
    frame = pd.DataFrame({"problem": range(20), "hit": True})
    declared = mean_table(frame, "hit").iloc[0]
    assert declared["interval"] == "wilson"
    with pytest.warns(UserWarning, match=r"column 'hit' holds 0 and 1 alone.*kind='share'"):
        asked = mean_table(frame.astype({"hit": int}), "hit").iloc[0]
    assert asked["interval"] == "bootstrap"
    mixed = pd.DataFrame({"problem": range(20), "hit": [0, 1] * 10})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mean_table(mixed, "hit")


@pytest.mark.parametrize("dtype", ["bool", "boolean", "object"])
def test_truth_values_declare_themselves_in_every_type_of_column(dtype):
    rows = pd.DataFrame({"problem": np.repeat(range(20), 2), "condition": ["a", "b"] * 20})
    hits = pd.Series([True] * 40, dtype=dtype)
    unknown = {"boolean": pd.NA, "object": None}
    if dtype in unknown:
        hits[[38, 39]] = unknown[dtype]
    n = 20 - (dtype in unknown)
    mean = mean_table(rows.assign(hit=hits), "hit", by=["condition"]).iloc[0]
    assert (mean["interval"], mean["n"]) == ("wilson", n)
    paired = paired_table(rows.assign(hit=hits), "hit", condition="condition", reference="a")
    assert (paired.iloc[0]["interval"], paired.iloc[0]["n"]) == ("newcombe", n)


@pytest.mark.parametrize(
    ("kind", "values"), [("share", [0.0, 1.5]), ("difference", [0.0, -1.2]), ("flips", [0.0, 1.0])]
)
def test_values_that_are_not_of_the_kind_are_refused(kind, values):
    frame = pd.DataFrame({"problem": [0, 1], "value": values})
    with pytest.raises(ValueError, match=r"kind='flips' is unknown|holds (1\.5|-1\.2)"):
        mean_table(frame, "value", kind=kind)


def test_paired_answers_have_counted_intervals_where_they_are_declared():
    frame, options = answers(60, 0, 0), {"condition": "condition", "reference": "base"}
    counted = paired_table(frame, "is_correct", kind="share", **options).iloc[0]
    assert (counted["lower"], counted["upper"]) == pytest.approx((-0.0602, 0.0602), abs=1e-4)
    assert counted["interval"] == "newcombe"
    with pytest.warns(UserWarning, match="kind='share'"):
        plain = paired_table(frame, "is_correct", **options).iloc[0]
    assert (plain["lower"], plain["upper"], plain["interval"]) == (0, 0, "bootstrap")
    with pytest.raises(ValueError, match="kind='difference' is unknown"):
        paired_table(frame, "is_correct", kind="difference", **options)


def test_few_hits_of_two_groups_have_an_interval():
    hits, sizes = np.zeros((40, 2)), np.repeat([[2.0, 0.0], [0.0, 1.0]], 20, axis=0)
    limits = unpaired_from_counts(hits, sizes, 0.95)
    assert limits == pytest.approx((-wilson(0, 20)[1], wilson(0, 20)[1]))
    hits[:FEW, 0] = 1
    one_has_none = unpaired_from_counts(hits, sizes, 0.95)
    assert one_has_none is not None
    assert one_has_none[0] < FEW / 40 - wilson(0, 20)[1]  # draws of the other group are all 0
    hits[20 : 20 + FEW, 1] = 1
    assert unpaired_from_counts(hits, sizes, 0.95) is None
    low, high = unpaired_from_counts(sizes, sizes, 0.95)
    assert (low, high) == pytest.approx((wilson(20, 20)[0] - 1, 1 - wilson(20, 20)[0]))


def test_one_problem_has_no_interval_and_says_so():
    row = mean_table(pd.DataFrame({"problem": [1], "value": [1.0]}), "value").iloc[0]
    assert row["interval"] == "none"
    assert math.isnan(row["lower"])


def test_differences_without_spread_are_not_equivalent():
    for value in (0.0, 0.1, 0.5):
        found = equivalence(np.full(20, value), margin=0.2)
        assert math.isnan(found.p)
        assert math.isnan(found.lower)
        assert found.estimate == pytest.approx(value)


@pytest.mark.parametrize(("n", "better", "worse"), [(60, 0, 0), (60, 2, 0), (200, 1, 3)])
def test_equivalence_of_few_flips_is_exact(n, better, worse):
    found = equivalence(flips(n, better, worse), margin=0.05, bound=1.0)
    k = max(better, worse)
    terms = [math.comb(n, i) * 0.05**i * 0.95 ** (n - i) for i in range(k + 1)]
    assert found.p == pytest.approx(sum(terms))
    assert found.lower < found.estimate < found.upper


def test_equivalence_of_rare_flips_at_the_margin_is_claimed_wrongly_five_percent_at_most():
    for n in (20, 60, 100):
        chance = sum(
            stats.binom.pmf(k, n, 0.05)
            for k in range(FEW)
            if equivalence_from_counts(flips(n, k, 0), 0.05) <= 0.05
        )
        assert chance <= 0.05


def test_equivalence_with_spread_is_the_t_test_where_differences_are_no_flips():
    differences = flips(60, 8, 4) / 2
    bounded, free = (equivalence(differences, margin=0.3, bound=b) for b in (1.0, None))
    assert bounded == free
    with pytest.raises(ValueError, match="bound"):
        equivalence(differences, margin=0.3, bound=0.25)


def likelihood_score(better, worse, n, difference):
    """The score with the nuisance share found by a search, not by a formula."""

    def loss(q):
        shares = np.array([q + difference, q, 1 - difference - 2 * q])
        return -special.xlogy([better, worse, n - better - worse], shares).sum()

    ends = max(0.0, -difference) + 1e-12, (1 - difference) / 2 - 1e-12
    q = optimize.minimize_scalar(loss, bounds=ends, method="bounded", options={"xatol": 1e-13}).x
    variance = n * (2 * q + difference - difference**2)
    return (better - worse - n * difference) / math.sqrt(variance)


@pytest.mark.parametrize("counts", [(7, 0, 1000), (21, 22, 660), (3, 5, 50), (0, 12, 80)])
@pytest.mark.parametrize("difference", [0.012, -0.05, 0.3])
def test_the_score_of_pairs_is_that_of_the_likelihood(counts, difference):
    expected = likelihood_score(*counts, difference)
    assert score(*counts, difference) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("n", "margin"), [(1000, 0.012), (660, 0.03), (176, 0.05)])
@pytest.mark.parametrize("both_ways", [0.0, 0.01, 0.05])
def test_equivalence_of_flips_at_the_margin_is_claimed_wrongly_five_percent_at_most(
    n, margin, both_ways
):
    shares = margin + both_ways, both_ways, 1 - margin - 2 * both_ways
    most = int(stats.binom.isf(1e-6, n, shares[0]))
    chance = 0.0
    for better, worse in itertools.product(range(most), repeat=2):
        if better + worse < FEW:
            p = stats.binom.cdf(max(better, worse), n, margin)
        else:
            p = equivalence_by_score(better, worse, n, margin)
        if p <= 0.05:
            chance += stats.multinomial.pmf([better, worse, n - better - worse], n, shares)
    assert chance <= 0.05


def test_a_t_test_of_rare_flips_claims_equivalence_too_often():
    n, margin = 1000, 0.012
    chance = sum(
        stats.binom.pmf(k, n, margin)
        for k in range(FEW, 40)
        if equivalence(flips(n, k, 0), margin=margin).p <= 0.05
    )
    assert chance > 0.07


def test_equivalence_of_flips_is_that_of_its_interval():
    for better, worse in [(5, 0), (7, 0), (8, 4), (21, 22), (60, 0)]:
        found = equivalence(flips(60, better, min(worse, 60 - better)), margin=0.2, bound=1.0)
        assert (found.lower > -0.2 and found.upper < 0.2) == (found.p < 0.05)
        assert found.lower < found.estimate <= found.upper


@pytest.mark.parametrize("value", [math.inf, -math.inf, "True"])
def test_values_that_have_no_mean_are_refused_by_name(value):
    frame = pd.DataFrame({"problem": [0, 0, 1, 1], "condition": ["a", "b"] * 2})
    frame["gain"] = pd.Series([1.0, value, 0.0, 1.0], dtype=object)
    options = {"condition": "condition", "reference": "a"}
    for call in (
        lambda: mean_table(frame, "gain", by=["condition"]),
        lambda: paired_table(frame, "gain", **options),
        lambda: binary_table(frame, "gain", **options),
    ):
        with pytest.raises(ValueError, match=r"'gain' (is infinite in 1 of 4 rows|holds 'True')"):
            call()


def test_a_row_without_a_name_is_correlated_and_one_without_a_problem_refused():
    steps = {"query_step": np.repeat([1, 2], 3), "head": np.repeat([np.nan, 0.0], 3)}
    frame = pd.concat([pd.DataFrame({"problem": p, **steps}) for p in range(4)], ignore_index=True)
    frame["score"] = np.tile([0, 1, 2, 2, 1, 0], 4)
    frame["effect"] = np.tile([0, 1, 2], 8)
    found = correlation_table(frame, "score", "effect", row=["query_step", "head"])
    assert (found["n_rows"][0], found["estimate"][0]) == (8, pytest.approx(0))
    frame["problem"] = frame["problem"].astype(object).where(frame["problem"] > 0)
    with pytest.raises(ValueError, match="6 of 24 rows have no problem"):
        correlation_table(frame, "score", "effect", row=["query_step"])


def test_where_nothing_changed_no_detectable_difference_is_known():
    assert math.isnan(detectable_effect(np.zeros(10)))
    assert math.isnan(detectable_effect(np.full(10, 0.1) + 1e-17))
    assert detectable_effect(np.array([0.0] * 9 + [1.0])) > 0.1
