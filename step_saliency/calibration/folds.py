"""Chosen on some problems, judged on the others: folds, and means over problems with intervals.

With a_cp the accuracy of candidate c on problem p, and F_1 ... F_k a split of the problems,

    c_i        = argmax_c mean_{p not in F_i} a_cp            chosen without fold i
    held out   = mean_p a_{c_i(p) p} - a_{0 p}                i(p) the fold of p, 0 no intervention
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from step_saliency.calibration.candidates import NO_FLOW, Candidate
from step_saliency.options import Draws
from step_saliency.stats.resampling import Bootstrap

Chooser = Callable[[np.ndarray], Candidate]
"""Chooses by the problems that a mask allows."""


def fold_numbers(n_problems: int, n_folds: int, seed: int) -> Int[np.ndarray, "problem"]:
    """Fold of each problem, at random, of equal size up to one."""
    order = np.random.default_rng([seed, 3]).permutation(n_problems)
    folds = np.empty(n_problems, dtype=np.int64)
    folds[order] = np.arange(n_problems) % n_folds
    return folds


def best_of(
    scores: Mapping[Candidate, Float[np.ndarray, "problem"]], train: Bool[np.ndarray, "problem"]
) -> Candidate:
    """The candidate with the highest mean over some problems; the first of those that are equal."""
    means = {candidate: float(score[train].mean()) for candidate, score in scores.items()}
    highest = max(means.values())
    return next(candidate for candidate, mean in means.items() if mean >= highest - 1e-12)


class Intervals:
    """Means over problems with their intervals; as many problems are drawn in the same way.

    Args:
        draws: How intervals are drawn.
    """

    def __init__(self, draws: Draws) -> None:
        self._draws = draws
        self._by_size: dict[int, Bootstrap] = {}

    def of(self, scores: Float[np.ndarray, "problem"]) -> dict[str, float | int]:
        """estimate, lower, upper and n."""
        n = len(scores)
        if n not in self._by_size:
            self._by_size[n] = Bootstrap(n, self._draws)
        lower, upper = self._by_size[n].interval(scores[:, None])
        numbers = {"estimate": float(scores.mean()), "lower": lower[0], "upper": upper[0]}
        return {**{name: float(x) for name, x in numbers.items()}, "n": n}


def cross_validated(
    scores: Mapping[Candidate, Float[np.ndarray, "problem"]],
    folds: Int[np.ndarray, "problem"],
    choose: Chooser,
    intervals: Intervals,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What each fold chose by the other folds and how that did on it; then over all folds.

    Args:
        scores: Accuracy of each candidate by problem; `NO_FLOW` is the baseline.
        folds: Fold of each problem.
        choose: Chooses by the problems that a mask allows.
        intervals: Of means over problems.
    """
    rows: list[dict[str, Any]] = []
    held_out_scores, baseline = np.empty(len(folds)), scores[NO_FLOW]
    for fold in np.unique(folds).tolist():
        held_out = folds == fold
        choice = choose(~held_out)
        held_out_scores[held_out] = scores[choice][held_out]
        columns = {"fold": fold, **choice.columns()}
        rows += _conditions(held_out_scores[held_out], baseline[held_out], intervals, columns)
    return pd.DataFrame(rows), pd.DataFrame(_conditions(held_out_scores, baseline, intervals, {}))


def _conditions(
    chosen: Float[np.ndarray, "problem"],
    baseline: Float[np.ndarray, "problem"],
    intervals: Intervals,
    columns: Mapping[str, Any],
) -> list[dict[str, Any]]:
    by_name = {"chosen": chosen, "baseline": baseline, "difference": chosen - baseline}
    return [{**columns, "condition": name, **intervals.of(x)} for name, x in by_name.items()]
