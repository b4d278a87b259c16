"""Intervals and equivalence where few answers changed: from counts, where draws have no spread.

A bootstrap of n paired answers of which none changed is a point, and one of which three changed in
the same direction ends at zero far too often. With d_p in [-1, 1] the difference of problem p,

    b = sum_p max(d_p, 0)      c = sum_p max(-d_p, 0)      changed = number of p off the commonest d

and fewer than `FEW` problems changed, the interval is Newcombe's: the Wilson limits of b / n and of
c / n, squared and added (statsmodels). The same holds of a share that is right, or wrong, in all
but a few problems: Wilson's interval of sum_p x_p / n.

Equivalence from counts is exact: a mean difference of at least m needs a change for the better in
at least the share m of problems, so with k such changes seen

    p <= P(Binomial(n, m) <= k)         and the same for changes for the worse; the larger counts

Assumptions: problems are independent; differences lie within [-1, 1]. Both take a problem with
several answers as one, which is wide (a sum of parts varies less than a flip), never narrow. When
it misleads: wide for equivalence where changes go both ways, since only those of one direction
count for a bound.
"""

from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy import stats
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint

IntervalKind = Literal["bootstrap", "newcombe", "wilson", "clustered_t", "none"]
"""How an interval was made, as the column ``interval`` says; "none" where there is none."""

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
    better, worse = np.maximum(differences, 0).sum(), np.maximum(-differences, 0).sum()
    lower, upper = confint_proportions_2indep(
        float(better), n, float(worse), n, compare="diff", method="newcomb", alpha=1 - confidence
    )
    return float(max(lower, -1.0)), float(min(upper, 1.0))


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
    lower, upper = proportion_confint(float(shares.sum()), n, 1 - confidence, method="wilson")
    return float(lower), float(upper)


def equivalence_from_counts(differences: Float[np.ndarray, "problem"], margin: float) -> float:
    """p-value of equivalence of paired answers: small says that the mean is within the margin.

    Args:
        differences: One per problem, within [-1, 1], none missing.
        margin: Largest mean difference, either way, that counts as none.
    """
    n_most = max(int((differences > 0).sum()), int((differences < 0).sum()))
    return float(stats.binom.cdf(n_most, len(differences), min(margin, 1.0)))
