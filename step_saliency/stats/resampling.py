"""Bootstrap of means over problems.

With x_p the value of problem p and w the counts of a draw of n problems with replacement, the
interval of the mean is

    quantiles of sum_p w_p x_p / n over draws, at the levels a and 1 - a

    expanded   a = Phi(t_{n-1} sqrt(n/(n-1)))     (Hesterberg, "What Teachers Should Know About the
                                                  Bootstrap", 2015), with t_{n-1} the quantile of
                                                  Student's distribution at (1 - confidence) / 2
    plain      a = (1 - confidence) / 2

Expanded levels make up for the narrowness of the plain interval with few problems, and go over into
it with many. Everything takes one row a problem and many columns at once.

Assumptions: problems are independent. When it misleads: below ten problems intervals are rough, and
where all problems agree an interval is a point.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import numpy as np
from jaxtyping import Float
from scipy import stats

from step_saliency.options import Draws, check_option

LevelsName = Literal["expanded", "plain"]
if TYPE_CHECKING:
    Levels: TypeAlias = LevelsName
else:
    Levels = str  # an unknown name meets `check_option`


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


class Bootstrap:
    """Percentile intervals of means over problems; missing values are left out.

    Args:
        n: Number of problems.
        draws: Number and seed of the draws, which serve every column, and level of the intervals.
        levels: Kind of interval (module docstring).
    """

    def __init__(self, n: int, draws: Draws, *, levels: Levels = "expanded") -> None:
        check_option("levels", levels, get_args(LevelsName))
        self._shares = problem_shares(n, draws.n_resamples, [draws.seed, 0])
        self._confidence = draws.confidence
        self._levels = levels

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
        expanded = self._levels == "expanded"
        level = expanded_level(n, self._confidence) if expanded else (1 - self._confidence) / 2
        return percentile_limits(resampled, level)

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


def problem_shares(
    n: int, n_resamples: int, seed: int | Sequence[int]
) -> Float[np.ndarray, "resample problem"]:
    """Share of each problem in each draw of ``n`` problems with replacement."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(n, np.full(n, 1 / n), size=n_resamples) / n


def percentile_limits(
    resampled: Float[np.ndarray, "resample key"], level: float
) -> tuple[Float[np.ndarray, "key"], Float[np.ndarray, "key"]]:
    """Quantiles at ``level`` and 1 - ``level``; draws without a value are left out."""
    # nanquantile loops over columns: only where a value is missing.
    quantile = np.nanquantile if np.isnan(resampled).any() else np.quantile
    lower, upper = quantile(resampled, [level, 1 - level], axis=0)
    return lower, upper


def expanded_level(n: int, confidence: float) -> float:
    """Lower level of an expanded percentile interval over ``n`` problems."""
    tail = (1 - confidence) / 2
    return float(stats.norm.cdf(stats.t.ppf(tail, n - 1) * math.sqrt(n / (n - 1))))


def column_chunks(
    values: Float[np.ndarray, "row key"], size: int = 256
) -> list[Float[np.ndarray, "row chunk"]]:
    """Columns in pieces that keep products with many draws small."""
    return [values[:, start : start + size] for start in range(0, values.shape[1], size)]
