"""Error against correct traces with length held fixed by regression within problems.

    v = level of the problem + b error + c_1 log tokens + c_2 log steps + residual

`estimate` is b by least squares (statsmodels) over the traces of problems that have both kinds, its
interval Student's with n - 1 degrees of freedom and variances clustered by problem (CR1). With e~
what error is beyond the lengths and the problem, and u the residual of v on them alone,

    b       = sum over problems of s_p,     s_p = sum of e~ u over the traces of p / sum of e~^2
    p_value permutes u within problems (Freedman and Lane, 1983)
    p_sign  flips the signs of whole s_p (wild bootstrap of the scores, clustered by problem)

All traces count, at whatever length; pairs within a caliper drop most of them and still leave a
difference in length.

Assumptions: the metric is linear in the logarithms, alike in all problems; problems are
independent. When it misleads: with fewer than about twelve problems clustered variances are small,
so read p_sign; where all errors are longer than all correct traces the line is extrapolated.
"""

import math

import numpy as np
import pandas as pd
from jaxtyping import Float
from statsmodels.regression.linear_model import OLS

from step_saliency.diagnosis.contrast import COLUMNS, counts
from step_saliency.diagnosis.matching import Design
from step_saliency.options import Draws
from step_saliency.stats.permutation import permutation_p_values, sign_flip_p


def contrast_adjusted(
    values: Float[np.ndarray, "trace key"],
    lengths: Float[np.ndarray, "trace length"],
    design: Design,
    draws: Draws,
) -> pd.DataFrame:
    """Error minus correct at equal length, one row a key; counts alone where that cannot be had.

    Args:
        values: Value of each metric for the design's traces.
        lengths: Logarithms of the lengths of the same traces.
        design: Traces that are compared, with problems as strata.
        draws: How tests are drawn, and the level of the interval.
    """
    known = {**counts(design), "exact": False}
    if design.n_problems < 2:
        return pd.DataFrame(known, index=range(values.shape[1])).reindex(columns=COLUMNS)
    error = _within(design.is_error[:, None].astype(float), design)
    within, lengths = _within(values, design), _basis(_within(lengths, design))
    beyond = _residuals(error, lengths)[:, 0]
    if beyond @ beyond < 1e-9 * len(beyond):
        return pd.DataFrame(known, index=range(values.shape[1])).reindex(columns=COLUMNS)
    rest = _residuals(within, lengths)
    limits = [_clustered(v, error, lengths, design, draws.confidence) for v in within.T]
    scores = design.by_problem(beyond / (beyond @ beyond), rest)
    columns = {
        **dict(zip(("estimate", "lower", "upper"), np.array(limits).T, strict=True)),
        "p_value": _permuted_p(beyond, rest, design, draws),
        "p_sign": sign_flip_p(scores, n_permutations=draws.n_permutations, seed=draws.seed)[0],
        **known,
    }
    return pd.DataFrame(columns).reindex(columns=COLUMNS)


def _within(
    values: Float[np.ndarray, "trace column"], design: Design
) -> Float[np.ndarray, "trace column"]:
    """Values minus the mean of their problem."""
    return values - pd.DataFrame(values).groupby(design.problem).transform("mean").to_numpy()


def _basis(lengths: Float[np.ndarray, "trace length"]) -> Float[np.ndarray, "trace direction"]:
    """Orthonormal directions of the lengths: fewer where one length follows from the other."""
    directions, sizes, _ = np.linalg.svd(lengths, full_matrices=False)
    return directions[:, sizes > 1e-9]


def _residuals(
    values: Float[np.ndarray, "trace column"], lengths: Float[np.ndarray, "trace direction"]
) -> Float[np.ndarray, "trace column"]:
    return values - lengths @ (lengths.T @ values)


def _clustered(
    values: Float[np.ndarray, "trace"],
    error: Float[np.ndarray, "trace 1"],
    lengths: Float[np.ndarray, "trace direction"],
    design: Design,
    confidence: float,
) -> tuple[float, float, float]:
    """Coefficient of error and its interval; no interval where nothing is left to vary."""
    exog = np.concatenate([error, lengths], axis=1)
    result = OLS(values, exog).fit(
        cov_type="cluster", cov_kwds={"groups": design.problem}, use_t=True
    )
    if len(values) - design.n_problems - exog.shape[1] < 1:
        return float(result.params[0]), math.nan, math.nan
    lower, upper = result.conf_int(1 - confidence)[0]
    return float(result.params[0]), float(lower), float(upper)


def _permuted_p(
    beyond: Float[np.ndarray, "trace"],
    rest: Float[np.ndarray, "trace key"],
    design: Design,
    draws: Draws,
) -> Float[np.ndarray, "key"]:
    rng = np.random.default_rng([draws.seed, 4])
    weights = np.empty((draws.n_permutations, len(beyond)))
    for rows in design.strata:
        weights[:, rows] = rng.permuted(np.tile(beyond[rows], (len(weights), 1)), axis=1)
    return permutation_p_values(weights, rest, beyond @ rest, exact=False)
