"""Do error traces differ from correct traces of the same problem?

For each metric (and layer, head, band), with v the metric's value of a trace and p a problem that
has traces of both kinds:

    d_p      = mean of v over the error traces of p - mean of v over its correct traces
    estimate = mean over problems of d_p
    auroc    = mean over problems of P(v_error > v_correct) + P(v_error = v_correct) / 2, over the
               pairs of an error and a correct trace of p
    effect   = estimate / standard deviation of d_p over problems    (Cohen's d_z)

Traces of one problem, and layers and tokens of one trace, are not independent; problems are. So the
problem is the unit: each counts once, however many traces it has, and the bootstrap draws whole
problems. Intervals are percentile intervals with the expanded levels Phi(t_{n-1} sqrt(n/(n-1)))
(Hesterberg, "What Teachers Should Know About the Bootstrap", 2015), which make up for the
narrowness of the plain percentile bootstrap with few problems. Two permutation tests go with them,
two-sided, exact where the arrangements are few enough and on draws otherwise. `p_value` exchanges
the labels within each problem: it asks whether correctness has anything to do with v in any of
these problems, and takes the traces of a problem as independent draws given the problem. `p_sign`
flips the signs of whole d_p: it asks whether the mean difference over problems like these is zero,
as the interval does, and does not change when traces are copied. `p_holm` corrects `p_value` for
the layers (and heads) of one metric.

Error traces tend to be longer, and shares depend on how many steps there are to share with. The
rows with ``control="length"`` therefore compare only pairs of an error and a correct trace of one
problem whose lengths agree within a caliper: one-to-one, as many as there can be, then as alike as
can be. A problem's d_p is then the mean over its pairs, and labels are exchanged within pairs. The
length itself is among the metrics, so that the balance can be seen.

Assumptions: problems are independent, and given the problem (and the length) correct and error
traces would be exchangeable if the metric had nothing to do with correctness. A difference is an
association, not a cause. When it misleads: with fewer than ten problems intervals are rough, and
that of `auroc` collapses to a point where all problems agree; read `n` and the p-value. Problems
that are always or never solved say nothing here, so the result is about problems of middling
difficulty.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Literal, Unpack

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from step_saliency.diagnosis.contrast import contrast
from step_saliency.diagnosis.diagnosis import Diagnosis, stacked
from step_saliency.diagnosis.frame import KEYS
from step_saliency.diagnosis.matching import Design, length_matched, within_problems
from step_saliency.options import Draws, DrawsOptions, shows_keywords
from step_saliency.stats.multiplicity import with_holm
from step_saliency.stats.problems import check_columns

Length = Literal["n_tokens", "n_steps"]
Control = Literal["none", "length"]

TRACE_COLUMNS = ["problem", "trace", "is_correct"]


@shows_keywords(DrawsOptions, vars(Draws()), documented_by=Draws)
def compare(
    data: Iterable[Diagnosis] | pd.DataFrame,
    *,
    metrics: Sequence[str] | None = None,
    length: Length = "n_tokens",
    caliper: float = 0.25,
    draws: Draws | None = None,
    **options: Unpack[DrawsOptions],
) -> pd.DataFrame:
    """Error traces against correct traces of the same problems, metric by metric.

    Args:
        data: Diagnoses of traces whose problem and correctness are known, or a table as
            `Diagnosis.to_frame` writes it: ``problem, trace, is_correct, metric, value``, the
            column named by ``length``, and any of ``query_region, key_region, layer, head, band``.
            Traces of unknown correctness and missing values are left out.
        metrics: Metrics to compare; all by default.
        length: What counts as the length of a trace in the length-matched control.
        caliper: Largest difference in log length of a matched pair; 0.25 lets lengths differ by
            28%.
        draws: How intervals and tests are drawn; the same draws serve every metric.
        options: Fields of `step_saliency.options.Draws`, which change it.

    Returns:
        One row per metric (with its layer, head, band, regions) and ``control`` (``"none"``,
        ``"length"``): ``estimate, lower, upper, n`` (problems), ``n_traces, n_pairs, mean_correct,
        mean_error, p_value, p_holm, p_sign, exact, effect_size, auroc, auroc_lower, auroc_upper``.
        Differences are error minus correct. What cannot be had is missing (intervals with one
        problem; everything in the control where no pair is alike enough, with ``n`` 0).

    Raises:
        ValueError: columns are missing, a metric is unknown, a trace has no name or no problem or
            stands twice in the table, or no problem has traces of both kinds.
    """
    draws = replace(draws or Draws(), **options)
    table = _table(stacked(data, "compare"), length, metrics)
    traces, keys, values = _pivot(table, length)
    problems = traces["problem"].to_numpy()
    is_error = ~traces["is_correct"].to_numpy(dtype=bool)
    log_length = np.log(np.maximum(traces[length].to_numpy(dtype=float), 1))
    _check_both_kinds(problems, is_error)
    parts = []
    for columns, valid in _by_missing(values):
        designs: dict[Control, Design] = {
            "none": within_problems(problems, is_error, valid),
            "length": length_matched(problems, is_error, valid, log_length, caliper),
        }
        for control, design in designs.items():
            result = contrast(values[design.traces][:, columns], design, draws)
            head = keys.iloc[columns].reset_index(drop=True).assign(control=control)
            parts.append(pd.concat([head, result], axis=1))
    return _corrected(pd.concat(parts, ignore_index=True))


def _table(table: pd.DataFrame, length: Length, metrics: Sequence[str] | None) -> pd.DataFrame:
    check_columns(table, sorted({*TRACE_COLUMNS, length, "metric", "value"}))
    unknown = sorted(set(metrics or ()) - set(table["metric"].unique()))
    if unknown:
        known = sorted(table["metric"].unique())
        raise ValueError(f"metrics {unknown} are unknown; there are {known}")
    table = table[table["is_correct"].notna()]
    if metrics is not None:
        table = table[table["metric"].isin(list(metrics))]
    for column, remedy in (("problem", "meta['problem']"), ("trace", "its id")):
        if table[column].isna().any():
            raise ValueError(f"a trace of the table has no {column}; set {remedy} of the trace")
    return table.reindex(columns=[*TRACE_COLUMNS, length, *KEYS, "value"]).astype(KEYS)


def _pivot(
    table: pd.DataFrame, length: Length
) -> tuple[pd.DataFrame, pd.DataFrame, Float[np.ndarray, "trace key"]]:
    """Traces (rows), keys (columns) and the values where they meet; the length is the last key."""
    by_trace = table.groupby(["problem", "trace"], sort=False)
    by_key = table.groupby(list(KEYS), sort=False, dropna=False)
    rows, columns = by_trace.ngroup().to_numpy(), by_key.ngroup().to_numpy()
    repeated = pd.MultiIndex.from_arrays([rows, columns]).duplicated()
    if repeated.any():
        twice = table.loc[repeated, ["problem", "trace", "metric"]].iloc[0].to_dict()
        raise ValueError(f"a value stands twice in the table: {twice}; name traces uniquely")
    traces = by_trace[["is_correct", length]].first().reset_index()
    keys = table.loc[~pd.Series(columns, table.index).duplicated(), list(KEYS)].reset_index(
        drop=True
    )
    values = np.full((len(traces), len(keys) + 1), np.nan)
    values[rows, columns] = table["value"].to_numpy(dtype=float, na_value=np.nan)
    values[:, -1] = traces[length].to_numpy(dtype=float)
    own = pd.DataFrame([{"metric": length}], columns=list(KEYS)).astype(KEYS)
    return traces, pd.concat([keys, own], ignore_index=True), values


def _check_both_kinds(problems: np.ndarray, is_error: Bool[np.ndarray, "trace"]) -> None:
    both = set(problems[is_error]) & set(problems[~is_error])
    if not both:
        raise ValueError(
            f"no problem has both a correct and an error trace ({len(set(problems))} problems, "
            f"{int((~is_error).sum())} correct traces, {int(is_error.sum())} error traces)"
        )


def _by_missing(
    values: Float[np.ndarray, "trace key"],
) -> Iterator[tuple[Int[np.ndarray, "key"], Bool[np.ndarray, "trace"]]]:
    """Columns that lack the same traces, with the traces that they have."""
    patterns, pattern_of = np.unique(np.isfinite(values), axis=1, return_inverse=True)
    for number, valid in enumerate(patterns.T):
        yield np.flatnonzero(pattern_of.ravel() == number), valid


def _corrected(result: pd.DataFrame) -> pd.DataFrame:
    """Add Holm's correction over the layers and heads of one metric and control."""
    family = ["metric", "query_region", "key_region", "control", "of_head"]
    of_head = result.assign(of_head=result["head"].notna())
    return with_holm(of_head, p="p_value", family=family).drop(columns="of_head")
