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
length itself is among the metrics, so that the balance can be seen. What is left within the caliper
is a difference in length all the same, so two other controls can be had by `match`: rows at the
same step index (`step_saliency.diagnosis.same_step`) and regression on the lengths
(`step_saliency.diagnosis.adjusted`). Prefer the regression; see the limits in the documentation.

Assumptions: problems are independent, and given the problem (and the length) correct and error
traces would be exchangeable if the metric had nothing to do with correctness. A difference is an
association, not a cause. Where all problems but a few agree wholly, `auroc` has Wilson's interval,
as a share that is 0 or 1 has (`step_saliency.stats.counts`). When it misleads: with fewer than ten
problems intervals are rough; read `n` and the p-value. Problems that are always or never solved say
nothing here, so the result is about problems of middling difficulty.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, TypeAlias, Unpack, get_args

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from step_saliency.diagnosis.adjusted import contrast_adjusted
from step_saliency.diagnosis.contrast import contrast
from step_saliency.diagnosis.diagnosis import Diagnosis, stacked
from step_saliency.diagnosis.frame import KEYS
from step_saliency.diagnosis.matching import length_matched, within_problems
from step_saliency.diagnosis.same_step import contrast_at_steps
from step_saliency.options import Draws, DrawsOptions, check_option, is_finite, shows_keywords
from step_saliency.stats.multiplicity import with_holm
from step_saliency.stats.problems import check_columns

Length = Literal["n_tokens", "n_steps"]
MatchName = Literal["length", "step_index", "regression"]
if TYPE_CHECKING:
    Match: TypeAlias = MatchName
else:
    Match = str  # an unknown name meets `check_option`
Control = Literal["none", "length", "step_index", "regression"]

SEVERAL: tuple[str, ...] = get_args(MatchName)
LENGTHS = ["n_tokens", "n_steps"]

TRACE_COLUMNS = ["problem", "trace", "is_correct"]


@shows_keywords(DrawsOptions, vars(Draws()), documented_by=Draws)
def compare(
    data: Iterable[Diagnosis] | pd.DataFrame,
    *,
    metrics: str | Sequence[str] | None = None,
    length: Length = "n_tokens",
    caliper: float = 0.25,
    match: Match | Sequence[Match] = "length",
    draws: Draws | None = None,
    **options: Unpack[DrawsOptions],
) -> pd.DataFrame:
    """Error traces against correct traces of the same problems, metric by metric.

    Args:
        data: Diagnoses of traces whose problem and correctness are known, or a table as
            `Diagnosis.to_frame` writes it: ``problem, trace, is_correct, metric, value``, the
            column named by ``length``, and any of ``query_region, key_region, layer, head, band``.
            Traces of unknown correctness and missing values are left out.
        metrics: Metrics to compare, one or several; all by default.
        length: What counts as the length of a trace in the length-matched control.
        caliper: Largest difference in log length of a matched pair; 0.25 lets lengths differ by
            28%.
        match: Controls that stand beside the plain comparison, one or several: ``"length"`` (pairs
            within the caliper), ``"step_index"`` (rows at the same step index, strata by problem;
            lock-in, decay, their indices and normalised forms) and ``"regression"`` (log tokens and
            log steps within problems, by statsmodels).
        draws: How intervals and tests are drawn; the same draws serve every metric.
        options: Fields of `step_saliency.options.Draws`, which change it.

    Returns:
        One row per metric (with its layer, head, band, regions) and ``control`` (``"none"`` and
        those of ``match``): ``estimate, lower, upper, n`` (problems), ``n_traces, n_pairs,
        mean_correct, mean_error, p_value, p_holm, p_sign, exact, effect_size, auroc, auroc_lower,
        auroc_upper, interval, interval_corrected``. ``interval`` says how lower and upper were made
        (``"bootstrap"``, ``"clustered_t"``, ``"none"``); ``interval_corrected`` is False: intervals
        are not corrected for the layers, as ``p_holm`` is. Differences are error minus correct.
        What cannot be had is missing (intervals with one problem; everything in the control where
        no pair is alike enough, with ``n`` 0; areas and means under ``"regression"``).

    Raises:
        ValueError: columns are missing, a metric is unknown, a trace has no name or no problem or
            stands twice in the table, or no problem has traces of both kinds; ``match`` is unknown,
            or needs the rows of diagnoses where a table came.
    """
    draws = replace(draws or Draws(), **options)
    controls = [match] if isinstance(match, str) else list(match)
    for control in controls:
        check_option("match", control, SEVERAL)
    if not is_finite(caliper) or caliper < 0:
        raise ValueError(f"caliper={caliper!r} must be a number, 0 or above")
    metrics = [metrics] if isinstance(metrics, str) else metrics
    data = data if isinstance(data, pd.DataFrame) or not isinstance(data, Iterable) else list(data)
    table = _table(stacked(data, "compare"), length, metrics)
    steps = _step_table(data, metrics) if "step_index" in controls else None
    if "regression" in controls:
        check_columns(table, LENGTHS)
    traces, keys, values = _pivot(table, length)
    problems = traces["problem"].to_numpy()
    is_error = ~traces["is_correct"].to_numpy(dtype=bool)
    log_length = np.log(np.maximum(traces[length].to_numpy(dtype=float), 1))
    _check_both_kinds(problems, is_error)
    parts = []
    for columns, valid in _by_missing(values):
        plain = within_problems(problems, is_error, valid)
        results = {"none": contrast(values[plain.traces][:, columns], plain, draws)}
        if "length" in controls:
            pairs = length_matched(problems, is_error, valid, log_length, caliper)
            results["length"] = contrast(values[pairs.traces][:, columns], pairs, draws)
        if "regression" in controls:
            lengths = np.log(np.maximum(traces[LENGTHS].to_numpy(dtype=float), 1))
            results["regression"] = contrast_adjusted(
                values[plain.traces][:, columns], lengths[plain.traces], plain, draws
            )
        parts += [_named(keys.iloc[columns], name, rows) for name, rows in results.items()]
    if steps is not None:
        parts += _at_steps(steps, draws)
    return _corrected(_with_kinds(pd.concat(parts, ignore_index=True)))


