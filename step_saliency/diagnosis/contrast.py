"""Statistics of a design: what sets error traces apart, with intervals and tests by problem.

Formulas, tests and caveats: `step_saliency.diagnosis.comparison`.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from step_saliency.diagnosis.matching import Design
from step_saliency.options import Draws
from step_saliency.stats.counts import share_from_counts
from step_saliency.stats.paired import standardised
from step_saliency.stats.permutation import exchanged_labels, permutation_p_values, sign_flips
from step_saliency.stats.resampling import Bootstrap

INTERVALS = ["estimate", "lower", "upper"]
_COUNTS = ["n", "n_traces", "n_pairs"]
_MEANS = ["mean_correct", "mean_error"]
_TESTS = ["p_value", "p_sign", "exact"]
AREAS = ["auroc", "auroc_lower", "auroc_upper"]
COLUMNS = [*INTERVALS, *_COUNTS, *_MEANS, *_TESTS, "effect_size", *AREAS]


def contrast(values: Float[np.ndarray, "trace key"], design: Design, draws: Draws) -> pd.DataFrame:
    """Error minus correct traces, one row a key; nothing but counts where no problem has both.

    Args:
        values: Value of each metric for the design's traces.
        design: Which traces are compared with which.
        draws: How intervals and tests are drawn.
    """
    if design.n_problems == 0:
        return pd.DataFrame(counts(design), index=range(values.shape[1])).reindex(columns=COLUMNS)
    weights = design.weights(design.is_error)
    differences = design.by_problem(weights, values)
    bootstrap = Bootstrap(design.n_problems, draws)
    columns = {
        **estimates(INTERVALS, differences, bootstrap),
        "mean_correct": -design.by_problem(np.minimum(weights, 0), values).mean(0),
        "mean_error": design.by_problem(np.maximum(weights, 0), values).mean(0),
        **_tests(values, differences, design, draws),
        "effect_size": standardised(differences),
        **area_intervals(_areas(values, design), bootstrap, draws.confidence),
        **counts(design),
    }
    return pd.DataFrame(columns, columns=COLUMNS)


def estimates(
    names: Sequence[str], by_problem: Float[np.ndarray, "problem key"], bootstrap: Bootstrap
) -> dict[str, Float[np.ndarray, "key"]]:
    """Means over problems and their intervals, under these three names."""
    lower, upper = bootstrap.interval(by_problem)
    return dict(zip(names, (by_problem.mean(0), lower, upper), strict=True))


def area_intervals(
    by_problem: Float[np.ndarray, "problem key"], bootstrap: Bootstrap, confidence: float
) -> dict[str, Float[np.ndarray, "key"]]:
    """Mean areas with intervals; Wilson's where problems are all one way but for a few.

    Args:
        by_problem: Area of each problem.
        bootstrap: Draws of the problems.
        confidence: Level of the intervals.
    """
    columns = estimates(AREAS, by_problem, bootstrap)
    _, lower, upper = columns.values()
    for key, column in enumerate(by_problem.T):
        limits = share_from_counts(column, confidence)
        if limits is not None:
            lower[key], upper[key] = limits
    return columns


def counts(design: Design) -> dict[str, int]:
    """Problems, traces, and pairs of an error and a correct trace of one stratum."""
    errors = design.is_error
    n_pairs = sum(int(errors[m].sum() * (~errors[m]).sum()) for m in design.strata)
    return {"n": design.n_problems, "n_traces": len(design.traces), "n_pairs": n_pairs}


def _tests(
    values: Float[np.ndarray, "trace key"],
    differences: Float[np.ndarray, "problem key"],
    design: Design,
    draws: Draws,
) -> dict[str, Bool[np.ndarray, "key"] | Float[np.ndarray, "key"] | bool]:
    """Labels exchanged within strata, and signs of whole problems flipped."""
    n_permutations, seed, observed = draws.n_permutations, draws.seed, differences.sum(0)
    labels, exact = exchanged_labels(design.is_error, design.strata, n_permutations, seed)
    signs, all_signs = sign_flips(design.n_problems, n_permutations, seed)
    return {
        "p_value": permutation_p_values(design.weights(labels), values, observed, exact),
        "p_sign": permutation_p_values(signs, differences, observed, all_signs),
        "exact": exact,
    }


def _areas(
    values: Float[np.ndarray, "trace key"], design: Design
) -> Float[np.ndarray, "problem key"]:
    areas = np.zeros((design.n_problems, values.shape[1]))
    for members, share in zip(design.strata, design.stratum_share, strict=True):
        errors = values[members[design.is_error[members]]]
        corrects = values[members[~design.is_error[members]]]
        sign = np.sign(errors[:, None] - corrects)
        areas[design.problem[members[0]]] += share * (0.5 + 0.5 * sign.mean((0, 1)))
    return areas
