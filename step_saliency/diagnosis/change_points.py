"""Which layers are shallow and deep, read off the depth curves: bands without labels.

Question: where along the depth do lock-in and decay change? With x_l the mean of a metric over
problems at layer l, each curve is fitted by two levels,

    SSE(c) = sum_{l < c} (x_l - mean_{l < c} x)^2 + sum_{l >= c} (x_l - mean_{l >= c} x)^2

and the two change points are chosen together, c_lock_in <= c_decay, to minimise the sum of
SSE(c) / SSE(no change). The shallow band is what lies before c_lock_in if lock-in is larger there,
the deep band what lies from c_decay on if less of the summary falls on the thinking there. Problems
are drawn with replacement to say how often each layer lands in its band; a band whose direction
does not hold in `confidence` of the draws is left empty.

Needs no correct or wrong answers, so the choice cannot be fitted to the accuracy that it is later
judged by. When it misleads: two levels are fitted to any curve, however smooth its slope; look at
``explained`` and at the frequencies before believing a border to the layer.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, Unpack

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from step_saliency.diagnosis.diagnosis import Diagnosis
from step_saliency.models.bands import Bands
from step_saliency.options import Draws, DrawsOptions, shows_keywords
from step_saliency.stats.resampling import problem_shares

Curve = Literal["lock_in", "decay"]
CURVES: tuple[Curve, Curve] = ("lock_in", "decay")

BAND_DRAWS = Draws(n_resamples=1000)
"""Of `find_bands`, which searches two change points in every draw."""

FEWEST = 5
"""Problems below which draws repeat each other too often to say how sure a band is."""


@dataclass(frozen=True)
class BandChoice:
    """Bands read off the depth curves, and how sure they are.

    Attributes:
        bands: The choice; a band is empty where no change of its direction is sure.
        explained: Share of a curve's variance over depth that its two levels explain, by metric.
        support: Share of the draws in which the change has the direction looked for, by metric.
        layers: One row per metric and layer: ``metric, layer, estimate, in_band, frequency, n``;
            ``frequency`` is the share of the draws in which the layer is in the metric's band.
    """

    bands: Bands
    explained: dict[Curve, float]
    support: dict[Curve, float]
    layers: pd.DataFrame


@shows_keywords(DrawsOptions, vars(BAND_DRAWS), documented_by=Draws)
def find_bands(
    diagnoses: Iterable[Diagnosis],
    *,
    draws: Draws | None = None,
    **options: Unpack[DrawsOptions],
) -> BandChoice:
    """Choose the shallow and the deep band by the change points of the depth curves.

    Args:
        diagnoses: Of traces of one model, every layer computed.
        draws: How problems are drawn, and in what share of the draws (``confidence``) the direction
            of a change must hold; `BAND_DRAWS` by default.
        options: Fields of `step_saliency.options.Draws`, which change it.

    Raises:
        ValueError: traces of fewer than `FEWEST` problems, of which nothing is sure; models or
            layers that differ, fewer than three layers, or a trace without a name for its problem.
    """
    draws = replace(draws or BAND_DRAWS, **options)
    curves, n_layers = _problem_curves(list(diagnoses))
    estimate = curves.mean(1)
    shares = problem_shares(curves.shape[1], draws.n_resamples, draws.seed)
    resampled = np.einsum("dp,cpl->dcl", shares, curves)
    points, explained = _change_points(estimate[None])
    resampled_points, _ = _change_points(resampled)
    falls = _directed(resampled, resampled_points)
    is_sure = _directed(estimate[None], points)[0] & (falls.mean(0) >= draws.confidence)
    shallow = range(points[0, 0]) if is_sure[0] else range(0)
    deep = range(points[0, 1], n_layers) if is_sure[1] else range(0)
    table = _layer_table(estimate, (shallow, deep), _frequency(resampled_points, falls, n_layers))
    return BandChoice(
        bands=Bands.named({"shallow": shallow, "deep": deep}, n_layers),
        explained=_by_curve(explained[0]),
        support=_by_curve(falls.mean(0)),
        layers=table.assign(n=curves.shape[1]),
    )


def _by_curve(values: Float[np.ndarray, "metric"]) -> dict[Curve, float]:
    return dict(zip(CURVES, map(float, values), strict=True))


def _layer_table(
    estimate: Float[np.ndarray, "metric layer"],
    bands: tuple[range, range],
    frequency: Float[np.ndarray, "metric layer"],
) -> pd.DataFrame:
    n_layers = estimate.shape[1]
    return pd.DataFrame(
        {
            "metric": np.repeat(CURVES, n_layers),
            "layer": np.tile(np.arange(n_layers), 2),
            "estimate": estimate.ravel(),
            "in_band": [layer in band for band in bands for layer in range(n_layers)],
            "frequency": frequency.ravel(),
        }
    )


def _problem_curves(
    diagnoses: list[Diagnosis],
) -> tuple[Float[np.ndarray, "metric problem layer"], int]:
    """Lock-in and decay by layer, averaged over the traces of each problem."""
    if not diagnoses:
        raise ValueError("there are no diagnoses to choose bands by")
    n_layers = diagnoses[0].n_layers
    by_problem: dict[str, list[Float[np.ndarray, "metric layer"]]] = {}
    for diagnosis in diagnoses:
        if diagnosis.n_layers != n_layers or diagnosis.layers != tuple(range(n_layers)):
            raise ValueError(
                f"layers {diagnosis.layers} of {diagnosis.n_layers} were computed; all of the "
                f"{n_layers} layers of one model are needed"
            )
        if diagnosis.problem is None:
            raise ValueError("a trace has no name of its problem; set its meta['problem']")
        curve = np.stack([diagnosis.lock_in.double().numpy(), diagnosis.decay.double().numpy()])
        if np.isfinite(curve).all():
            by_problem.setdefault(diagnosis.problem, []).append(curve)
    if n_layers < 3:
        raise ValueError(f"a model of {n_layers} layers has no depth curve; three are needed")
    if not by_problem:
        raise ValueError(
            "no trace has both lock-in and decay in every layer: thinking and a summary are "
            "needed, and layers whose windows show them"
        )
    if len(by_problem) < FEWEST:
        raise ValueError(
            f"traces of {len(by_problem)} problems with both lock-in and decay: how sure a band is "
            f"shows in draws of problems, of which at least {FEWEST} are needed"
        )
    return np.stack([np.mean(curves, axis=0) for curves in by_problem.values()], axis=1), n_layers


def _change_points(
    curves: Float[np.ndarray, "draw metric layer"],
) -> tuple[Int[np.ndarray, "draw metric"], Float[np.ndarray, "draw metric"]]:
    """The first layer after each change, and the share of variance that two levels explain."""
    n_layers = curves.shape[-1]
    total = ((curves - curves.mean(-1, keepdims=True)) ** 2).sum(-1, keepdims=True)
    after = np.arange(n_layers) >= np.arange(1, n_layers)[:, None]
    residual = np.stack(
        [
            sum(
                ((part - part.mean(-1, keepdims=True)) ** 2).sum(-1)
                for part in (curves[..., ~row], curves[..., row])
            )
            for row in after
        ],
        axis=-1,
    )
    share = np.divide(residual, total, out=np.ones_like(residual), where=total > 0)
    allowed = np.triu(np.ones((n_layers - 1, n_layers - 1), dtype=bool))
    both = np.where(allowed, share[:, 0, :, None] + share[:, 1, None, :], np.inf)
    best = both.reshape(len(curves), -1).argmin(-1)
    changes = np.stack(np.unravel_index(best, both.shape[1:]), axis=-1)
    explained = 1 - np.take_along_axis(share, changes[..., None], axis=-1)[..., 0]
    return changes + 1, explained


def _directed(
    curves: Float[np.ndarray, "draw metric layer"], points: Int[np.ndarray, "draw metric"]
) -> Bool[np.ndarray, "draw metric"]:
    """Whether the level falls at the change, as both patterns have it."""
    after = np.arange(curves.shape[-1]) >= points[..., None]
    before_mean = np.where(after, 0, curves).sum(-1) / (~after).sum(-1)
    after_mean = np.where(after, curves, 0).sum(-1) / after.sum(-1)
    return before_mean > after_mean


def _frequency(
    points: Int[np.ndarray, "draw metric"],
    directed: Bool[np.ndarray, "draw metric"],
    n_layers: int,
) -> Float[np.ndarray, "metric layer"]:
    layers = np.arange(n_layers)
    shallow = (layers < points[:, :1]) & directed[:, :1]
    deep = (layers >= points[:, 1:]) & directed[:, 1:]
    return np.stack([shallow.mean(0), deep.mean(0)])
