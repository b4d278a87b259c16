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

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from scipy import optimize

from step_saliency.diagnosis.diagnosis import Diagnosis
from step_saliency.stats.resampling import (
    Bootstrap,
    holm,
    permutation_p_values,
    sign_flips,
    standardised,
)

Length = Literal["n_tokens", "n_steps"]
Control = Literal["none", "length"]

KEYS = {
    "metric": "string",
    "query_region": "string",
    "key_region": "string",
    "layer": "Int64",
    "head": "Int64",
    "band": "string",
}
TRACE_COLUMNS = ["problem", "trace", "is_correct"]


@dataclass(frozen=True)
class _Design:
    """Which traces are compared with which.

    Attributes:
        traces: Rows of the value table that are compared.
        is_error: Label of each of them.
        problem: Problem of each, numbered from 0.
        stratum: Group within which labels may be exchanged, numbered from 0: problem or matched
            pair.
    """

    traces: Int[np.ndarray, "trace"]
    is_error: Bool[np.ndarray, "trace"]
    problem: Int[np.ndarray, "trace"]
    stratum: Int[np.ndarray, "trace"]

    @cached_property
    def n_problems(self) -> int:
        return len(np.unique(self.problem))

    @cached_property
    def strata(self) -> list[Int[np.ndarray, "_"]]:
        """Positions of the members of each stratum."""
        return [np.flatnonzero(self.stratum == s) for s in range(len(np.unique(self.stratum)))]

    @cached_property
    def stratum_share(self) -> Float[np.ndarray, "stratum"]:
        """One over the number of strata in the stratum's problem."""
        problems = np.array([self.problem[members[0]] for members in self.strata])
        return 1 / np.bincount(problems, minlength=self.n_problems)[problems]

    def weights(
        self, is_error: Bool[np.ndarray, "*permutation trace"]
    ) -> Float[np.ndarray, "*permutation trace"]:
        """Weights with which the values of a problem add up to its d_p, for these labels.

        Labels may be exchanged within strata: each keeps its number of errors.
        """
        n_errors = np.bincount(self.stratum, self.is_error)
        n_corrects = np.bincount(self.stratum, ~self.is_error)
        as_error = (self.stratum_share / n_errors)[self.stratum]
        as_correct = (self.stratum_share / n_corrects)[self.stratum]
        return np.where(is_error, as_error, -as_correct)

    def by_problem(
        self, weights: Float[np.ndarray, "trace"], values: Float[np.ndarray, "trace key"]
    ) -> Float[np.ndarray, "problem key"]:
        """Weighted sums of the traces of each problem."""
        sums = np.zeros((self.n_problems, values.shape[1]))
        np.add.at(sums, self.problem, weights[:, None] * values)
        return sums


