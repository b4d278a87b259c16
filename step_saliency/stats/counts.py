"""Intervals and equivalence where few answers changed: from counts, where draws have no spread.

A bootstrap of n paired answers of which none changed is a point, and one of which three changed in
the same direction ends at zero far too often. With d_p in [-1, 1] the difference of problem p,

    b = sum_p max(d_p, 0)      c = sum_p max(-d_p, 0)      changed = number of p off the commonest d

and fewer than `FEW` problems changed, the interval is Newcombe's: with p = b / n, q = c / n, their
Wilson limits (statsmodels) and the correlation that two shares of the same n problems have,

    estimate - lower = sqrt(x^2 + 2 r x y + y^2)    x = p - p_lower    y = q_upper - q
    r = sqrt(p q / ((1 - p) (1 - q)))               and the other way round for the upper limit

The same holds of a share that is right, or wrong, in all
but a few problems: Wilson's interval of sum_p x_p / n. Whether a column is right and wrong is
declared (`ValueKind`), never read off its values: a measure that is 0 everywhere is none.

Equivalence from counts is exact: a mean difference of at least m needs a change for the better in
at least the share m of problems, so with k such changes seen

    p <= P(Binomial(n, m) <= k)         and the same for changes for the worse; the larger counts

Source: Newcombe, "Improved confidence intervals for the difference between binomial proportions
based on paired data", Statistics in Medicine 17 (1998), the sign of r that of outcomes of which one
excludes the other. Assumptions: problems are independent; differences lie within [-1, 1]. A problem
with several answers is taken as one, which is wide: a mean of parts varies less than a flip. When
it misleads: wide for equivalence where changes go both ways, since only those of one direction
count for a bound.
"""

import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import stats
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint

from step_saliency.options import check_option

IntervalKind = Literal["bootstrap", "newcombe", "wilson", "clustered_t", "none"]
"""How an interval was made, as the column ``interval`` says; "none" where there is none."""

ValueKindName = Literal["measure", "share", "difference"]
"""What a column holds: any measure; shares of right answers, or right and wrong as 1 and 0; or
differences of such shares."""
if TYPE_CHECKING:
    ValueKind: TypeAlias = ValueKindName
else:
    ValueKind = str  # an unknown name meets `check_option`

FEW = 5
"""Changed problems below which a bootstrap covers too rarely.

`benchmarks/problem_statistics.py` has both beside each other."""


def n_off_the_commonest(values: Float[np.ndarray, "problem"]) -> int:
    """Number of problems whose value is not the commonest one."""
    counts = np.unique(values, return_counts=True)[1]
    return len(values) - int(counts.max(initial=0))


def difference_from_counts(
    differences: Float[np.ndarray, "problem"], confidence: float
) -> tuple[float, float] | None:
    """Newcombe's interval of a mean difference in [-1, 1]; None where a bootstrap has its spread.

    Args:
        differences: One per problem, none missing.
        confidence: Level of the interval.
    """
    n = len(differences)
    if n < 2 or n_off_the_commonest(differences) >= FEW:
        return None
    p, q = np.maximum(differences, 0).mean(), np.maximum(-differences, 0).mean()
    (p_lower, p_upper), (q_lower, q_upper) = (_wilson(share, n, confidence) for share in (p, q))
    correlation = np.sqrt(p * q / ((1 - p) * (1 - q))) if p * q > 0 else 0.0
    below = _added(p - p_lower, q_upper - q, correlation)
    above = _added(p_upper - p, q - q_lower, correlation)
    return float(max(p - q - below, -1.0)), float(min(p - q + above, 1.0))


def _wilson(share: float, n: int, confidence: float) -> tuple[float, float]:
    lower, upper = proportion_confint(share * n, n, 1 - confidence, method="wilson")
    return float(lower), float(upper)


def _added(first: float, second: float, correlation: float) -> float:
    return float(np.sqrt(first**2 + 2 * correlation * first * second + second**2))


def share_from_counts(
    shares: Float[np.ndarray, "problem"], confidence: float
) -> tuple[float, float] | None:
    """Wilson's interval of a mean share that is 0, or 1, in nearly all problems; else None.

    Args:
        shares: One per problem, within [0, 1], none missing.
        confidence: Level of the interval.
    """
    n = len(shares)
    n_changed = min(int((shares > 0).sum()), int((shares < 1).sum()))
    if n < 2 or n_changed >= FEW:
        return None
    lower, upper = _wilson(float(shares.mean()), n, confidence)
    # rounding leaves 2e-19 for a limit of 0
    return (
        0.0 if not shares.any() else float(lower),
        1.0 if bool((shares == 1).all()) else float(upper),
    )


