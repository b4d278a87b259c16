"""Statistics of all analyses: the problem is the unit.

Tokens, layers and samples of one problem are not independent; problems are. Whatever is measured
is therefore reduced to one number per problem first, each problem counts once, and intervals and
tests draw, flip or permute whole problems. Tables have the columns ``estimate, lower, upper, n``
(problems) and, where something is tested, ``p``.

    mean_table          mean over problems of the problem's mean
    paired_table        a condition minus the reference condition, paired within problems
    binary_table        the same for right and wrong, with corrected and broken counted apart
    correlation_table   Spearman's rho within rows, averaged within problems, then over them

Intervals. ``"percentile"``: percentile bootstrap at expanded levels (see
`step_saliency.stats.resampling`); ``"bca"``: bias-corrected and accelerated (scipy), for skewed
statistics such as ratios. Tests are two-sided:

    p           sign flips of the problems' differences, exact up to `N_PERMUTATIONS` arrangements
    p_mcnemar   exact binomial test of corrected against broken answers; conservative, because it is
                discrete; ``p_mid`` counts the observed arrangement half and is not. Both take pairs
                as independent, so they are given only where a problem has one pair
    p_holm      Holm's correction over the rows of a table (or of a family within it)
    equivalence two one-sided t-tests (TOST): a small p says that the difference is smaller than the
                margin. A large p elsewhere says nothing of that kind; read the detectable effect

When it misleads: below ten problems intervals are rough. A sign-flip test asks for symmetry about
zero, which exchangeable conditions give and a skewed one-sample statistic does not.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from scipy import optimize, stats

from step_saliency.options import check_option
from step_saliency.stats.resampling import (
    Bootstrap,
    expanded_level,
    permutation_p_values,
    sign_flips,
    standardised,
)
from step_saliency.stats.resampling import holm as holm

Interval = Literal["percentile", "bca"]

N_RESAMPLES = 5000
N_PERMUTATIONS = 10_000


@dataclass(frozen=True)
class Estimate:
    """A statistic over problems.

    Attributes:
        estimate: Its value.
        lower: Lower end of the interval.
        upper: Upper end.
        n: Number of problems.
        p: Two-sided p-value, missing where nothing was tested.
    """

    estimate: float
    lower: float
    upper: float
    n: int
    p: float = math.nan

    def row(self) -> dict[str, float | int]:
        """As columns of a table."""
        return asdict(self)


def reduce_to_problems(
    frame: pd.DataFrame, value: str, *, by: Sequence[str] = (), problem: str = "problem"
) -> tuple[pd.DataFrame, Float[np.ndarray, "problem key"]]:
    """Mean of the value within each problem, one column a group.

    Args:
        frame: Long table.
        value: Column that is averaged; rows without a value are left out.
        by: Columns that name the groups; missing names are a group of their own.
        problem: Column of the problem.

    Returns:
        One row of ``by`` per column of the array; the array, missing where a problem has no value.

    Raises:
        ValueError: columns are missing, or there is no value.
    """
    check_columns(frame, [problem, value, *by])
    frame = frame[frame[value].notna()]
    if frame.empty:
        raise ValueError(f"column {value!r} has no value to average")
    rows, names = pd.factorize(frame[problem], sort=False)
    grouped = frame.groupby(list(by), sort=False, dropna=False) if by else None
    columns = np.zeros(len(frame), int) if grouped is None else grouped.ngroup().to_numpy()
    shape = (len(names), columns.max() + 1)
    totals, counts = np.zeros(shape), np.zeros(shape)
    np.add.at(totals, (rows, columns), frame[value].to_numpy(dtype=float))
    np.add.at(counts, (rows, columns), 1)
    first = np.unique(columns, return_index=True)[1]
    keys = frame[list(by)].take(first).reset_index(drop=True)
    return keys, np.where(counts > 0, totals / np.maximum(counts, 1), np.nan)


def check_columns(frame: pd.DataFrame, wanted: Sequence[str]) -> None:
    """Raise ValueError for columns that a table lacks."""
    missing = [name for name in wanted if name not in frame.columns]
    if missing:
        raise ValueError(f"columns {missing} are missing; the table has {list(frame.columns)}")


def mean_table(
    frame: pd.DataFrame,
    value: str,
    *,
    by: Sequence[str] = (),
    problem: str = "problem",
    null: float | None = None,
    confidence: float = 0.95,
    n_resamples: int = N_RESAMPLES,
    n_permutations: int = N_PERMUTATIONS,
    seed: int = 0,
) -> pd.DataFrame:
    """Mean over problems of each group.

    Args:
        frame: Long table.
        value: Column that is averaged, within problems first.
        by: Columns that name the groups.
        problem: Column of the problem.
        null: Value that the mean is tested against by sign flips; None tests nothing.
        confidence: Level of the intervals.
        n_resamples: Bootstrap draws.
        n_permutations: Arrangements up to which a test is exact, and the number drawn beyond.
        seed: Of the draws.

    Returns:
        One row a group: ``by`` columns, ``estimate, lower, upper, n, p``.

    Raises:
        ValueError: columns are missing, or there is no value.
    """
    keys, values = reduce_to_problems(frame, value, by=by, problem=problem)
    found = _means(values, confidence=confidence, n_resamples=n_resamples, seed=seed)
    p: Any = math.nan
    if null is not None:
        p = sign_flip_p(values - null, n_permutations=n_permutations, seed=seed)[0]
    return pd.concat([keys, found.assign(p=p)], axis=1)


def _means(
    values: Float[np.ndarray, "problem key"], *, confidence: float, n_resamples: int, seed: int
) -> pd.DataFrame:
    bootstrap = Bootstrap(len(values), confidence=confidence, n_resamples=n_resamples, seed=seed)
    lower, upper = bootstrap.interval(values)
    n = (~np.isnan(values)).sum(0)
    estimate = np.nansum(values, 0) / np.where(n > 0, n, np.nan)
    return pd.DataFrame({"estimate": estimate, "lower": lower, "upper": upper, "n": n})


def sign_flip_p(
    differences: Float[np.ndarray, "problem key"],
    *,
    n_permutations: int = N_PERMUTATIONS,
    seed: int = 0,
) -> tuple[Float[np.ndarray, "key"], bool]:
    """Paired permutation test by problem, and whether it is exact.

    Exchanging two conditions within a problem flips the sign of its difference. Missing differences
    take no part.
    """
    known = np.nan_to_num(differences)
    signs, exact = sign_flips(len(known), n_permutations, seed)
    return permutation_p_values(signs, known, known.sum(0), exact), exact


def paired_table(
    frame: pd.DataFrame,
    value: str,
    *,
    condition: str,
    reference: Any,
    by: Sequence[str] = (),
    pair: Sequence[str] = (),
    problem: str = "problem",
    family: Sequence[str] = (),
    confidence: float = 0.95,
    n_resamples: int = N_RESAMPLES,
    n_permutations: int = N_PERMUTATIONS,
    seed: int = 0,
) -> pd.DataFrame:
    """Each condition minus the reference, paired within problems.

    Args:
        frame: Long table, one row per problem, condition, and whatever ``by`` and ``pair`` name.
        value: Column that is compared.
        condition: Column of the condition.
        reference: Condition that is subtracted.
        by: Columns that name groups compared apart.
        pair: Columns that tell which rows of a problem belong together, such as the sample; without
            them the means of a problem are compared.
        problem: Column of the problem.
        family: Columns within whose values Holm's correction is made; the whole table by default.
        confidence: Level of the intervals.
        n_resamples: Bootstrap draws.
        n_permutations: Arrangements up to which the test is exact, and the number drawn beyond.
        seed: Of the draws.

    Returns:
        One row per group and condition: ``by``, ``condition``, ``reference``, ``estimate, lower,
        upper, n, p, p_holm, effect_size`` (Cohen's d_z), ``mean, mean_reference, detectable`` (the
        difference that a t-test would have found with probability 0.8).

    Raises:
        ValueError: columns are missing, the reference is not among the conditions, or no problem
            has both.
    """
    merged = _pairs(frame, value, condition, reference, [*by, *pair], problem)
    keys, differences = reduce_to_problems(
        merged.assign(_difference=merged[value] - merged["_reference"]),
        "_difference",
        by=[*by, condition],
        problem=problem,
    )
    found = _means(differences, confidence=confidence, n_resamples=n_resamples, seed=seed)
    _, means = reduce_to_problems(merged, value, by=[*by, condition], problem=problem)
    _, references = reduce_to_problems(merged, "_reference", by=[*by, condition], problem=problem)
    columns = [column[~np.isnan(column)] for column in differences.T]
    found["p"] = sign_flip_p(differences, n_permutations=n_permutations, seed=seed)[0]
    found["effect_size"] = [standardised(column[:, None])[0] for column in columns]
    found["mean"], found["mean_reference"] = np.nanmean(means, 0), np.nanmean(references, 0)
    found["detectable"] = [detectable_effect(column) for column in columns]
    table = pd.concat([keys.assign(reference=reference), found], axis=1)
    return with_holm(table, family=family)


def _pairs(
    frame: pd.DataFrame,
    value: str,
    condition: str,
    reference: Any,
    match: Sequence[str],
    problem: str,
) -> pd.DataFrame:
    """Rows of the other conditions with the reference's value of the same problem and match."""
    check_columns(frame, [problem, value, condition, *match])
    known = sorted(map(str, frame[condition].unique()))
    if reference not in set(frame[condition]):
        raise ValueError(f"reference {reference!r} is none of the conditions {known}")
    frame = frame[frame[value].notna()]
    on = [problem, *match]
    means = frame.groupby([*on, condition], sort=False, dropna=False)[value].mean().reset_index()
    is_reference = means[condition] == reference
    of_reference = means[is_reference].rename(columns={value: "_reference"})
    merged = means[~is_reference].merge(of_reference[[*on, "_reference"]], on=on)
    if merged.empty:
        raise ValueError(f"no {problem} has a value both for {reference!r} and another of {known}")
    return merged


