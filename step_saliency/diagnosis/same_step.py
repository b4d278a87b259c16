"""Error against correct traces at the same step index: rows that see as many steps.

With e and c the error and correct traces of problem p that have a row at step index s, N = e + c,

    d_ps = mean of v over the error rows at s - mean over the correct rows at s
    w_s  = n_e n_c / N                                     (weights of Mantel and Haenszel)
    d_p  = sum_s w_s d_ps / sum_s w_s                      estimate = mean over problems of d_p

so that a long trace is compared with a short one where both have steps, and its later rows, which
see more and so have more excess, say nothing. `p_value` exchanges the labels of whole traces within
problems, as all rows of a trace go together; `p_sign` flips the signs of whole d_p. ``auroc`` is
over pairs of rows at the same index of one problem.

Assumptions: rows of the same index differ by correctness only. When it misleads: steps of different
length give rows at the same index that see different numbers of tokens. Decay is matched by the
index within the summary, while how much thinking there was still differs; take the regression
(`step_saliency.diagnosis.adjusted`) there.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from step_saliency.diagnosis.contrast import COLUMNS, INTERVALS, area_intervals, estimates
from step_saliency.options import Draws
from step_saliency.stats.paired import standardised
from step_saliency.stats.permutation import exchanged_labels, permutation_p_values, sign_flips
from step_saliency.stats.resampling import Bootstrap


@dataclass(frozen=True)
class Stratified:
    """Rows of the traces of one problem, by step index.

    Attributes:
        traces: Traces of the problem that have rows.
        is_error: Label of each.
        present: Whether a trace has a row at a step index.
        values: Values of the rows, 0 where there is none.
    """

    traces: Int[np.ndarray, "trace"]
    is_error: Bool[np.ndarray, "trace"]
    present: Bool[np.ndarray, "trace step"]
    values: Float[np.ndarray, "trace step key"]

    def weight(self, labels: Bool[np.ndarray, "draw trace"]) -> Float[np.ndarray, "draw"]:
        """Sum of the strata's weights for these labels."""
        total = self.present.sum(0)
        errors = labels.astype(float) @ self.present
        return (errors * (total - errors) / np.maximum(total, 1)).sum(-1)

    def residuals(self) -> Float[np.ndarray, "trace key"]:
        """Rows minus the mean of all traces at the same index, added up.

        Their sum over errors is sum_s w_s d_ps, whatever the labels.
        """
        means = self.values.sum(0) / np.maximum(self.present.sum(0), 1)[:, None]
        return ((self.values - means) * self.present[..., None]).sum(1)

    def mean(self, is_error: bool) -> Float[np.ndarray, "key"]:
        """Weighted mean of the error, or the correct, rows."""
        mine, others = (self.is_error == x for x in (is_error, not is_error))
        share = self.present[others].sum(0) / np.maximum(self.present.sum(0), 1)
        total = (share[:, None] * self.values[mine].sum(0)).sum(0)
        return total / self.weight(self.is_error[None])

    def n_pairs(self) -> int:
        errors, corrects = self.present[self.is_error], self.present[~self.is_error]
        return int((errors.sum(0) * corrects.sum(0)).sum())

    def area(self) -> Float[np.ndarray, "key"]:
        """Share of the pairs of rows in which the error's value is larger; ties count half."""
        total = np.zeros(self.values.shape[-1])
        for error in np.flatnonzero(self.is_error):
            both = self.present[~self.is_error] & self.present[error]
            signs = np.sign(self.values[error] - self.values[~self.is_error])
            total += (signs * both[..., None]).sum((0, 1))
        return 0.5 + 0.5 * total / self.n_pairs()


def contrast_at_steps(
    values: Float[np.ndarray, "trace step key"],
    problems: np.ndarray,
    is_error: Bool[np.ndarray, "trace"],
    draws: Draws,
) -> pd.DataFrame:
    """Error minus correct at the same step index, one row a key; counts alone without any.

    Args:
        values: NaN where a trace has no row; which rows are there is the same for all keys.
        problems: Problem of each trace.
        is_error: Label of each trace.
        draws: How intervals and tests are drawn.
    """
    strata = _strata(values, problems, is_error)
    counts = {
        "n": len(strata),
        "n_traces": sum(len(stratum.traces) for stratum in strata),
        "n_pairs": sum(stratum.n_pairs() for stratum in strata),
    }
    if not strata:
        return pd.DataFrame(counts, index=range(values.shape[2])).reindex(columns=COLUMNS)
    differences, tests = _tested(strata, draws)
    bootstrap = Bootstrap(len(strata), draws)
    columns = {
        **estimates(INTERVALS, differences, bootstrap),
        "mean_correct": np.mean([stratum.mean(False) for stratum in strata], axis=0),
        "mean_error": np.mean([stratum.mean(True) for stratum in strata], axis=0),
        **tests,
        "effect_size": standardised(differences),
        **area_intervals(
            np.stack([stratum.area() for stratum in strata]), bootstrap, draws.confidence
        ),
        **counts,
    }
    return pd.DataFrame(columns, columns=COLUMNS)


def _strata(
    values: Float[np.ndarray, "trace step key"],
    problems: np.ndarray,
    is_error: Bool[np.ndarray, "trace"],
) -> list[Stratified]:
    """Problems with an error and a correct row at a common index."""
    present = np.isfinite(values).all(-1)
    strata = []
    for problem in pd.unique(problems):
        traces = np.flatnonzero((problems == problem) & present.any(1))
        rows = np.where(present[traces][..., None], values[traces], 0.0)
        stratum = Stratified(traces, is_error[traces], present[traces], rows)
        if stratum.weight(stratum.is_error[None])[0] > 0:
            strata.append(stratum)
    return strata


def _tested(
    strata: list[Stratified], draws: Draws
) -> tuple[Float[np.ndarray, "problem key"], dict[str, Float[np.ndarray, "key"] | bool]]:
    """Difference of each problem, with labels exchanged and signs flipped."""
    sizes = np.cumsum([0, *(len(stratum.traces) for stratum in strata)])
    members = [np.arange(a, b) for a, b in pairwise(sizes)]
    residuals = np.concatenate([stratum.residuals() for stratum in strata])
    is_error = np.concatenate([stratum.is_error for stratum in strata])
    observed = _weights(strata, members, is_error[None])[0]
    differences = np.stack([observed[rows] @ residuals[rows] for rows in members])
    total = differences.sum(0)
    labels, exact = exchanged_labels(is_error, members, draws.n_permutations, draws.seed)
    signs, all_signs = sign_flips(len(strata), draws.n_permutations, draws.seed)
    weights = _weights(strata, members, labels)
    return differences, {
        "p_value": permutation_p_values(weights, residuals, total, exact),
        "p_sign": permutation_p_values(signs, differences, total, all_signs),
        "exact": exact,
    }


def _weights(
    strata: list[Stratified],
    members: list[Int[np.ndarray, "_"]],
    labels: Bool[np.ndarray, "draw trace"],
) -> Float[np.ndarray, "draw trace"]:
    """What residuals are multiplied by to give d_p; 0 where labels leave no common index."""
    weights = np.zeros(labels.shape)
    for stratum, rows in zip(strata, members, strict=True):
        weight = stratum.weight(labels[:, rows])[:, None]
        weights[:, rows] = labels[:, rows] / np.where(weight > 0, weight, np.inf)
    return weights
