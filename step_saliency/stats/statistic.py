"""Intervals of any statistic: of a whole table, or of a function of means over problems.

Problems are drawn with replacement, each with all that belongs to it. Intervals:

    percentile  at expanded levels, as everywhere (`step_saliency.stats.resampling`)
    bca         bias-corrected and accelerated (scipy), for skewed statistics such as ratios

`bootstrap` calls the statistic once a draw; `bootstrap_means` takes functions of means, such as
`ratio`, and evaluates all draws at once.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, Unpack, get_args

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy import stats

from step_saliency.options import Draws, DrawsOptions, check_option, shows_keywords
from step_saliency.stats.problems import check_columns, check_problems
from step_saliency.stats.resampling import Bootstrap, Estimate, expanded_level

IntervalName = Literal["percentile", "bca"]
if TYPE_CHECKING:
    Interval: TypeAlias = IntervalName
else:
    Interval = str  # an unknown name meets `check_option`

Values: TypeAlias = Float[np.ndarray, "*draw"] | float

STATISTIC_DRAWS = Draws(n_resamples=1000)
"""Of `bootstrap`, which calls the statistic once a draw."""


@shows_keywords(DrawsOptions, vars(STATISTIC_DRAWS), documented_by=Draws)
def bootstrap(
    frame: pd.DataFrame,
    statistic: Callable[[pd.DataFrame], float],
    *,
    problem: str = "problem",
    interval: Interval = "bca",
    draws: Draws | None = None,
    **options: Unpack[DrawsOptions],
) -> Estimate:
    """Cluster bootstrap of any statistic of a table: problems are drawn with all their rows.

    A problem that is drawn twice enters as two problems. Slow (one call of the statistic per draw);
    for means and functions of means see `step_saliency.stats.problems.mean_table` and
    `bootstrap_means`.

    Args:
        frame: Long table.
        statistic: Function of such a table.
        problem: Column of the problem.
        interval: ``"bca"`` or ``"percentile"``.
        draws: How the interval is drawn; `STATISTIC_DRAWS` by default.
        options: Fields of `Draws`, which change it.

    Raises:
        ValueError: the column of the problem is missing, or a row has no problem.
    """
    draws = replace(draws or STATISTIC_DRAWS, **options)
    check_columns(frame, [problem])
    check_problems(frame, problem)
    members = [rows for _, rows in frame.groupby(problem, sort=False)]

    def of_draw(problems: Int[np.ndarray, "draw"]) -> float:
        rows = [members[int(p)].assign(**{problem: i}) for i, p in enumerate(problems)]
        return statistic(pd.concat(rows, ignore_index=True))

    data = (np.arange(len(members)),)
    limits = _scipy_bootstrap(data, of_draw, vectorized=False, interval=interval, draws=draws)
    return Estimate(statistic(frame), *limits, n=len(members))


@shows_keywords(DrawsOptions, vars(Draws()), documented_by=Draws)
def bootstrap_means(
    values: Float[np.ndarray, "problem column"],
    function: Callable[[Float[np.ndarray, "*draw column"]], Values],
    *,
    interval: Interval = "bca",
    draws: Draws | None = None,
    **options: Unpack[DrawsOptions],
) -> Estimate:
    """Cluster bootstrap of a function of means over problems, such as `ratio` or `difference`.

    Args:
        values: One row a problem, none missing.
        function: Takes means, ``... column``, and reduces the last axis.
        interval: ``"bca"`` or ``"percentile"``.
        draws: How the interval is drawn.
        options: Fields of `Draws`, which change it.

    Raises:
        ValueError: a value is missing.
    """
    draws = replace(draws or Draws(), **options)
    if np.isnan(values).any():
        raise ValueError(f"{int(np.isnan(values).any(1).sum())} problems lack a value; drop them")
    estimate = float(function(values.mean(0)))
    if interval == "percentile":
        resampled = Bootstrap(len(values), draws)
        of_draws = np.asarray(function(resampled.means(values)))
        lower, upper = resampled.limits(of_draws[:, None], len(values))
        return Estimate(estimate, float(lower[0]), float(upper[0]), n=len(values))

    def of_draw(*columns: np.ndarray, axis: int) -> Values:
        return function(np.stack([column.mean(axis) for column in columns], axis=-1))

    data = tuple(values.T)
    limits = _scipy_bootstrap(data, of_draw, vectorized=True, interval=interval, draws=draws)
    return Estimate(estimate, *limits, n=len(values))


def difference(means: Float[np.ndarray, "*draw 2"]) -> Values:
    """First mean minus second."""
    return means[..., 0] - means[..., 1]


def ratio(means: Float[np.ndarray, "*draw 2"]) -> Values:
    """First mean over second."""
    return means[..., 0] / means[..., 1]


def _scipy_bootstrap(
    data: tuple[np.ndarray, ...],
    statistic: Callable[..., Any],
    *,
    vectorized: bool,
    interval: Interval,
    draws: Draws,
) -> tuple[float, float]:
    check_option("interval", interval, get_args(IntervalName))
    n, confidence = len(data[0]), draws.confidence
    if n < 2:
        return math.nan, math.nan
    if interval == "percentile":
        confidence = 1 - 2 * expanded_level(n, confidence)
    if all((column == column[0]).all() for column in data):
        constant = float(statistic(*data, axis=-1) if vectorized else statistic(*data))
        return constant, constant
    resample = partial(
        stats.bootstrap,
        data,
        statistic,
        paired=len(data) > 1,
        vectorized=vectorized,
        confidence_level=confidence,
        batch=max(1, 2_000_000 // n),
        random_state=np.random.default_rng([draws.seed, 0]),
    )
    result = resample(method="percentile", n_resamples=draws.n_resamples)
    if interval == "bca" and _varies(result.bootstrap_distribution):
        result = resample(method="BCa", n_resamples=0, bootstrap_result=result)
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def _varies(resampled: Float[np.ndarray, "resample"]) -> bool:
    """Whether draws differ by more than rounding: BCa has no value of those that do not."""
    return not np.ptp(resampled) <= 1e-12 * np.abs(resampled).max()
