"""The placebo of a bridge: the same rows, moved as far by a temperature.

Rows that the bridge would shift get scores beta * scores instead, sink and total mass of the keys
held, with beta < 1 such that KL(q || p) is the same (or beta = 0 where no beta reaches it).
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from step_saliency.intervene.groups import KeyGroup
from step_saliency.intervene.oeb.equal_dose import out_of_reach, row_doses, with_gradient
from step_saliency.intervene.oeb.masses import log_sum, with_sinks
from step_saliency.intervene.oeb.projection import OddsEqualShifts

_BISECTIONS = 60


def smoothed(
    scores: Float[Tensor, "*lead query key"],
    visible: Bool[Tensor, "*lead query key"],
    groups: Int[Tensor, "*#lead query key"],
    shifts: OddsEqualShifts,
    sinks: Float[Tensor, "..."] | None,
    dose: float = 1.0,
) -> tuple[Float[Tensor, "*lead query key"], OddsEqualShifts]:
    """Scores with the shifted rows flattened instead, and what the bridge has of them then."""
    rows = shifts.shifted
    log_keys = log_sum(scores, visible)
    log_all = with_sinks(log_keys, sinks)
    on_keys = (log_keys - log_all).exp()
    target = dose * shifts.divergence
    flat = smoothed_rows(scores[rows], visible[rows], (target / on_keys)[rows])
    edited = scores.clone()
    edited[rows] = flat.to(scores.dtype)
    on_bridge = log_sum(edited, visible & (groups == KeyGroup.BRIDGE))
    after = torch.where(rows, (on_bridge - log_all).exp(), shifts.mass_before)
    doses = row_doses(scores, edited, visible, log_all)
    divergence, variation = (torch.where(rows, dose, 0.0) for dose in doses)
    return edited, shifts._replace(
        infeasible=rows & out_of_reach(divergence, target),
        mass_after=after,
        divergence=divergence,
        variation=variation,
    )


def smoothed_rows(
    scores: Float[Tensor, "row key"],
    visible: Bool[Tensor, "row key"],
    divergence: Float[Tensor, "row"],
) -> Float[Tensor, "row key"]:
    """Rows at a higher temperature, with the same log-sum-exp, at a given KL from what they were.

    Args:
        scores: Scores.
        visible: Keys that take part.
        divergence: KL(softmax(beta * scores) || softmax(scores)) that is to be reached by the
            choice of beta in [0, 1]; where even 0 does not reach it, beta is 0.
    """
    exact = torch.where(visible, scores.double(), 0.0)
    log_before = log_sum(exact, visible)

    def weights(beta: Float[Tensor, "row"]) -> Float[Tensor, "row key"]:
        scaled = beta[:, None] * exact
        return torch.where(visible, (scaled - log_sum(scaled, visible)[:, None]).exp(), 0.0)

    def reached(beta: Float[Tensor, "row"]) -> Float[Tensor, "row"]:
        moved = (weights(beta) * (beta[:, None] - 1) * exact).sum(-1)
        return moved - log_sum(beta[:, None] * exact, visible) + log_before

    with torch.no_grad():
        low, high = torch.zeros_like(log_before), torch.ones_like(log_before)
        for _ in range(_BISECTIONS):
            beta = (low + high) / 2
            too_flat = reached(beta) > divergence
            low, high = torch.where(too_flat, beta, low), torch.where(too_flat, high, beta)
        q = weights(low)
        variance = (q * (exact - (q * exact).sum(-1, keepdim=True)) ** 2).sum(-1)
        slope = (low - 1) * variance
    beta = with_gradient(low, reached(low) - divergence, slope, divergence)
    scaled = beta[:, None] * exact
    return scaled + (log_before - log_sum(scaled, visible))[:, None]