def _named(keys: pd.DataFrame, control: str, result: pd.DataFrame) -> pd.DataFrame:
    head = keys.reset_index(drop=True).assign(control=control)
    return pd.concat([head, result], axis=1)


def _with_kinds(result: pd.DataFrame) -> pd.DataFrame:
    kind = np.where(result["control"] == "regression", "clustered_t", "bootstrap")
    kind = np.where(result["lower"].isna(), "none", kind)
    return result.assign(interval=kind, interval_corrected=False)


def _step_table(
    data: list[Diagnosis] | pd.DataFrame, metrics: Sequence[str] | None
) -> pd.DataFrame:
    """Rows of the traces of known correctness, by step index."""
    if isinstance(data, pd.DataFrame):
        raise ValueError(
            "match='step_index' compares the rows of a trace, and a table has one value a trace; "
            "give the diagnoses"
        )
    frames = [
        diagnosis.step_frame().assign(trace=diagnosis.trace_id or f"#{number}")
        for number, diagnosis in enumerate(data)
    ]
    table = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame({"is_correct": []})
    table = table[table["is_correct"].notna()]
    return table if metrics is None else table[table["metric"].isin(list(metrics))]


def _at_steps(table: pd.DataFrame, draws: Draws) -> list[pd.DataFrame]:
    """Contrasts at the same step index, of metrics that lack the same rows together."""
    if table.empty:
        return []
    by_trace = table.groupby(["problem", "trace"], sort=False)
    by_key = table.groupby(["metric", "layer", "band"], sort=False, dropna=False)
    traces = by_trace["is_correct"].first().reset_index()
    keys = by_key.size().reset_index()[["metric", "layer", "band"]]
    keys = keys.reindex(columns=list(KEYS)).astype(KEYS)
    shape = (len(traces), int(table["step_index"].max()) + 1, len(keys))
    values = np.full(shape, np.nan)
    values[by_trace.ngroup(), table["step_index"], by_key.ngroup()] = table["value"]
    problems, is_error = traces["problem"].to_numpy(), ~traces["is_correct"].to_numpy(dtype=bool)
    return [
        _named(
            keys.iloc[columns],
            "step_index",
            contrast_at_steps(values[:, :, columns], problems, is_error, draws),
        )
        for columns, _ in _by_missing(values.reshape(-1, len(keys)))
    ]


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
    lengths = [name for name in LENGTHS if name == length or name in table]
    return table.reindex(columns=[*TRACE_COLUMNS, *lengths, *KEYS, "value"]).astype(KEYS)


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
    lengths = [name for name in LENGTHS if name in table]
    traces = by_trace[["is_correct", *lengths]].first().reset_index()
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