def with_holm(
    table: pd.DataFrame, *, p: str = "p", family: Sequence[str] = (), name: str = "p_holm"
) -> pd.DataFrame:
    """Add Holm's correction of a column of p-values, after it.

    Args:
        table: Table with one test a row.
        p: Column of the p-values.
        family: Columns within whose values the tests are corrected together.
        name: Column that is added.
    """
    groups = table.groupby(list(family), dropna=False) if family else [(None, table)]
    corrected = pd.Series(np.nan, table.index)
    for _, rows in groups:
        corrected[rows.index] = holm(rows[p].to_numpy(float))
    table = table.copy()
    table.insert(list(table.columns).index(p) + 1, name, corrected)
    return table


def binary_table(
    frame: pd.DataFrame,
    value: str = "is_correct",
    *,
    condition: str,
    reference: Any,
    by: Sequence[str] = (),
    pair: Sequence[str] = (),
    problem: str = "problem",
    family: Sequence[str] = (),
    confidence: float = 0.95,
    n_resamples: int = N_RESAMPLES,
    n_permutations: int = N_PERMUTATIONS,
    seed: int = 0,
) -> pd.DataFrame:
    """`paired_table` for right and wrong, with the answers that a condition corrects and breaks.

    Args:
        frame: As for `paired_table`, with one row per problem, condition, group and pair.
        value: Column that is True, False, 1 or 0.
        condition: Column of the condition.
        reference: Condition that is compared with.
        by: Columns that name groups compared apart.
        pair: Columns that name the answers of a problem, such as the sample.
        problem: Column of the problem.
        family: Columns within whose values Holm's correction is made; the whole table by default.
        confidence: Level of the intervals.
        n_resamples: Bootstrap draws.
        n_permutations: Arrangements up to which the test is exact, and the number drawn beyond.
        seed: Of the draws.

    Returns:
        The columns of `paired_table` (``estimate`` is the risk difference), then ``n_pairs,
        corrected, broken, p_mcnemar, p_mid, odds_ratio, odds_lower, odds_upper`` (corrected over
        broken).

    Raises:
        ValueError: as `paired_table`; an answer stands twice; a value is neither 0 nor 1.
    """
    on = [problem, *by, *pair, condition]
    check_columns(frame, [*on, value])
    frame = frame[frame[value].notna()].assign(**{value: lambda rows: rows[value].astype(float)})
    strange = sorted(set(frame[value]) - {0.0, 1.0})
    if strange:
        raise ValueError(f"column {value!r} holds {strange[:3]}; right and wrong are 1 and 0")
    if frame.duplicated(on).any():
        twice = frame.loc[frame.duplicated(on), on].iloc[0].to_dict()
        raise ValueError(f"an answer stands twice: {twice}; name the samples in pair=[...]")
    options: dict[str, Any] = {"by": by, "pair": pair, "problem": problem, "family": family}
    options |= {"confidence": confidence, "n_resamples": n_resamples}
    options |= {"n_permutations": n_permutations, "seed": seed}
    table = paired_table(frame, value, condition=condition, reference=reference, **options)
    merged = _pairs(frame, value, condition, reference, [*by, *pair], problem)
    groups = merged.groupby([*by, condition], sort=False, dropna=False)
    counts = [_flips(rows, value, problem, confidence) for _, rows in groups]
    return pd.concat([table, pd.DataFrame(counts)], axis=1)


