"""Scores in which every row has a minimum of its mass on the bridge."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from step_saliency.intervene.groups import KeyGroup
from step_saliency.intervene.oeb.equal_dose import unreached_by_none
from step_saliency.intervene.oeb.masses import group_sums, visible_keys
from step_saliency.intervene.oeb.projection import (
    OddsEqualShifts,
    group_shifts,
    odds_equal_shifts,
)
from step_saliency.intervene.oeb.smoothing import smoothed
from step_saliency.options import check_option

MODES = ("bridge", "smooth")


def odds_equal_scores(
    scores: Float[Tensor, "*lead query key"],
    groups: Int[Tensor, "*#lead query key"],
    *,
    tau_max: float | int,
    sinks: Float[Tensor, "..."] | None = None,
    mode: str = "bridge",
    dose: float = 1.0,
) -> tuple[Float[Tensor, "*lead query key"], OddsEqualShifts | None]:
    """Shift the scores of the rows whose bridge has too little mass.

    Args:
        scores: Scores before the softmax, masked entries -inf or the lowest number.
        groups: `KeyGroup` of each key to each query.
        tau_max: Upper bound of tau_B; 0 leaves everything alone.
        sinks: Score of a sink that takes part in the softmax; broadcast to ``*lead query``.
        mode: ``"bridge"``, or ``"smooth"``: the rows that would be shifted get scores
            beta * scores instead, sink and total mass of the keys held, with beta < 1 such that
            KL(q || p) is the same (or beta = 0 where no beta reaches it).
        dose: Factor on that KL.

    Returns:
        New scores, or ``scores`` itself where no row is shifted; and what was done per row, None
        with ``tau_max`` 0.

    Raises:
        ValueError: ``tau_max`` is not in [0, 1), or the mode is unknown.
    """
    check_option("mode", mode, MODES)
    if not 0 <= tau_max < 1:
        raise ValueError(f"tau_max={tau_max} is not in [0, 1)")
    if tau_max == 0:
        return scores, None
    # KL is a small difference of large terms, and beta goes by its root: smoothing needs float64
    exact = _in_precision(scores, torch.float64 if mode == "smooth" else torch.float32)
    visible = visible_keys(scores)
    sums = group_sums(exact, visible, groups, sinks)
    shifts = odds_equal_shifts(*sums, tau_max=tau_max)
    if not shifts.shifted.any():
        return scores, shifts if mode == "bridge" else unreached_by_none(shifts)
    if mode == "smooth":
        edited, shifts = smoothed(exact, visible, groups, shifts, sinks, dose)
    else:
        edited = shifted_scores(exact, groups, shifts)
    return moved_rows(scores, edited, visible, shifts), shifts


def projected_scores(
    scores: Float[Tensor, "*lead query key"],
    groups: Int[Tensor, "*#lead query key"],
    *,
    mass: float | int,
    sinks: Float[Tensor, "..."] | None = None,
) -> tuple[Float[Tensor, "*lead query key"], OddsEqualShifts]:
    """Shift the scores of the rows whose bridge has less than a given mass.

    Where the current part has too little to give, it is emptied and the row counted infeasible.

    Args:
        scores: Scores before the softmax, masked entries -inf or the lowest number.
        groups: `KeyGroup` of each key to each query.
        mass: Mass that the bridge is to have.
        sinks: Score of a sink that takes part in the softmax; broadcast to ``*lead query``.

    Returns:
        New scores, or ``scores`` itself where no row is shifted; and what was done per row.
    """
    exact = _in_precision(scores, torch.float32)
    visible = visible_keys(scores)
    sums = group_sums(exact, visible, groups, sinks)
    acts = (sums.n_bridge > 0) & (sums.n_current > 0)
    target = torch.full_like(sums.log_other, mass)
    shifts = group_shifts(*sums[:3], target, acts, at_most=1.0)
    if not shifts.shifted.any():
        return scores, shifts
    return moved_rows(scores, shifted_scores(exact, groups, shifts), visible, shifts), shifts


def _in_precision(
    scores: Float[Tensor, "*lead query key"], precision: torch.dtype
) -> Float[Tensor, "*lead query key"]:
    return scores.to(torch.promote_types(scores.dtype, precision))


def shifted_scores(
    scores: Float[Tensor, "*lead query key"],
    groups: Int[Tensor, "*#lead query key"],
    shifts: OddsEqualShifts,
) -> Float[Tensor, "*lead query key"]:
    """Scores with the shifts of each row on its bridge and on its current part."""
    shift = torch.where(groups == KeyGroup.BRIDGE, shifts.bridge[..., None], 0.0)
    return scores + torch.where(groups == KeyGroup.CURRENT, shifts.current[..., None], shift)


def moved_rows(
    scores: Float[Tensor, "*lead query key"],
    edited: Float[Tensor, "*lead query key"],
    visible: Bool[Tensor, "*lead query key"],
    shifts: OddsEqualShifts,
) -> Float[Tensor, "*lead query key"]:
    """Edited scores at the visible keys of rows that are shifted; all else is left to the bit."""
    moved = shifts.shifted[..., None] & visible
    return torch.where(moved, edited.to(scores.dtype), scores)
