"""What a null result says: equivalence within a margin, and the effect that would have been found.

    equivalence  two one-sided t-tests (TOST): a small p says that the mean difference is smaller
                 than the margin. A large p elsewhere says nothing of that kind
    by score     the same for pairs of right and wrong (`step_saliency.stats.score`): at the margin
                 a t-test has the spread of what was seen, and with rare flips claims too much
    from counts  the same where few answers changed: exact (`step_saliency.stats.counts`)
    detectable   delta such that a two-sided t-test of n differences with the observed spread finds
                 a mean of delta with the probability ``power``

Assumptions: the mean over problems is close to normal. When it misleads: a margin that is set after
looking at the differences.
"""

import math
from functools import lru_cache

import numpy as np
from jaxtyping import Float
from scipy import optimize, stats
from statsmodels.stats.weightstats import DescrStatsW

from step_saliency.stats.counts import difference_from_counts, equivalence_from_counts
from step_saliency.stats.resampling import Estimate
from step_saliency.stats.score import equivalence_by_score, score_interval


def equivalence(
    differences: Float[np.ndarray, "problem"],
    *,
    margin: float,
    alpha: float = 0.05,
    bound: float | None = None,
) -> Estimate:
    """Two one-sided tests (TOST): is the mean difference within the margin?

    Args:
        differences: One per problem.
        margin: Largest difference, either way, that counts as none; set before looking.
        alpha: The interval has level 1 - 2 alpha: it lies within the margin when p, of a t-test or
            by score, is below alpha.
        bound: Largest difference that is possible, 1 for right and wrong. With it, fewer than
            `step_saliency.stats.counts.FEW` problems that differ are judged by their number, and
            more, where each differs by nothing or by the bound, by Tango's score; the rest and all
            without a bound by t-tests.

    Returns:
        ``p`` is the larger of the two one-sided p-values: small means equivalent. Differences
        without spread and without a bound have neither p nor interval: all alike in a sample says
        nothing of how they vary.

    Raises:
        ValueError: the margin is not positive, there are fewer than two problems, or a difference
            is beyond the bound.
    """
    known = differences[~np.isnan(differences)]
    if margin <= 0 or len(known) < 2:
        raise ValueError(f"margin={margin}, {len(known)} problems: need > 0 and at least 2")
    mean, n = float(known.mean()), len(known)
    if bound is not None:
        _check_bound(known, bound)
        limits = difference_from_counts(known / bound, 1 - 2 * alpha)
        if limits is not None:
            p = equivalence_from_counts(known / bound, margin / bound)
            return Estimate(mean, limits[0] * bound, limits[1] * bound, n, p=p)
        if np.isin(known / bound, (-1, 0, 1)).all() and margin < bound:
            counts = int((known > 0).sum()), int((known < 0).sum()), n
            lower, upper = (bound * end for end in score_interval(*counts, 1 - 2 * alpha))
            return Estimate(mean, lower, upper, n, p=equivalence_by_score(*counts, margin / bound))
    if _is_constant(known):
        return Estimate(mean, math.nan, math.nan, n)
    described = DescrStatsW(known)
    p = described.ttost_mean(-margin, margin)[0]
    lower, upper = described.tconfint_mean(2 * alpha)
    return Estimate(mean, float(lower), float(upper), n, p=float(p))


def _check_bound(differences: Float[np.ndarray, "problem"], bound: float) -> None:
    largest = float(np.abs(differences).max())
    if not bound > 0 or largest > bound * (1 + 1e-12):
        raise ValueError(f"bound={bound}: need > 0 and no difference beyond it ({largest:.3g})")


def detectable_effect(
    differences: Float[np.ndarray, "problem"], *, power: float = 0.8, alpha: float = 0.05
) -> float:
    """Smallest mean difference that a paired t-test of so many problems would find.

    Args:
        differences: One per problem; only their number and spread count.
        power: Probability of finding it.
        alpha: Level of the two-sided test.

    Returns:
        In the unit of the differences; missing with fewer than three problems, and where all
        differences are alike, which says nothing of how they vary.

    Raises:
        ValueError: power and alpha are not such that 0 < alpha < power < 1.
    """
    if not 0 < alpha < power < 1:
        raise ValueError(f"power={power}, alpha={alpha}: need 0 < alpha < power < 1")
    known = differences[~np.isnan(differences)]
    if len(known) < 3 or _is_constant(known):
        return math.nan
    return float(known.std(ddof=1)) * _detectable_ratio(len(known), power, alpha)


def _is_constant(differences: Float[np.ndarray, "problem"]) -> bool:
    """Whether differences are alike but for rounding."""
    return bool(np.ptp(differences) <= 1e-12 * np.abs(differences).max())


@lru_cache(maxsize=4096)
def _detectable_ratio(n: int, power: float, alpha: float) -> float:
    """Mean over standard deviation at which a two-sided t-test of n values has this power.

    `statsmodels.stats.power.TTestPower` has the same definition, but its ``solve_power`` stops up
    to 2e-6 (relative) beside the root, and its ``power`` is NaN at some of the points that a search
    passes through (n = 3, shift 8): scipy has no value of the far tail where it is below 1e-9.
    """
    critical = stats.t.ppf(1 - alpha / 2, n - 1)

    def lacking(shift: float) -> float:
        far = float(stats.nct.cdf(-critical, n - 1, shift))
        near = float(stats.nct.sf(critical, n - 1, shift))
        return power - (near if math.isnan(far) else near + far)

    upper = 1.0
    while lacking(upper) > 0:
        upper *= 2
    return float(optimize.brentq(lacking, 0, upper)) / math.sqrt(n)