def _flips(
    rows: pd.DataFrame, value: str, problem: str, confidence: float
) -> dict[str, float | int]:
    found = mcnemar(
        rows["_reference"].to_numpy(bool), rows[value].to_numpy(bool), confidence=confidence
    )
    if rows[problem].duplicated().any():
        unknown = ("p_mcnemar", "p_mid", "odds_lower", "odds_upper")
        found |= dict.fromkeys(unknown, math.nan)
    return found


def mcnemar(
    before: Bool[np.ndarray, "pair"], after: Bool[np.ndarray, "pair"], *, confidence: float = 0.95
) -> dict[str, float | int]:
    """McNemar's exact test of paired right and wrong answers; pairs are taken as independent.

    Args:
        before: Whether the reference is right.
        after: Whether the condition is right.
        confidence: Level of the interval of the odds ratio.

    Returns:
        ``n_pairs, corrected, broken, p_mcnemar, p_mid, odds_ratio, odds_lower, odds_upper``. The
        odds ratio is corrected / broken with the exact (Clopper-Pearson) interval; missing where no
        answer changed.

    Raises:
        ValueError: the arrays differ in length.
    """
    if len(before) != len(after):
        raise ValueError(f"{len(before)} answers before and {len(after)} after; give pairs")
    corrected, broken = int((~before & after).sum()), int((before & ~after).sum())
    changed = corrected + broken
    p_exact = stats.binomtest(corrected, changed, 0.5).pvalue if changed else 1.0
    p_observed = float(stats.binom.pmf(corrected, changed, 0.5))
    share = (math.nan, math.nan)
    if changed:
        share = stats.binomtest(corrected, changed).proportion_ci(confidence, method="exact")
    return {
        "n_pairs": len(before),
        "corrected": corrected,
        "broken": broken,
        "p_mcnemar": float(p_exact),
        "p_mid": 1.0 if corrected == broken else float(p_exact) - p_observed,
        "odds_ratio": _odds(corrected / changed) if changed else math.nan,
        "odds_lower": _odds(share[0]),
        "odds_upper": _odds(share[1]),
    }