def compare(
    data: Iterable[Diagnosis] | pd.DataFrame,
    *,
    metrics: Sequence[str] | None = None,
    length: Length = "n_tokens",
    caliper: float = 0.25,
    confidence: float = 0.95,
    n_resamples: int = 5000,
    n_permutations: int = 10_000,
    seed: int = 0,
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
        confidence: Level of the intervals.
        n_resamples: Bootstrap samples.
        n_permutations: Arrangements up to which a permutation test is exact, and the number that
            is drawn beyond.
        seed: Of the bootstrap and the permutations; the same draws serve every metric.

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
    table = _table(data, length, metrics)
    traces, keys, values = _pivot(table, length)
    problems = traces["problem"].to_numpy()
    is_error = ~traces["is_correct"].to_numpy(dtype=bool)
    log_length = np.log(np.maximum(traces[length].to_numpy(dtype=float), 1))
    _check_both_kinds(problems, is_error)
    parts = []
    for columns, valid in _by_missing(values):
        designs: dict[Control, _Design] = {
            "none": _within_problems(problems, is_error, valid),
            "length": _length_matched(problems, is_error, valid, log_length, caliper),
        }
        for control, design in designs.items():
            result = _contrast(
                values[design.traces][:, columns],
                design,
                confidence=confidence,
                n_resamples=n_resamples,
                n_permutations=n_permutations,
                seed=seed,
            )
            head = keys.iloc[columns].reset_index(drop=True).assign(control=control)
            parts.append(pd.concat([head, result], axis=1))
    return _with_holm(pd.concat(parts, ignore_index=True))


def _table(
    data: Iterable[Diagnosis] | pd.DataFrame, length: Length, metrics: Sequence[str] | None
) -> pd.DataFrame:
    table = data if isinstance(data, pd.DataFrame) else _stack(data)
    missing = sorted({*TRACE_COLUMNS, length, "metric", "value"} - set(table.columns))
    if missing:
        raise ValueError(f"columns {missing} are missing; the table has {list(table.columns)}")
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


def _stack(diagnoses: Iterable[Diagnosis]) -> pd.DataFrame:
    frames = [
        diagnosis.to_frame().assign(trace=diagnosis.trace_id or f"#{number}")
        for number, diagnosis in enumerate(diagnoses)
    ]
    if not frames:
        raise ValueError("there are no diagnoses to compare")
    return pd.concat(frames, ignore_index=True)


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


def _within_problems(
    problems: np.ndarray, is_error: Bool[np.ndarray, "trace"], valid: Bool[np.ndarray, "trace"]
) -> _Design:
    groups = []
    for problem in pd.unique(problems[valid]):
        members = np.flatnonzero((problems == problem) & valid)
        if len(set(is_error[members])) == 2:
            groups.append([members])
    return _design(groups, is_error)


def _length_matched(
    problems: np.ndarray,
    is_error: Bool[np.ndarray, "trace"],
    valid: Bool[np.ndarray, "trace"],
    log_length: Float[np.ndarray, "trace"],
    caliper: float,
) -> _Design:
    groups = []
    for problem in pd.unique(problems[valid]):
        members = np.flatnonzero((problems == problem) & valid)
        errors, corrects = members[is_error[members]], members[~is_error[members]]
        groups.append(_nearest_pairs(errors, corrects, log_length, caliper))
    return _design([pairs for pairs in groups if pairs], is_error)


def _nearest_pairs(
    errors: Int[np.ndarray, "error"],
    corrects: Int[np.ndarray, "correct"],
    log_length: Float[np.ndarray, "trace"],
    caliper: float,
) -> list[Int[np.ndarray, "2"]]:
    """One-to-one pairs within the caliper: as many as possible, then of least total distance."""
    distance = np.abs(log_length[errors][:, None] - log_length[corrects])
    within = distance <= caliper
    forbidden = 1 + caliper * min(distance.shape)
    pairs = optimize.linear_sum_assignment(np.where(within, distance, forbidden))
    return [np.array([errors[i], corrects[j]]) for i, j in zip(*pairs, strict=True) if within[i, j]]


def _design(
    groups: Sequence[Sequence[Int[np.ndarray, "_"]]], is_error: Bool[np.ndarray, "trace"]
) -> _Design:
    """Design from the strata of each problem."""
    strata = [(problem, members) for problem, group in enumerate(groups) for members in group]
    sizes = [len(members) for _, members in strata]
    traces = np.concatenate([members for _, members in strata] or [np.empty(0, int)])
    return _Design(
        traces=traces,
        is_error=is_error[traces],
        problem=np.repeat(np.array([problem for problem, _ in strata], int), sizes),
        stratum=np.repeat(np.arange(len(strata)), sizes),
    )


def _contrast(
    values: Float[np.ndarray, "trace key"],
    design: _Design,
    *,
    confidence: float,
    n_resamples: int,
    n_permutations: int,
    seed: int,
) -> pd.DataFrame:
    n = design.n_problems
    errors = design.is_error
    counts = {
        "n": n,
        "n_traces": len(design.traces),
        "n_pairs": sum(int(errors[m].sum() * (~errors[m]).sum()) for m in design.strata),
    }
    if n == 0:
        return pd.DataFrame(counts, index=range(values.shape[1])).reindex(columns=_RESULTS)
    weights = design.weights(errors)
    differences = design.by_problem(weights, values)
    areas = _areas(values, design)
    estimate = differences.mean(0)
    bootstrap = Bootstrap(n, confidence=confidence, n_resamples=n_resamples, seed=seed)
    lower, upper = bootstrap.interval(differences)
    area_lower, area_upper = bootstrap.interval(areas)
    exchanged, exact = _permutations(design, n_permutations, seed)
    p_value = permutation_p_values(exchanged, values, differences.sum(0), exact)
    signs, all_signs = sign_flips(n, n_permutations, seed)
    p_sign = permutation_p_values(signs, differences, differences.sum(0), all_signs)
    return pd.DataFrame(
        {
            "estimate": estimate,
            "lower": lower,
            "upper": upper,
            "mean_correct": -design.by_problem(np.minimum(weights, 0), values).mean(0),
            "mean_error": design.by_problem(np.maximum(weights, 0), values).mean(0),
            "p_value": p_value,
            "p_sign": p_sign,
            "exact": exact,
            "effect_size": standardised(differences),
            "auroc": areas.mean(0),
            "auroc_lower": area_lower,
            "auroc_upper": area_upper,
            **counts,
        },
        columns=_RESULTS,
    )


_RESULTS = [
    "estimate",
    "lower",
    "upper",
    "n",
    "n_traces",
    "n_pairs",
    "mean_correct",
    "mean_error",
    "p_value",
    "p_sign",
    "exact",
    "effect_size",
    "auroc",
    "auroc_lower",
    "auroc_upper",
]


def _areas(
    values: Float[np.ndarray, "trace key"], design: _Design
) -> Float[np.ndarray, "problem key"]:
    areas = np.zeros((design.n_problems, values.shape[1]))
    for members, share in zip(design.strata, design.stratum_share, strict=True):
        errors = values[members[design.is_error[members]]]
        corrects = values[members[~design.is_error[members]]]
        sign = np.sign(errors[:, None] - corrects)
        areas[design.problem[members[0]]] += share * (0.5 + 0.5 * sign.mean((0, 1)))
    return areas


def _permutations(
    design: _Design, n_permutations: int, seed: int
) -> tuple[Float[np.ndarray, "permutation trace"], bool]:
    """Weights of the traces under exchanged labels, and whether these are all there are."""
    errors = [design.is_error[members] for members in design.strata]
    if math.prod(math.comb(len(e), int(e.sum())) for e in errors) <= n_permutations:
        labels = _all_labels(design, errors)
        exact = True
    else:
        labels = _drawn_labels(design, errors, n_permutations, seed)
        exact = False
    return design.weights(labels), exact


def _all_labels(
    design: _Design, errors: Sequence[Bool[np.ndarray, "_"]]
) -> Bool[np.ndarray, "permutation trace"]:
    choices = [list(itertools.combinations(range(len(e)), int(e.sum()))) for e in errors]
    labels = np.zeros((math.prod(map(len, choices)), len(design.traces)), bool)
    for row, chosen in zip(labels, itertools.product(*choices), strict=True):
        for members, positions in zip(design.strata, chosen, strict=True):
            row[members[list(positions)]] = True
    return labels


def _drawn_labels(
    design: _Design, errors: Sequence[Bool[np.ndarray, "_"]], n: int, seed: int
) -> Bool[np.ndarray, "permutation trace"]:
    rng = np.random.default_rng([seed, 1])
    labels = np.zeros((n, len(design.traces)), bool)
    for members, of_stratum in zip(design.strata, errors, strict=True):
        labels[:, members] = rng.permuted(np.tile(of_stratum, (n, 1)), axis=1)
    return labels


def _with_holm(result: pd.DataFrame) -> pd.DataFrame:
    """Add Holm's correction over the layers and heads of one metric and control."""
    family = ["metric", "query_region", "key_region", "control"]
    of_head = result["head"].notna().rename("of_head")
    corrected = result.groupby([*family, of_head], dropna=False)["p_value"].transform(
        lambda p_values: pd.Series(holm(p_values.to_numpy(float)), p_values.index)
    )
    result.insert(list(result.columns).index("p_value") + 1, "p_holm", corrected)
    return result
