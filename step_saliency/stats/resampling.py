"""Bootstrap intervals and permutation tests with the problem as the unit.

Everything here takes one row a problem and many columns at once. With x_p the value of problem p
and w the counts of a draw of n problems with replacement,

    percentile   quantiles of sum_p w_p x_p / n over draws, at the levels Phi(t_{n-1} sqrt(n/(n-1)))
                 (Hesterberg, "What Teachers Should Know About the Bootstrap", 2015), which make up
                 for the narrowness of the plain percentile interval with few problems
    sign flips   P(|sum_p s_p x_p| >= |sum_p x_p|) over signs s, exact where there are few
    Holm         p of rank r among m, times m - r + 1, made monotone

Assumptions: problems are independent; for the sign flips, x_p is symmetric about zero under the
null hypothesis (exchangeable conditions give that).
"""

import itertools
import math

import numpy as np
from jaxtyping import Float
from scipy import stats


class Bootstrap:
    """Percentile intervals of means over problems; missing values are left out.

    Args:
        n: Number of problems.
        confidence: Level of the intervals.
        n_resamples: Number of draws.
        seed: Of the draws, which serve every column.
        expanded: Take the expanded levels of the module docstring, or the plain ones.
    """

    def __init__(
        self, n: int, *, confidence: float, n_resamples: int, seed: int, expanded: bool = True
    ) -> None:
        rng = np.random.default_rng([seed, 0])
        self._shares = rng.multinomial(n, np.full(n, 1 / n), size=n_resamples) / n
        self._confidence = confidence
        self._expanded = expanded

    def means(
        self, by_problem: Float[np.ndarray, "problem key"]
    ) -> Float[np.ndarray, "resample key"]:
        """Mean of each draw; missing where a draw has no value."""
        return np.concatenate([self._means(chunk) for chunk in column_chunks(by_problem)], axis=1)

    def _means(
        self, by_problem: Float[np.ndarray, "problem key"]
    ) -> Float[np.ndarray, "resample key"]:
        present = ~np.isnan(by_problem)
        if present.all():
            return self._shares @ by_problem
        with np.errstate(invalid="ignore"):
            return (self._shares @ np.where(present, by_problem, 0.0)) / (self._shares @ present)

    def limits(
        self, resampled: Float[np.ndarray, "resample key"], n: int
    ) -> tuple[Float[np.ndarray, "key"], Float[np.ndarray, "key"]]:
        """Interval from the statistic of each draw; missing with one problem.

        Args:
            resampled: Statistic of each draw.
            n: Number of problems with a value, for the level.
        """
        if n < 2:
            return (np.full(resampled.shape[1], np.nan),) * 2
        level = (1 - self._confidence) / 2
        level = expanded_level(n, self._confidence) if self._expanded else level
        quantile = np.nanquantile if np.isnan(resampled).any() else np.quantile
        lower, upper = quantile(resampled, [level, 1 - level], axis=0)
        return lower, upper

    def interval(
        self, by_problem: Float[np.ndarray, "problem key"]
    ) -> tuple[Float[np.ndarray, "key"], Float[np.ndarray, "key"]]:
        """Interval of the mean of each column."""
        counts = (~np.isnan(by_problem)).sum(0)
        means = self.means(by_problem)
        lower, upper = np.empty(len(counts)), np.empty(len(counts))
        for n in np.unique(counts):
            lower[counts == n], upper[counts == n] = self.limits(means[:, counts == n], int(n))
        return lower, upper


def expanded_level(n: int, confidence: float) -> float:
    """Lower level of a percentile interval over ``n`` problems."""
    tail = (1 - confidence) / 2
    return float(stats.norm.cdf(stats.t.ppf(tail, n - 1) * math.sqrt(n / (n - 1))))


def sign_flips(
    n: int, n_permutations: int, seed: int
) -> tuple[Float[np.ndarray, "permutation problem"], bool]:
    """Signs of the problems' differences, and whether these are all there are."""
    if 2**n <= n_permutations:
        return np.array(list(itertools.product((1.0, -1.0), repeat=n))), True
    rng = np.random.default_rng([seed, 2])
    return rng.choice([1.0, -1.0], size=(n_permutations, n)), False


def permutation_p_values(
    weights: Float[np.ndarray, "permutation term"],
    values: Float[np.ndarray, "term key"],
    observed: Float[np.ndarray, "key"],
    exact: bool,
) -> Float[np.ndarray, "key"]:
    """Share of the arrangements whose weighted sum is as far from zero as the observed one.

    Args:
        weights: One row an arrangement.
        values: What is summed, one column a key.
        observed: The sums as they are.
        exact: Whether the rows are all arrangements, the observed one among them; otherwise they
            are draws, and the observed one is counted besides.
    """
    # Sums that are equal on paper differ in the last bits with the order of the terms.
    slack = 1e-9 * np.abs(weights[0][:, None] * values).sum(0)
    threshold = np.abs(observed) - slack
    chunks = zip(column_chunks(values), column_chunks(threshold[None]), strict=True)
    as_large = np.concatenate([(np.abs(weights @ v) >= t).sum(0) for v, t in chunks])
    return as_large / len(weights) if exact else (1 + as_large) / (1 + len(weights))


def standardised(differences: Float[np.ndarray, "problem key"]) -> Float[np.ndarray, "key"]:
    """Cohen's d_z: mean over standard deviation; missing where there is no spread."""
    if len(differences) < 2:
        return np.full(differences.shape[1], np.nan)
    spread = differences.std(0, ddof=1)
    return differences.mean(0) / np.where(spread > 0, spread, np.nan)


def holm(p_values: Float[np.ndarray, "test"]) -> Float[np.ndarray, "test"]:
    """Holm's correction; missing p-values stay missing and count in no family."""
    corrected = np.full(len(p_values), np.nan)
    order = np.argsort(p_values, kind="stable")[: int((~np.isnan(p_values)).sum())]
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(1, np.maximum.accumulate(p_values[order] * factors))
    return corrected


def column_chunks(
    values: Float[np.ndarray, "row key"], size: int = 256
) -> list[Float[np.ndarray, "row chunk"]]:
    """Columns in pieces that keep products with many draws small."""
    return [values[:, start : start + size] for start in range(0, values.shape[1], size)]