def _odds(share: float) -> float:
    return math.inf if share == 1 else share / (1 - share)


def odds_ratio(
    table: Int[np.ndarray, "2 2"], *, confidence: float = 0.95
) -> dict[str, float | int]:
    """Odds ratio and risk difference of two unpaired groups.

    Args:
        table: Counts; rows are the groups, columns events and non-events.
        confidence: Level of the intervals.

    Returns:
        ``odds_ratio, odds_lower, odds_upper`` (conditional, exact; scipy), ``p`` (Fisher),
        ``risk_difference, risk_lower, risk_upper`` (Newcombe's score interval; statsmodels), ``n``.

    Raises:
        ValueError: a group is empty.
    """
    from statsmodels.stats.proportion import confint_proportions_2indep

    if (table.sum(1) == 0).any():
        raise ValueError(f"a group of {table.tolist()} is empty")
    found = stats.contingency.odds_ratio(table, kind="conditional")
    interval = found.confidence_interval(confidence)
    risk = table[:, 0] / table.sum(1)
    risk_lower, risk_upper = confint_proportions_2indep(
        int(table[0, 0]),
        int(table[0].sum()),
        int(table[1, 0]),
        int(table[1].sum()),
        method="newcomb",
        compare="diff",
        alpha=1 - confidence,
    )
    return {
        "odds_ratio": float(found.statistic),
        "odds_lower": float(interval.low),
        "odds_upper": float(interval.high),
        "p": float(stats.fisher_exact(table).pvalue),
        "risk_difference": float(risk[0] - risk[1]),
        "risk_lower": float(risk_lower),
        "risk_upper": float(risk_upper),
        "n": int(table.sum()),
    }


