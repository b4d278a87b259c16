"""Spearman's rank correlation, within rows and over problems.

With r(x) the ranks of x (ties share their mean), centred and of length one,

    rho = r(x) . r(y)

`correlation_table` takes rho within rows, the mean over the rows of a problem, and the mean of
these over problems: rows differ in level for reasons that say nothing about the entries of a row.
Its test permutes the effect within each row. `rank_correlation_over_problems` takes one entry a
problem.

Ranks are scipy's. Its `spearmanr` is not used: it takes one pair of samples at a time, or all pairs
of columns, of which none has a value where one of the first two is constant; here many scores meet
one effect, and thousands of permutations the same ranks.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Unpack

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import stats

from step_saliency.options import Draws, DrawsOptions, shows_keywords
from step_saliency.stats.permutation import drawn_p
from step_saliency.stats.problems import check_columns, check_problems, mean_table
from step_saliency.stats.resampling import Estimate, expanded_level, percentile_limits

CORRELATION_DRAWS = Draws(n_permutations=2000)
"""Of `correlation_table`, which permutes every row of every problem so often."""

PROBLEM_CORRELATION_DRAWS = Draws(n_resamples=1000, n_permutations=2000)
"""Of `rank_correlation_over_problems`: every draw is ranked anew."""


def rank_correlation(
    scores: Float[np.ndarray, "map key"], effect: Float[np.ndarray, "key"]
) -> Float[np.ndarray, "map"]:
    """Spearman's rho of several scores with one effect; missing where either does not vary."""
    return unit_ranks(scores) @ unit_ranks(effect[None])[0]


def row_correlations(
    x: Float[np.ndarray, "row key"], y: Float[np.ndarray, "row key"]
) -> Float[np.ndarray, "row"]:
    """Spearman's rho of each row of x with the same row of y; missing where either is constant."""
    # Divided once, not rank by rank as in `unit_ranks`: tables hold the last bits of this order.
    ranks = stats.rankdata(np.stack([x, y], -1), axis=1)
    ranks -= ranks.mean(1, keepdims=True)
    lengths = np.sqrt((ranks**2).sum(1)).prod(-1)
    return ranks.prod(-1).sum(1) / np.where(lengths > 0, lengths, np.nan)


def unit_ranks(values: Float[np.ndarray, "row key"]) -> Float[np.ndarray, "row key"]:
    """Ranks of each row, centred and of length one, so that rho is a dot product."""
    ranks = stats.rankdata(values, axis=1)
    ranks -= ranks.mean(1, keepdims=True)
    length = np.linalg.norm(ranks, axis=1, keepdims=True)
    return ranks / np.where(length > 0, length, np.nan)


@shows_keywords(DrawsOptions, vars(PROBLEM_CORRELATION_DRAWS), documented_by=Draws)
def rank_correlation_over_problems(
    x: Float[np.ndarray, "problem"],
    y: Float[np.ndarray, "problem"],
    *,
    draws: Draws | None = None,
    **options: Unpack[DrawsOptions],
) -> Estimate:
    """Spearman's rho of two values over problems.

    Args:
        x: One value a problem, none missing.
        y: The other value of each; the test permutes these.
        draws: How interval and test are drawn; `PROBLEM_CORRELATION_DRAWS` by default.
        options: Fields of `Draws`, which change it.

    Returns:
        rho with its interval and p, all missing where x or y does not vary.

    Raises:
        ValueError: a value is missing.
    """
    draws = replace(draws or PROBLEM_CORRELATION_DRAWS, **options)
    n = len(x)
    lacking = np.isnan(x) | np.isnan(y)
    if lacking.any():
        raise ValueError(f"{int(lacking.sum())} problems lack a value; drop them")
    x_ranks, y_ranks = unit_ranks(np.stack([x, y]))
    rho = float(x_ranks @ y_ranks)
    if n < 2 or math.isnan(rho):
        return Estimate(math.nan, math.nan, math.nan, n)
    problems = np.random.default_rng([draws.seed, 5]).integers(0, n, (draws.n_resamples, n))
    rhos = row_correlations(x[problems], y[problems])
    lower, upper = percentile_limits(rhos[:, None], expanded_level(n, draws.confidence))
    rng = np.random.default_rng([draws.seed, 3])
    null = _permuted_rhos(x_ranks, y_ranks, draws.n_permutations, rng)
    return Estimate(rho, float(lower[0]), float(upper[0]), n, p=_permutation_p(null, rho))


