"""The Odds-Equal Bridge as mathematics of rows: how far are bridge and current part to be shifted?

    tau_B = min(sqrt(|B| / (|B| + |S|)), tau_max)
    where p(B) < tau_B:  log(tau_B / p(B))              on the bridge B
                         log((1 - p(O) - tau_B) / p(S)) on the current part S

from the log-sum-exp of the scores of each group, or from softmax sums. No scores, no model.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor


class OddsEqualShifts(NamedTuple):
    """What the projection does to rows of attention.

    Attributes:
        bridge: Added to the scores on the bridge; 0 in rows that are left alone.
        current: Added to the scores on the current part.
        acts: Rows with a bridge and a current part.
        shifted: Rows below the bound.
        infeasible: Rows whose bound was capped.
        mass_before: Mass of the bridge.
        mass_after: The same after the shift.
        divergence: KL(q || p) of the shift.
        variation: Total variation of the shift, half of the sum of |q - p|.
    """

    bridge: Float[Tensor, "..."]
    current: Float[Tensor, "..."]
    acts: Bool[Tensor, "..."]
    shifted: Bool[Tensor, "..."]
    infeasible: Bool[Tensor, "..."]
    mass_before: Float[Tensor, "..."]
    mass_after: Float[Tensor, "..."]
    divergence: Float[Tensor, "..."]
    variation: Float[Tensor, "..."]


class OddsEqualFactors(NamedTuple):
    """What the softmax sums of the groups are multiplied by; O keeps its own.

    Attributes:
        bridge: Factor on the weights of the bridge; 1 in rows that are left alone.
        current: Factor on the weights of the current part.
        other: Factor on the rest: 1.
        shifts: The same in logarithms, with what is to be counted.
    """

    bridge: Float[Tensor, "..."]
    current: Float[Tensor, "..."]
    other: Float[Tensor, "..."]
    shifts: OddsEqualShifts


def bridge_floor(
    n_bridge: Shaped[Tensor, "..."], n_current: Shaped[Tensor, "..."], tau_max: float | int
) -> Float[Tensor, "..."]:
    """tau_B = min(sqrt(|B| / (|B| + |S|)), tau_max); 0 without keys."""
    share = n_bridge / (n_bridge + n_current).clamp(min=1)
    return share.sqrt().clamp(max=tau_max)


def odds_equal_shifts(
    log_bridge: Float[Tensor, "..."],
    log_current: Float[Tensor, "..."],
    log_other: Float[Tensor, "..."],
    n_bridge: Shaped[Tensor, "..."],
    n_current: Shaped[Tensor, "..."],
    *,
    tau_max: float | int,
) -> OddsEqualShifts:
    """The projection, from the log-sum-exp of the scores of each group.

    Args:
        log_bridge: Of the bridge; any number where it has no keys.
        log_current: Of the current part; any number where it has no keys.
        log_other: Of all else, sinks included; -inf or very low where there is nothing.
        n_bridge: Visible keys of the bridge.
        n_current: Visible keys of the current part.
        tau_max: Upper bound of tau_B.
    """
    acts = (n_bridge > 0) & (n_current > 0)
    floor = bridge_floor(n_bridge.to(log_other.dtype), n_current.to(log_other.dtype), tau_max)
    return group_shifts(log_bridge, log_current, log_other, floor, acts)


def group_shifts(
    log_bridge: Float[Tensor, "..."],
    log_current: Float[Tensor, "..."],
    log_other: Float[Tensor, "..."],
    target: Float[Tensor, "..."],
    acts: Bool[Tensor, "..."],
    *,
    at_most: float = 0.5,
) -> OddsEqualShifts:
    """The projection onto any mass of the bridge: {q : q(B) >= target, q(O) = p(O)}.

    Args:
        log_bridge: Log-sum-exp of the scores of the bridge; any number where ``acts`` is False.
        log_current: Of the part that gives mass away; any number where ``acts`` is False.
        log_other: Of all else; -inf or very low where there is nothing.
        target: Mass that the bridge is to have.
        acts: Rows with a bridge and a part that gives.
        at_most: Mass that the bridge gets in rows that cannot have it (target >= 1 - p(O)), as a
            share of 1 - p(O). With 1 the other part is emptied: its shift is -inf.
    """
    log_bridge, log_current, log_other = (
        torch.where(acts, x, 0.0) for x in (log_bridge, log_current, log_other)
    )
    log_pair = torch.logaddexp(log_bridge, log_current)
    log_all = torch.logaddexp(log_pair, log_other)
    mass, rest = (log_bridge - log_all).exp(), (log_pair - log_all).exp()
    infeasible = acts & (mass < target) & (target >= rest)
    tau = torch.where(infeasible, rest * at_most, target)
    shifted = acts & (mass < tau)
    leaves_some = shifted & (tau < rest)
    # rows that are left alone get a harmless logarithm, so that no gradient becomes NaN
    tau, remainder = torch.where(shifted, tau, 0.5), torch.where(leaves_some, rest - tau, 0.5)
    to_bridge = torch.where(shifted, tau.log() - (log_bridge - log_all), 0.0)
    to_current = torch.where(leaves_some, remainder.log() - (log_current - log_all), 0.0)
    before = torch.where(acts, mass, 0.0)
    after = torch.where(shifted, tau, before)
    divergence = tau * to_bridge + remainder * to_current
    to_current = to_current.masked_fill(shifted & ~leaves_some, float("-inf"))
    return OddsEqualShifts(
        to_bridge, to_current, acts, shifted, infeasible, before, after, divergence, after - before
    )


def odds_equal_factors(
    mass_bridge: Float[Tensor, "..."],
    mass_current: Float[Tensor, "..."],
    mass_other: Float[Tensor, "..."],
    n_bridge: Shaped[Tensor, "..."],
    n_current: Shaped[Tensor, "..."],
    tau_max: float | int,
) -> OddsEqualFactors:
    """The projection, from the softmax sums of the groups, in any common scale.

    A row whose bridge or current part has no mass left in this precision is left alone.

    Args:
        mass_bridge: Sum of exp(score) over the bridge.
        mass_current: Over the current part.
        mass_other: Over all else, sinks included.
        n_bridge: Visible keys of the bridge.
        n_current: Visible keys of the current part.
        tau_max: Upper bound of tau_B.
    """
    has_mass = (mass_bridge > 0) & (mass_current > 0)
    shifts = odds_equal_shifts(
        mass_bridge.log(),
        mass_current.log(),
        mass_other.log(),
        n_bridge * has_mass,
        n_current * has_mass,
        tau_max=tau_max,
    )
    bridge, current = shifts.bridge.exp(), shifts.current.exp()
    return OddsEqualFactors(bridge, current, torch.ones_like(bridge), shifts)
