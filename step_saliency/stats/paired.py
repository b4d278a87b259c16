"""A condition minus the reference condition, paired within problems.

    d_p      = mean over the pairs of problem p of (value under the condition - under the reference)
    estimate = mean over problems of d_p
    effect   = estimate / standard deviation of d_p over problems            (Cohen's d_z)

What problems have in common, their difficulty above all, is in both terms of a difference and drops
out. The test flips the signs of the problems' differences; `p_holm` corrects it over the rows of a
family. Differences of answers that are declared as right and wrong (``kind="share"``, or truth
values) have Newcombe's interval where fewer than `step_saliency.stats.counts.FEW` problems changed.
When it misleads: a large p is no evidence of no effect; read ``detectable``, the difference
that a t-test would have found with probability 0.8.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Unpack

import numpy as np
import pandas as pd
from jaxtyping import Float

from step_saliency.options import Draws, DrawsOptions, check_option, shows_keywords
from step_saliency.stats.counts import (
    ValueKind,
    checked_kind,
    warn_of_undeclared_answers,
    with_counted_intervals,
)
from step_saliency.stats.equivalence import detectable_effect
from step_saliency.stats.multiplicity import with_holm
from step_saliency.stats.permutation import sign_flip_p
from step_saliency.stats.problems import (
    check_columns,
    check_problems,
    finite_numbers,
    mean_intervals,
    reduce_to_problems,
)


@shows_keywords(DrawsOptions, vars(Draws()), documented_by=Draws)
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
    kind: ValueKind | None = None,
    draws: Draws | None = None,
    **options: Unpack[DrawsOptions],
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
        kind: What the column holds: ``"measure"``, or ``"share"`` (right and wrong as 1 and 0, or
            shares of right answers). By default truth values are shares and numbers are measures.
        draws: How intervals and tests are drawn.
        options: Fields of `Draws`, which change it.

    Returns:
        One row per group and condition: ``by``, ``condition``, ``reference``, ``estimate, lower,
        upper, n, p, p_holm, effect_size`` (Cohen's d_z), ``mean, mean_reference, detectable`` (the
        difference that a t-test would have found with probability 0.8), ``interval`` (how it was
        made) and ``interval_corrected``: False, each interval is at the level by itself, and only
        ``p_holm`` is corrected for the family.

    Raises:
        ValueError: columns are missing, a row has no problem, the reference is not among the
            conditions, no problem has both, a value is no finite number or not of the kind.
    """
    draws = replace(draws or Draws(), **options)
    check_columns(frame, [value])
    if kind is not None:
        check_option("kind", kind, ("measure", "share"))
    finite_numbers(frame[value])
    is_share = checked_kind(frame[value], kind) == "share"
    pairs = with_reference(frame, value, condition, reference, [*by, *pair], problem)
    keys, differences = reduce_to_problems(
        pairs.assign(_difference=pairs[value] - pairs["_reference"]),
        "_difference",
        by=[*by, condition],
        problem=problem,
    )
    _, means = reduce_to_problems(pairs, value, by=[*by, condition], problem=problem)
    _, references = reduce_to_problems(pairs, "_reference", by=[*by, condition], problem=problem)
    columns = [column[~np.isnan(column)] for column in differences.T]
    contrasts = mean_intervals(differences, draws).assign(
        p=sign_flip_p(differences, n_permutations=draws.n_permutations, seed=draws.seed)[0],
        effect_size=[standardised(column[:, None])[0] for column in columns],
        mean=np.nanmean(means, 0),
        mean_reference=np.nanmean(references, 0),
        detectable=[detectable_effect(column) for column in columns],
        interval=["bootstrap" if len(column) > 1 else "none" for column in columns],
        interval_corrected=False,
    )
    if kind is None and not is_share:
        warn_of_undeclared_answers(frame[value], differences, "difference", draws.confidence)
    if is_share:
        contrasts = with_counted_intervals(
            contrasts, differences, "difference", confidence=draws.confidence
        )
    table = pd.concat([keys.assign(reference=reference), contrasts], axis=1)
    return with_holm(table, family=family)


def with_reference(
    frame: pd.DataFrame,
    value: str,
    condition: str,
    reference: Any,
    match: Sequence[str],
    problem: str,
) -> pd.DataFrame:
    """Rows of the other conditions with the reference's value of the same problem and match.

    Args:
        frame: Long table.
        value: Column that is compared; rows without a value are left out.
        condition: Column of the condition.
        reference: Condition whose value is put beside, as ``_reference``.
        match: Columns in which two rows must agree.
        problem: Column of the problem, in which they must agree too.

    Raises:
        ValueError: as `paired_table`.
    """
    check_columns(frame, [problem, value, condition, *match])
    known = sorted(map(str, frame[condition].unique()))
    if reference not in set(frame[condition]):
        raise ValueError(f"reference {reference!r} is none of the conditions {known}")
    frame = frame[frame[value].notna()]
    check_problems(frame, problem)
    on = [problem, *match]
    means = frame.groupby([*on, condition], sort=False, dropna=False)[value].mean().reset_index()
    is_reference = means[condition] == reference
    of_reference = means[is_reference].rename(columns={value: "_reference"})
    pairs = means[~is_reference].merge(of_reference[[*on, "_reference"]], on=on)
    if pairs.empty:
        raise ValueError(f"no {problem} has a value both for {reference!r} and another of {known}")
    return pairs


def standardised(differences: Float[np.ndarray, "problem key"]) -> Float[np.ndarray, "key"]:
    """Cohen's d_z: mean over standard deviation; missing where there is no spread."""
    if len(differences) < 2:
        return np.full(differences.shape[1], np.nan)
    spread = differences.std(0, ddof=1)
    # Differences that are equal on paper differ in the last bits.
    varies = spread > 1e-12 * np.abs(differences).max(0)
    return differences.mean(0) / np.where(varies, spread, np.nan)