@shows_keywords(DrawsOptions, vars(CORRELATION_DRAWS), documented_by=Draws)
def correlation_table(
    frame: pd.DataFrame,
    score: str,
    effect: str,
    *,
    row: Sequence[str],
    by: Sequence[str] = (),
    problem: str = "problem",
    min_keys: int = 3,
    draws: Draws | None = None,
    **options: Unpack[DrawsOptions],
) -> pd.DataFrame:
    """Spearman's rho within rows, averaged within problems, then over problems.

    Args:
        frame: Long table, one row per pair of steps.
        score: Column that predicts.
        effect: Column that is predicted.
        row: Columns that name a row of a problem, such as ``["query_step"]``; a missing name is a
            name.
        by: Columns that name groups taken apart.
        problem: Column of the problem.
        min_keys: Rows with fewer entries are left out, as are rows in which either column is
            constant.
        draws: How intervals and tests are drawn; `CORRELATION_DRAWS` by default.
        options: Fields of `Draws`, which change it.

    Returns:
        One row a group: ``by``, ``estimate, lower, upper, n, p, n_rows``. A group of which no row
        can be ranked has nothing but ``n`` and ``n_rows``, which are 0; one warning names these.

    Raises:
        ValueError: columns are missing, an entry has no problem, or no row of any group can be
            ranked.
    """
    draws = replace(draws or CORRELATION_DRAWS, **options)
    check_columns(frame, [problem, *row, *by, score, effect])
    groups = frame.groupby(list(by), sort=False, dropna=False) if by else [((), frame)]
    tables, unranked = [], []
    for names, entries in groups:
        rhos, p = _within_rows(entries, score, effect, [problem, *row], min_keys, draws)
        key: dict[str, Any] = dict(zip(by, names, strict=True))
        if rhos.empty:
            unranked.append(key)
            means = pd.DataFrame([_NO_MEAN])
        else:
            means = mean_table(rhos, "rho", problem=problem, kind="measure", draws=draws)
        tables.append(means.assign(p=p, n_rows=len(rhos), **key)[[*by, *means.columns, "n_rows"]])
    _check_ranked(unranked, len(tables), f"no row of {[problem, *row]} has {min_keys} entries")
    return pd.concat(tables, ignore_index=True)


_NO_MEAN = {
    "estimate": math.nan,
    "lower": math.nan,
    "upper": math.nan,
    "n": 0,
    "p": math.nan,
    "interval": "none",
    "interval_corrected": False,
}
"""The row of `mean_table` for a group without a value."""


def _check_ranked(unranked: Sequence[Mapping[str, Any]], n_groups: int, lack: str) -> None:
    """Raise ValueError if no group can be ranked; name in one warning those that cannot.

    Args:
        unranked: Names of these groups, by column.
        n_groups: Number of all groups.
        lack: What they lack.
    """
    if len(unranked) == n_groups:
        raise ValueError(f"{lack} that can be ranked")
    if unranked:
        groups = [", ".join(f"{name}={value!r}" for name, value in k.items()) for k in unranked]
        more = f" and {len(groups) - 8} more" if len(groups) > 8 else ""
        warnings.warn(
            f"{lack} that can be ranked (more of them, and both columns not constant) in "
            f"{len(groups)} of {n_groups} groups, whose rho is missing: "
            f"{'; '.join(groups[:8])}{more}",
            stacklevel=3,
        )


def _within_rows(
    frame: pd.DataFrame, score: str, effect: str, row: Sequence[str], min_keys: int, draws: Draws
) -> tuple[pd.DataFrame, float]:
    """rho of each row that can be ranked, and the p-value of their mean over problems."""
    rng = np.random.default_rng([draws.seed, 3])
    rows, permuted = [], []
    known = frame.dropna(subset=[score, effect])
    check_problems(known, row[0])
    for names, entries in known.groupby(list(row), sort=False, dropna=False):
        x, y = (unit_ranks(entries[[c]].to_numpy(float).T)[0] for c in (score, effect))
        if len(entries) < min_keys or np.isnan(x @ y):
            continue
        rows.append((*names, float(x @ y)))
        permuted.append(_permuted_rhos(x, y, draws.n_permutations, rng))
    rhos = pd.DataFrame(rows, columns=[*row, "rho"])
    if not rows:
        return rhos, math.nan
    weight = 1 / rhos.groupby(row[0])["rho"].transform("size").to_numpy(float)
    observed = float(weight @ rhos["rho"].to_numpy())
    return rhos, _permutation_p(weight @ np.stack(permuted), observed)


def _permuted_rhos(
    x: Float[np.ndarray, "key"], y: Float[np.ndarray, "key"], n: int, rng: np.random.Generator
) -> Float[np.ndarray, "permutation"]:
    """rho of unit ranks with the second ones permuted."""
    return rng.permuted(np.tile(y, (n, 1)), axis=1) @ x


def _permutation_p(null: Float[np.ndarray, "permutation"], observed: float) -> float:
    # Sums that are equal on paper differ in the last bits with the order of the terms.
    slack = 1e-9 * np.abs(null).max(initial=0)
    as_large = (np.abs(null) >= abs(observed) - slack).sum()
    return float(drawn_p(as_large, len(null)))