def bootstrap(
    frame: pd.DataFrame,
    statistic: Callable[[pd.DataFrame], float],
    *,
    problem: str = "problem",
    interval: Interval = "bca",
    confidence: float = 0.95,
    n_resamples: int = 1000,
    seed: int = 0,
) -> Estimate:
    """Cluster bootstrap of any statistic of a table: problems are drawn with all their rows.

    A problem that is drawn twice enters as two problems. Slow (one call of the statistic per draw);
    for means and functions of means see `mean_table` and `bootstrap_means`.

    Args:
        frame: Long table.
        statistic: Function of such a table.
        problem: Column of the problem.
        interval: ``"bca"`` or ``"percentile"``.
        confidence: Level of the interval.
        n_resamples: Bootstrap draws.
        seed: Of the draws.
    """
    check_columns(frame, [problem])
    members = [rows for _, rows in frame.groupby(problem, sort=False)]

    def of_draw(chosen: Int[np.ndarray, "draw"]) -> float:
        drawn = [members[int(p)].assign(**{problem: i}) for i, p in enumerate(chosen)]
        return statistic(pd.concat(drawn, ignore_index=True))

    limits = _scipy_bootstrap(
        (np.arange(len(members)),),
        of_draw,
        vectorized=False,
        interval=interval,
        confidence=confidence,
        n_resamples=n_resamples,
        seed=seed,
    )
    return Estimate(statistic(frame), *limits, n=len(members))


