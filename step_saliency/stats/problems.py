"""One number per problem, and means of these over problems.

    x_p      = mean of the value over the rows of problem p (in a group)
    estimate = mean over problems of x_p

so that each problem counts once, however many rows it has. Intervals draw whole problems
(`step_saliency.stats.resampling`); a mean is tested against a null value by sign flips
(`step_saliency.stats.permutation`), which asks for symmetry about it. Of a column that is declared
as right and wrong (``kind="share"``, or truth values), a mean that fewer than
`step_saliency.stats.counts.FEW` problems keep from 0 or 1 has Wilson's interval: no error in sixty
is not certainly none. Differences of such shares (``kind="difference"``) have Newcombe's.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Unpack

import numpy as np
import pandas as pd
from jaxtyping import Float

from step_saliency.options import Draws, DrawsOptions, shows_keywords
from step_saliency.stats.counts import (
    ValueKind,
    checked_kind,
    warn_of_undeclared_answers,
    with_counted_intervals,
)
from step_saliency.stats.permutation import sign_flip_p
from step_saliency.stats.resampling import Bootstrap, Levels


@shows_keywords(DrawsOptions, vars(Draws()), documented_by=Draws)
def mean_table(
    frame: pd.DataFrame,
    value: str,
    *,
    by: Sequence[str] = (),
    problem: str = "problem",
    null: float | None = None,
    kind: ValueKind | None = None,
    bound: float = 1.0,
    draws: Draws | None = None,
    **options: Unpack[DrawsOptions],
) -> pd.DataFrame:
    """Mean over problems of each group.

    Args:
        frame: Long table.
        value: Column that is averaged, within problems first.
        by: Columns that name the groups.
        problem: Column of the problem.
        null: Value that the mean is tested against by sign flips; None tests nothing.
        kind: What the column holds: ``"measure"``; ``"share"`` (right and wrong as 1 and 0, or
            shares of right answers); ``"difference"`` of such shares. By default truth values are
            shares and numbers are measures.
        bound: Largest difference that is possible, for ``"difference"``.
        draws: How intervals and tests are drawn.
        options: Fields of `Draws`, which change it.

    Returns:
        One row a group: ``by`` columns, ``estimate, lower, upper, n, p``, ``interval`` (how it was
        made: ``"bootstrap"``, ``"wilson"``, ``"newcombe"``, ``"none"``) and
        ``interval_corrected`` (False: each is at the level by itself).

    Raises:
        ValueError: columns are missing, there is no value, or one is not of the kind.
    """
    draws = replace(draws or Draws(), **options)
    keys, values = reduce_to_problems(frame, value, by=by, problem=problem)
    declared = checked_kind(frame[value], kind, bound)
    if kind is None and declared == "measure":
        warn_of_undeclared_answers(frame[value], values, "share", draws.confidence)
    p: Any = math.nan
    if null is not None:
        p = sign_flip_p(values - null, n_permutations=draws.n_permutations, seed=draws.seed)[0]
    table = mean_intervals(values, draws).assign(p=p)
    table["interval"] = np.where(table["n"] > 1, "bootstrap", "none")
    table = with_counted_intervals(
        table, values, declared, confidence=draws.confidence, bound=bound
    )
    return pd.concat([keys, table.assign(interval_corrected=False)], axis=1)


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
        ValueError: columns are missing, a row has no problem, there is no value, or one is no
            finite number.
    """
    check_columns(frame, [problem, value, *by])
    frame = frame[frame[value].notna()]
    if frame.empty:
        raise ValueError(f"column {value!r} has no value to average")
    numbers = finite_numbers(frame[value])
    check_problems(frame, problem)
    rows, names = pd.factorize(frame[problem], sort=False)
    grouped = frame.groupby(list(by), sort=False, dropna=False) if by else None
    columns = np.zeros(len(frame), int) if grouped is None else grouped.ngroup().to_numpy()
    shape = (len(names), columns.max() + 1)
    totals, counts = np.zeros(shape), np.zeros(shape)
    np.add.at(totals, (rows, columns), numbers)
    np.add.at(counts, (rows, columns), 1)
    first = np.unique(columns, return_index=True)[1]
    keys = frame[list(by)].take(first).reset_index(drop=True)
    return keys, np.where(counts > 0, totals / np.maximum(counts, 1), np.nan)


def mean_intervals(
    values: Float[np.ndarray, "problem key"], draws: Draws, *, levels: Levels = "expanded"
) -> pd.DataFrame:
    """Mean over problems of each column, with its interval.

    Args:
        values: One row a problem; missing values are left out.
        draws: How intervals are drawn.
        levels: Kind of interval (`step_saliency.stats.resampling`).

    Returns:
        One row a column: ``estimate, lower, upper, n``.
    """
    lower, upper = Bootstrap(len(values), draws, levels=levels).interval(values)
    n = (~np.isnan(values)).sum(0)
    estimate = np.nansum(values, 0) / np.where(n > 0, n, np.nan)
    return pd.DataFrame({"estimate": estimate, "lower": lower, "upper": upper, "n": n})


def finite_numbers(column: pd.Series) -> Float[np.ndarray, "row"]:
    """Values of a column as numbers, missing ones as NaN.

    Raises:
        ValueError: a value is no number, or infinite: no mean over problems has an interval then.
    """
    is_typed = pd.api.types.is_numeric_dtype(column)
    strange = None if is_typed else next((v for v in column if isinstance(v, str)), None)
    if strange is not None:
        raise ValueError(f"column {column.name!r} holds {strange!r}, which is no number")
    numbers = column.to_numpy(dtype=float, na_value=np.nan)
    n_infinite = int(np.isinf(numbers).sum())
    if n_infinite:
        raise ValueError(
            f"column {column.name!r} is infinite in {n_infinite} of {len(numbers)} rows; bound or "
            "drop these"
        )
    return numbers


def check_problems(frame: pd.DataFrame, problem: str) -> None:
    """Raise ValueError for rows whose problem is missing: they would count as another's."""
    n_missing = int(frame[problem].isna().sum())
    if n_missing:
        raise ValueError(
            f"{n_missing} of {len(frame)} rows have no {problem}; name their problem or drop them"
        )


def check_columns(frame: pd.DataFrame, names: Sequence[str]) -> None:
    """Raise ValueError for columns that a table lacks."""
    missing = [name for name in names if name not in frame.columns]
    if missing:
        raise ValueError(f"columns {missing} are missing; the table has {list(frame.columns)}")