def unpaired_from_counts(
    hits: Float[np.ndarray, "problem 2"],
    sizes: Float[np.ndarray, "problem 2"],
    confidence: float,
) -> tuple[float, float] | None:
    """Newcombe's interval of one group's share minus another's.

    None where in either group at least `FEW` problems have hits and at least `FEW` have misses: of
    a group that is all one way, or small, draws have too little spread.

    Args:
        hits: Of each problem, in both groups.
        sizes: Numbers that they are of; a problem counts once in each group that it is in.
        confidence: Level of the interval.
    """
    n_with = ((counts > 0).sum(0).min() for counts in (hits, sizes - hits))
    if min(n_with) >= FEW:
        return None
    n = (sizes > 0).sum(0)
    counts = hits.sum(0) / sizes.sum(0) * n
    lower, upper = confint_proportions_2indep(
        float(counts[0]), int(n[0]), float(counts[1]), int(n[1]),
        compare="diff", method="newcomb", alpha=1 - confidence,
    )  # fmt: skip
    return float(lower), float(upper)


def checked_kind(column: pd.Series, kind: ValueKind | None, bound: float = 1.0) -> ValueKindName:
    """What a column holds, as declared; truth values declare themselves.

    Args:
        column: Values.
        kind: As declared, if it was.
        bound: Largest difference that is possible.

    Raises:
        ValueError: an unknown kind, or values that are none of that kind.
    """
    if kind is None:
        return "share" if pd.api.types.infer_dtype(column) == "boolean" else "measure"
    check_option("kind", kind, get_args(ValueKindName))
    lowest, highest = {"share": (0, 1), "difference": (-bound, bound)}.get(kind, (-np.inf, np.inf))
    slack = 1e-12 * bound
    values = column.dropna().to_numpy(float)
    beyond = values[(values < lowest - slack) | (values > highest + slack)]
    if len(beyond):
        raise ValueError(
            f"column {column.name!r} holds {float(beyond[0]):.6g}; kind={kind!r} is within "
            f"[{lowest:g}, {highest:g}]"
        )
    return kind


def with_counted_intervals(
    table: pd.DataFrame,
    values: Float[np.ndarray, "problem key"],
    kind: ValueKindName,
    *,
    confidence: float,
    bound: float = 1.0,
) -> pd.DataFrame:
    """A table whose rows of few changes have intervals from counts; as it is for a measure.

    Args:
        table: One row a column of ``values``, with ``lower, upper, interval``.
        values: One row a problem; missing values are left out.
        kind: What they are.
        confidence: Level of the intervals.
        bound: Largest difference that is possible.
    """
    table = table.copy()
    for row, limits in enumerate(_counted_limits(values, kind, confidence, bound)):
        if limits is not None:
            table.loc[row, ["lower", "upper"]] = limits
            table.loc[row, "interval"] = "wilson" if kind == "share" else "newcombe"
    return table


def _counted_limits(
    values: Float[np.ndarray, "problem key"], kind: ValueKindName, confidence: float, bound: float
) -> Iterator[tuple[float, float] | None]:
    for column in values.T:
        known = column[~np.isnan(column)]
        if kind == "measure":
            yield None
        elif kind == "share":
            yield share_from_counts(known, confidence)
        else:
            limits = difference_from_counts(known / bound, confidence)
            yield None if limits is None else (limits[0] * bound, limits[1] * bound)


def warn_of_undeclared_answers(
    column: pd.Series,
    values: Float[np.ndarray, "problem key"],
    kind: ValueKindName,
    confidence: float,
) -> None:
    """Warn of 0 and 1 that nobody declared, where an interval from counts would be another.

    Args:
        column: What was not declared.
        values: One row a problem, from that column.
        kind: What the values are if the column holds right and wrong.
        confidence: Level of the intervals.
    """
    if not column.dropna().isin([0, 1]).all():
        return
    if any(limits is not None for limits in _counted_limits(values, kind, confidence, 1.0)):
        warnings.warn(
            f"column {column.name!r} holds 0 and 1 alone: if these are right and wrong, say "
            "kind='share' (intervals from counts, none of width zero), else kind='measure'",
            stacklevel=4,
        )


def equivalence_from_counts(differences: Float[np.ndarray, "problem"], margin: float) -> float:
    """p-value of equivalence of paired answers: small says that the mean is within the margin.

    Args:
        differences: One per problem, within [-1, 1], none missing.
        margin: Largest mean difference, either way, that counts as none.
    """
    n_most = max(int((differences > 0).sum()), int((differences < 0).sum()))
    return float(stats.binom.cdf(n_most, len(differences), min(margin, 1.0)))