def bootstrap_means(
    values: Float[np.ndarray, "problem column"],
    function: Callable[[Float[np.ndarray, "*draw column"]], Float[np.ndarray, "*draw"]],
    *,
    interval: Interval = "bca",
    confidence: float = 0.95,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """Cluster bootstrap of a function of means over problems, such as `ratio` or `difference`.

    Args:
        values: One row a problem, none missing.
        function: Takes means, ``... column``, and reduces the last axis.
        interval: ``"bca"`` or ``"percentile"``.
        confidence: Level of the interval.
        n_resamples: Bootstrap draws.
        seed: Of the draws.

    Raises:
        ValueError: a value is missing.
    """
    if np.isnan(values).any():
        raise ValueError(f"{int(np.isnan(values).any(1).sum())} problems lack a value; drop them")
    estimate = float(function(values.mean(0)))
    if interval == "percentile":
        draws = Bootstrap(len(values), confidence=confidence, n_resamples=n_resamples, seed=seed)
        lower, upper = draws.limits(function(draws.means(values))[:, None], len(values))
        return Estimate(estimate, float(lower[0]), float(upper[0]), n=len(values))

    def of_draw(*columns: np.ndarray, axis: int) -> np.ndarray:
        return function(np.stack([column.mean(axis) for column in columns], axis=-1))

    limits = _scipy_bootstrap(
        tuple(values.T),
        of_draw,
        vectorized=True,
        interval=interval,
        confidence=confidence,
        n_resamples=n_resamples,
        seed=seed,
    )
    return Estimate(estimate, *limits, n=len(values))


def difference(means: Float[np.ndarray, "*draw 2"]) -> Float[np.ndarray, "*draw"]:
    """First mean minus second."""
    return means[..., 0] - means[..., 1]


def ratio(means: Float[np.ndarray, "*draw 2"]) -> Float[np.ndarray, "*draw"]:
    """First mean over second."""
    return means[..., 0] / means[..., 1]


def _scipy_bootstrap(
    data: tuple[np.ndarray, ...],
    statistic: Callable[..., Any],
    *,
    vectorized: bool,
    interval: Interval,
    confidence: float,
    n_resamples: int,
    seed: int,
) -> tuple[float, float]:
    check_option("interval", interval, get_args(Interval))
    n = len(data[0])
    if n < 2:
        return math.nan, math.nan
    if interval == "percentile":
        confidence = 1 - 2 * expanded_level(n, confidence)
    if all((column == column[0]).all() for column in data):
        constant = float(statistic(*data, axis=-1) if vectorized else statistic(*data))
        return constant, constant
    found = stats.bootstrap(
        data,
        statistic,
        paired=len(data) > 1,
        vectorized=vectorized,
        method="BCa" if interval == "bca" else "percentile",
        confidence_level=confidence,
        n_resamples=n_resamples,
        batch=max(1, 2_000_000 // n),
        random_state=np.random.default_rng([seed, 0]),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def equivalence(
    differences: Float[np.ndarray, "problem"], *, margin: float, alpha: float = 0.05
) -> Estimate:
    """Two one-sided t-tests (TOST): is the mean difference within the margin?

    Args:
        differences: One per problem.
        margin: Largest difference, either way, that counts as none; set before looking.
        alpha: The interval has level 1 - 2 alpha: it lies within the margin when p < alpha.

    Returns:
        ``p`` is the larger of the two one-sided p-values: small means equivalent.

    Raises:
        ValueError: the margin is not positive, or there are fewer than two problems.
    """
    from statsmodels.stats.weightstats import DescrStatsW

    known = differences[~np.isnan(differences)]
    if margin <= 0 or len(known) < 2:
        raise ValueError(f"margin={margin}, {len(known)} problems: need > 0 and at least 2")
    mean = float(known.mean())
    if known.std() == 0:
        return Estimate(mean, mean, mean, len(known), p=float(abs(mean) >= margin))
    described = DescrStatsW(known)
    p = described.ttost_mean(-margin, margin)[0]
    lower, upper = described.tconfint_mean(2 * alpha)
    return Estimate(mean, float(lower), float(upper), len(known), p=float(p))


def detectable_effect(
    differences: Float[np.ndarray, "problem"], *, power: float = 0.8, alpha: float = 0.05
) -> float:
    """Smallest mean difference that a paired t-test of so many problems would find.

    Args:
        differences: One per problem; only their number and spread count.
        power: Probability of finding it.
        alpha: Level of the two-sided test.

    Returns:
        In the unit of the differences; missing with fewer than three problems.
    """
    known = differences[~np.isnan(differences)]
    if len(known) < 3:
        return math.nan
    return float(known.std(ddof=1)) * _detectable_ratio(len(known), power, alpha)


@lru_cache(maxsize=4096)
def _detectable_ratio(n: int, power: float, alpha: float) -> float:
    """Mean over standard deviation at which a two-sided t-test of n values has this power."""
    critical = stats.t.ppf(1 - alpha / 2, n - 1)

    def lacking(shift: float) -> float:
        beyond = stats.nct.sf(critical, n - 1, shift) + stats.nct.cdf(-critical, n - 1, shift)
        return power - float(beyond)

    upper = 1.0
    while lacking(upper) > 0:
        upper *= 2
    return float(optimize.brentq(lacking, 0, upper)) / math.sqrt(n)


def rank_correlation(
    scores: Float[np.ndarray, "map key"], effect: Float[np.ndarray, "key"]
) -> Float[np.ndarray, "map"]:
    """Spearman's rho of several scores with one effect; missing where either does not vary."""
    ranks = _unit_ranks(scores)
    return ranks @ _unit_ranks(effect[None])[0]


def _unit_ranks(values: Float[np.ndarray, "row key"]) -> Float[np.ndarray, "row key"]:
    """Ranks of each row, centred and of length one, so that rho is a dot product."""
    ranks = stats.rankdata(values, axis=1)
    ranks -= ranks.mean(1, keepdims=True)
    length = np.linalg.norm(ranks, axis=1, keepdims=True)
    return ranks / np.where(length > 0, length, np.nan)


def correlation_table(
    frame: pd.DataFrame,
    score: str,
    effect: str,
    *,
    row: Sequence[str],
    by: Sequence[str] = (),
    problem: str = "problem",
    min_keys: int = 3,
    confidence: float = 0.95,
    n_resamples: int = N_RESAMPLES,
    n_permutations: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Spearman's rho within rows, averaged within problems, then over problems.

    Args:
        frame: Long table, one row per pair of steps.
        score: Column that predicts.
        effect: Column that is predicted.
        row: Columns that name a row of a problem, such as ``["query_step"]``.
        by: Columns that name groups taken apart.
        problem: Column of the problem.
        min_keys: Rows with fewer entries are left out, as are rows in which either column is
            constant.
        confidence: Level of the intervals.
        n_resamples: Bootstrap draws.
        n_permutations: Draws of the test, which permutes the effect within each row.
        seed: Of the draws.

    Returns:
        One row a group: ``by``, ``estimate, lower, upper, n, p, n_rows``.

    Raises:
        ValueError: columns are missing, or no row can be ranked.
    """
    check_columns(frame, [problem, *row, *by, score, effect])
    groups = frame.groupby(list(by), sort=False, dropna=False) if by else [((), frame)]
    tables = []
    for names, rows in groups:
        rhos, p = _within_rows(rows, score, effect, [problem, *row], min_keys, n_permutations, seed)
        found = mean_table(
            rhos, "rho", problem=problem, confidence=confidence, n_resamples=n_resamples, seed=seed
        )
        key: dict[str, Any] = dict(zip(by, names, strict=True))
        tables.append(found.assign(p=p, n_rows=len(rhos), **key)[[*by, *found.columns, "n_rows"]])
    return pd.concat(tables, ignore_index=True)


def _within_rows(
    frame: pd.DataFrame,
    score: str,
    effect: str,
    row: Sequence[str],
    min_keys: int,
    n_permutations: int,
    seed: int,
) -> tuple[pd.DataFrame, float]:
    """rho of each row, and the p-value of their mean over problems."""
    rng = np.random.default_rng([seed, 3])
    found, drawn = [], []
    for names, entries in frame.dropna(subset=[score, effect]).groupby(list(row), sort=False):
        x, y = (_unit_ranks(entries[[c]].to_numpy(float).T)[0] for c in (score, effect))
        if len(entries) < min_keys or np.isnan(x @ y):
            continue
        found.append((*names, float(x @ y)))
        drawn.append(rng.permuted(np.tile(y, (n_permutations, 1)), axis=1) @ x)
    if not found:
        raise ValueError(f"no row of {list(row)} has {min_keys} entries that can be ranked")
    rhos = pd.DataFrame(found, columns=[*row, "rho"])
    weight = 1 / rhos.groupby(row[0])["rho"].transform("size").to_numpy(float)
    null = np.abs(weight @ np.stack(drawn))
    observed = abs(float(weight @ rhos["rho"].to_numpy()))
    return rhos, float((1 + (null >= observed * (1 - 1e-9)).sum()) / (1 + n_permutations))
