"""Conditions against a condition: the tables that several questions make of their values."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import pandas as pd

from step_saliency.stats.binary import binary_table
from step_saliency.stats.multiplicity import with_holm
from step_saliency.stats.paired import paired_table
from step_saliency.stats.problems import mean_table


def against(
    values: pd.DataFrame, column: str, reference: str, *, by: Sequence[str] = (), **options: Any
) -> pd.DataFrame:
    """Each condition minus one, paired within problems: `paired_table` of ``condition``.

    Args:
        values: Long table.
        column: What differs.
        reference: Condition that the others are held against.
        by: Columns that name groups taken apart.
        options: Others of `paired_table`, such as ``pair``, ``family``, ``seed``.
    """
    return paired_table(
        values, column, condition="condition", reference=reference, by=[*by], **options
    )


def answers_against(
    values: pd.DataFrame, reference: str, *, by: Sequence[str] = (), **options: Any
) -> pd.DataFrame:
    """Accuracy of each condition minus one's, answers paired by problem and sample."""
    return binary_table(
        values, condition="condition", reference=reference, by=[*by], pair=["sample"], **options
    )


def with_placebos(values: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Each placebo beside what it is the placebo of.

    Args:
        values: Rows of conditions, with the columns of `Condition.columns`.

    Yields:
        Name of a placebo; its rows and those of the method of the same ``edit``.
    """
    real = values[values["placebo"].isna() & (values["group"] == "method")]
    for edit in ("oeb", "smi", "both"):
        fakes = values[values["placebo"].notna() & (values["edit"] == edit)]
        if not (real["condition"] == edit).any():
            continue
        for name, fake in fakes.groupby("condition", sort=False):
            yield str(name), pd.concat([real[real["condition"] == edit], fake])


def corrected_together(tables: Sequence[pd.DataFrame], family: Sequence[str] = ()) -> pd.DataFrame:
    """Tables as one, with Holm's correction over its families; empty if there are none.

    Args:
        tables: Tables with ``p``; a correction that was made within each goes.
        family: Columns that name families; all rows are one by default.
    """
    if not tables:
        return pd.DataFrame()
    plain = [table.drop(columns="p_holm", errors="ignore") for table in tables]
    return with_holm(pd.concat(plain, ignore_index=True), family=[*family])


def contrast(
    means: pd.DataFrame,
    weights: Mapping[str, float],
    *,
    kind: Literal["measure", "share"],
    **draws: Any,
) -> pd.DataFrame | None:
    """Weighted sum over conditions of a problem's values, tested against 0.

    Args:
        means: One row a problem, one column a condition.
        weights: Weight of each condition; of shares, those above and below 0 are alike in sum.
        kind: Whether the values are shares of right answers.
        draws: Options of `mean_table`.

    Returns:
        None where a condition is missing, or no problem has all of them.
    """
    if not set(weights) <= set(means.columns):
        return None
    sums = (means[list(weights)] @ pd.Series(weights, dtype=float)).dropna()
    if sums.empty:
        return None
    of_sums: dict[str, Any] = {"kind": "measure"}
    if kind == "share":
        of_sums = {"kind": "difference", "bound": sum(max(w, 0.0) for w in weights.values())}
    return mean_table(sums.rename("value").reset_index(), "value", null=0.0, **of_sums, **draws)
