"""Placebos of the bridge: rows that move as much, but not onto the bridge as it is.

    random    as many keys as the bridge has, drawn from bridge and current part for each query
    block     as many keys, which follow each other, at a random place for each step
    permuted  the bridge, with the odds between its keys handed around at random
    smooth    no keys at all: the same rows at a higher temperature

Without a dose the mass is held, by the same rule as that of the bridge: a row whose drawn keys have
as much already is left alone, so that less moves. With one, the rows move that the bridge itself
would move, and each by the dose times the divergence of the bridge there. Smoothing always goes by
divergence.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from step_saliency.intervene.choices import BridgePlacebo
from step_saliency.intervene.groups import KeyGroup
from step_saliency.intervene.labels import StepLabels
from step_saliency.intervene.oeb.equal_dose import (
    row_doses,
    shifts_at_divergence,
    unreached_by_none,
)
from step_saliency.intervene.oeb.masses import group_sums, log_sum, visible_keys, with_sinks
from step_saliency.intervene.oeb.permuted import permuted_bridge
from step_saliency.intervene.oeb.projection import OddsEqualShifts, odds_equal_shifts
from step_saliency.intervene.oeb.random_bridge import random_block, random_bridge
from step_saliency.intervene.oeb.scores import moved_rows, odds_equal_scores, shifted_scores

Scores = Float[Tensor, "batch head query key"]
Groups = Int[Tensor, "batch query key"]
Edited = tuple[Float[Tensor, "batch head query key"], OddsEqualShifts | None]


def placebo_scores(
    scores: Float[Tensor, "batch head query key"],
    groups: Int[Tensor, "batch query key"],
    labels: StepLabels,
    *,
    placebo: BridgePlacebo,
    tau_max: float,
    dose: float | None = None,
    seed: int = 0,
    sinks: Float[Tensor, "..."] | None = None,
) -> Edited:
    """Scores that a placebo of the bridge moves; arguments and results of `odds_equal_scores`.

    Args:
        scores: Scores before the softmax.
        groups: `KeyGroup` of each key to each query, as the bridge has them.
        labels: What every position so far is.
        placebo: Which.
        tau_max: Upper bound of tau_B.
        dose: Factor on each row's divergence; None holds the mass.
        seed: Seed of the draw.
        sinks: Score of a sink that takes part in the softmax.
    """
    if placebo == "smooth":
        return odds_equal_scores(
            scores, groups[:, None], tau_max=tau_max, sinks=sinks, mode="smooth", dose=dose or 1.0
        )
    if placebo == "permuted":
        return _permuted(scores, groups, labels, tau_max, dose, seed, sinks)
    draw = random_bridge if placebo == "random" else random_block
    # an edit before this one may have hidden keys in some heads
    drawn = draw(groups, visible_keys(scores).any(1), labels, seed=seed)[:, None]
    if dose is None:
        return odds_equal_scores(scores, drawn, tau_max=tau_max, sinks=sinks)
    _, _, shifts = _of_the_bridge(scores, groups, tau_max, sinks)
    return dosed_scores(scores, drawn, shifts, dose=dose, sinks=sinks)


def dosed_scores(
    scores: Float[Tensor, "batch head query key"],
    drawn: Int[Tensor, "batch #head query key"],
    shifts: OddsEqualShifts,
    *,
    dose: float,
    sinks: Float[Tensor, "..."] | None = None,
) -> tuple[Float[Tensor, "batch head query key"], OddsEqualShifts]:
    """Move the rows that an edit moves, each as far as the edit does, but onto other keys.

    Args:
        scores: Scores before the softmax.
        drawn: `KeyGroup` of each key to each query, as the placebo has them.
        shifts: What the edit would do.
        dose: Factor on each row's divergence.
        sinks: Score of a sink that takes part in the softmax.
    """
    exact, visible = scores.double(), visible_keys(scores)
    shifts = shifts_at_divergence(group_sums(exact, visible, drawn, sinks), shifts, dose)
    if not shifts.shifted.any():
        return scores, shifts
    edited = shifted_scores(exact, drawn, shifts)
    return moved_rows(scores, edited, visible, shifts), shifts


def _of_the_bridge(
    scores: Float[Tensor, "batch head query key"],
    groups: Int[Tensor, "batch query key"],
    tau_max: float,
    sinks: Float[Tensor, "..."] | None,
) -> tuple[Float[Tensor, "batch head query key"], Bool[Tensor, "..."], OddsEqualShifts]:
    """Scores in float64, visible keys, and what the bridge itself would do."""
    exact, visible = scores.double(), visible_keys(scores)
    sums = group_sums(exact, visible, groups[:, None], sinks)
    return exact, visible, odds_equal_shifts(*sums, tau_max=tau_max)


def _permuted(
    scores: Float[Tensor, "batch head query key"],
    groups: Int[Tensor, "batch query key"],
    labels: StepLabels,
    tau_max: float,
    dose: float | None,
    seed: int,
    sinks: Float[Tensor, "..."] | None,
) -> Edited:
    exact, visible, shifts = _of_the_bridge(scores, groups, tau_max, sinks)
    if not shifts.shifted.any():
        return scores, shifts if dose is None else unreached_by_none(shifts)
    members = visible & (groups == KeyGroup.BRIDGE)[:, None]
    permuted = permuted_bridge(exact, members, labels, seed=seed)
    sums = group_sums(exact, visible, groups[:, None], sinks)
    if dose is not None:
        inner, _ = row_doses(exact, permuted, members, sums.log_bridge)
        shifts = shifts_at_divergence(sums, shifts, dose, inner)
    edited = shifted_scores(permuted, groups[:, None], shifts)
    log_all = with_sinks(log_sum(exact, visible), sinks)
    doses = row_doses(exact, edited, visible, log_all)
    divergence, variation = (torch.where(shifts.shifted, dose, 0.0) for dose in doses)
    shifts = shifts._replace(divergence=divergence, variation=variation)
    return moved_rows(scores, edited, visible, shifts), shifts
