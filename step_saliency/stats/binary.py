"""Right and wrong answers: paired tables with corrected and broken counted apart, and odds.

With b_i and a_i whether pair i is right under the reference and under the condition,

    corrected   number of pairs with b_i = 0, a_i = 1          broken   with b_i = 1, a_i = 0
    p           sign flips of the problems' differences, as in `step_saliency.stats.paired`
    p_mcnemar   exact binomial test of corrected against broken (statsmodels); conservative, because
                it is discrete
    p_mid       counts arrangements as extreme as the observed one half, and is not (Fagerland,
                Lydersen and Laake, BMC Medical Research Methodology 13, 2013); 1 without a change

McNemar's test takes pairs as independent, so in a table it stands only where a problem has one
pair.

The interval of the risk difference is a bootstrap over problems where at least
`step_saliency.stats.counts.FEW` problems changed, and Newcombe's, from the counts, where fewer did:
answers of which none changed have an interval too. The column ``interval`` says which.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Unpack

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int
from scipy import stats
from statsmodels.stats import contingency_tables
from statsmodels.stats.proportion import confint_proportions_2indep

from step_saliency.options import Draws, DrawsOptions, shows_keywords
from step_saliency.stats.paired import paired_table, with_reference
from step_saliency.stats.problems import check_columns, finite_numbers


@shows_keywords(DrawsOptions, vars(Draws()), documented_by=Draws)
def binary_table(
    frame: pd.DataFrame,
    value: str = "is_correct",
    *,
    condition: str,
    reference: Any,
    by: Sequence[str] = (),
    pair: Sequence[str] = (),
    problem: str = "problem",
    family: Sequence[str] = (),
    draws: Draws | None = None,
    **options: Unpack[DrawsOptions],
) -> pd.DataFrame:
    """`paired_table` for right and wrong, with the answers that a condition corrects and breaks.

    Args:
        frame: As for `paired_table`, with one row per problem, condition, group and pair.
        value: Column that is True, False, 1 or 0.
        condition: As for `paired_table`, as is what is not named here.
        reference: Condition that is compared with.
        pair: Columns that name the answers of a problem, such as the sample.

    Returns:
        The columns of `paired_table` (``estimate`` is the risk difference, ``interval`` is
        ``"bootstrap"`` or ``"newcombe"``), then ``n_pairs, corrected, broken, p_mcnemar, p_mid,
        odds_ratio, odds_lower, odds_upper`` (corrected over broken).

    Raises:
        ValueError: as `paired_table`; an answer stands twice; a value is neither 0 nor 1.
    """
    draws = replace(draws or Draws(), **options)
    frame = _answers(frame, value, [problem, *by, *pair, condition])
    table = paired_table(
        frame,
        value,
        condition=condition,
        reference=reference,
        by=by,
        pair=pair,
        problem=problem,
        family=family,
        kind="share",
        draws=draws,
    )
    pairs = with_reference(frame, value, condition, reference, [*by, *pair], problem)
    groups = pairs.groupby([*by, condition], sort=False, dropna=False)
    counts = [_flips(rows, value, problem, draws.confidence) for _, rows in groups]
    return pd.concat([table, pd.DataFrame(counts)], axis=1)


def _answers(frame: pd.DataFrame, value: str, on: Sequence[str]) -> pd.DataFrame:
    """Rows with an answer, right and wrong as numbers, each answer once."""
    check_columns(frame, [*on, value])
    frame = frame.assign(**{value: finite_numbers(frame[value])})
    frame = frame[frame[value].notna()]
    strange = sorted(set(frame[value]) - {0.0, 1.0})
    if strange:
        raise ValueError(f"column {value!r} holds {strange[:3]}; right and wrong are 1 and 0")
    if frame.duplicated(on).any():
        twice = frame.loc[frame.duplicated(on), list(on)].iloc[0].to_dict()
        raise ValueError(f"an answer stands twice: {twice}; name the samples in pair=[...]")
    return frame


def _flips(
    rows: pd.DataFrame, value: str, problem: str, confidence: float
) -> dict[str, float | int]:
    flips = mcnemar(
        rows["_reference"].to_numpy(bool), rows[value].to_numpy(bool), confidence=confidence
    )
    if rows[problem].duplicated().any():
        unknown = ("p_mcnemar", "p_mid", "odds_lower", "odds_upper")
        flips |= dict.fromkeys(unknown, math.nan)
    return flips


def mcnemar(
    before: Bool[np.ndarray, "pair"], after: Bool[np.ndarray, "pair"], *, confidence: float = 0.95
) -> dict[str, float | int]:
    """McNemar's exact test of paired right and wrong answers; pairs are taken as independent.

    Args:
        before: Whether the reference is right.
        after: Whether the condition is right.
        confidence: Level of the interval of the odds ratio.

    Returns:
        ``n_pairs, corrected, broken, p_mcnemar, p_mid, odds_ratio, odds_lower, odds_upper``. The
        odds ratio is corrected / broken with the exact (Clopper-Pearson) interval; missing where no
        answer changed.

    Raises:
        ValueError: the arrays differ in length.
    """
    if len(before) != len(after):
        raise ValueError(f"{len(before)} answers before and {len(after)} after; give pairs")
    corrected, broken = int((~before & after).sum()), int((before & ~after).sum())
    p = _exact_p(corrected, broken)
    as_extreme = float(stats.binom.pmf(corrected, corrected + broken, 0.5))
    as_extreme *= 1 if corrected == broken else 2
    return {
        "n_pairs": len(before),
        "corrected": corrected,
        "broken": broken,
        "p_mcnemar": p,
        "p_mid": p - as_extreme / 2 if corrected + broken else 1.0,
        **_odds_of_flips(corrected, broken, confidence),
    }


def _exact_p(corrected: int, broken: int) -> float:
    if abs(corrected - broken) < 2:
        return 1.0  # where statsmodels' sum of probabilities ends a few bits below
    return float(contingency_tables.mcnemar([[0, broken], [corrected, 0]], exact=True).pvalue)


def _odds_of_flips(corrected: int, broken: int, confidence: float) -> dict[str, float]:
    names = ("odds_ratio", "odds_lower", "odds_upper")
    changed = corrected + broken
    if not changed:
        return dict.fromkeys(names, math.nan)
    limits = stats.binomtest(corrected, changed).proportion_ci(confidence, method="exact")
    return dict(zip(names, map(_odds, (corrected / changed, *limits)), strict=True))


def _odds(share: float) -> float:
    return math.inf if share == 1 else share / (1 - share)


def odds_ratio(
    table: Int[np.ndarray, "2 2"], *, confidence: float = 0.95
) -> dict[str, float | int]:
    """Odds ratio and risk difference of two unpaired groups.

    Args:
        table: Counts; rows are the groups, columns events and non-events.
        confidence: Level of the intervals.

    Returns:
        ``odds_ratio, odds_lower, odds_upper`` (conditional, exact; scipy), ``p`` (Fisher),
        ``risk_difference, risk_lower, risk_upper`` (Newcombe's score interval; statsmodels), ``n``.

    Raises:
        ValueError: a group is empty.
    """
    if (table.sum(1) == 0).any():
        raise ValueError(f"a group of {table.tolist()} is empty")
    odds = stats.contingency.odds_ratio(table, kind="conditional")
    interval = odds.confidence_interval(confidence)
    risk = table[:, 0] / table.sum(1)
    risk_lower, risk_upper = confint_proportions_2indep(
        *(int(count) for group in table for count in (group[0], group.sum())),
        method="newcomb",
        compare="diff",
        alpha=1 - confidence,
    )
    return {
        "odds_ratio": float(odds.statistic),
        "odds_lower": float(interval.low),
        "odds_upper": float(interval.high),
        "p": float(stats.fisher_exact(table).pvalue),
        "risk_difference": float(risk[0] - risk[1]),
        "risk_lower": float(risk_lower),
        "risk_upper": float(risk_upper),
        "n": int(table.sum()),
    }
