"""How much mass is a placebo to move for a given divergence?

A row p with mass b on the keys that gain, c on those that give, and r = b + c has, once the former
have mass m and the latter r - m, the divergence

    KL(m) = m log(m / b) + (r - m) log((r - m) / c) + m * inner

with the odds within each part as they were, but for ``inner``, the divergence within the part that
gains if something is done to it besides. It is convex in m, least at b' / (b' + c) of r with
b' = b * exp(-inner), and rises from there on; so that the m of a given KL is found by bisection.

When it misleads: no m gives more than about r log(r / b) + r * inner, nor less than the least.
Rows whose divergence is out of reach get the nearest, and are counted as infeasible.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from step_saliency.intervene.oeb.masses import GroupSums
from step_saliency.intervene.oeb.projection import OddsEqualShifts

_BISECTIONS = 50
_MOST = 0.999
"""Share of r that the gaining keys get at most, so that the others are not wiped out."""


def share_at_divergence(
    log_odds: Float[Tensor, "*row"],
    divergence: Float[Tensor, "*row"],
    inner: Float[Tensor, "*row"] | float = 0.0,
) -> tuple[Float[Tensor, "*row"], Float[Tensor, "*row"]]:
    """m / r, and the divergence that is reached by it, as a share of r.

    Args:
        log_odds: log(b / c).
        divergence: KL(m) / r that is to be reached.
        inner: Divergence within the part that gains.
    """
    log_odds = log_odds.double()
    log_b, log_c = (torch.nn.functional.logsigmoid(odds) for odds in (log_odds, -log_odds))

    def reached(share: Float[Tensor, "*row"]) -> Float[Tensor, "*row"]:
        rest = 1 - share
        return share * (share.log() - log_b + inner) + rest * (rest.log() - log_c)

    least = (log_odds - inner).sigmoid().clamp(torch.finfo(torch.float64).tiny, _MOST)
    with torch.no_grad():
        low = least
        high = torch.full_like(low, _MOST)
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            too_far = reached(middle) > divergence
            low, high = torch.where(too_far, low, middle), torch.where(too_far, middle, high)
        slope = (low.log() - log_b + inner) - ((1 - low).log() - log_c)
    share = with_gradient(low, reached(low) - divergence, slope, divergence)
    share = torch.where(low == least, least, share)
    return share, reached(share)


def with_gradient(
    root: Float[Tensor, "*row"],
    excess: Float[Tensor, "*row"],
    slope: Float[Tensor, "*row"],
    divergence: Float[Tensor, "*row"],
) -> Float[Tensor, "*row"]:
    """What bisection found, with the gradient that it has as a root of ``excess``.

    Args:
        root: Where ``excess`` is 0, as a constant.
        excess: Divergence at the root less what it is to be, with its gradient.
        slope: Derivative of the excess by the root.
        divergence: What it is to be; rows that do not reach it keep their root as a constant.
    """
    is_root = (excess.abs() <= 1e-3 * divergence) & (slope != 0)
    step = (excess - excess.detach()) / torch.where(is_root, slope, 1.0)
    return root - torch.where(is_root, step, 0.0)


def shifts_at_divergence(
    sums: GroupSums,
    shifts: OddsEqualShifts,
    dose: float,
    inner: Float[Tensor, "*row"] | float = 0.0,
) -> OddsEqualShifts:
    """Shifts of the rows that a bridge would shift, at its divergence times ``dose``.

    Args:
        sums: Of the keys that gain (as the bridge) and that give, whichever the placebo has.
        shifts: What the bridge itself would do.
        dose: Factor on each row's divergence.
        inner: Divergence within the part that gains.
    """
    moves = shifts.shifted
    log_bridge, log_current = (
        torch.where(moves, part, 0.0) for part in (sums.log_bridge, sums.log_current)
    )
    log_pair = torch.logaddexp(log_bridge, log_current)
    log_all = torch.logaddexp(log_pair, sums.log_other)
    pair = (log_pair - log_all).exp()
    target = dose * shifts.divergence
    share, reached = share_at_divergence(log_bridge - log_current, target / pair, inner)
    before, after = (log_bridge - log_all).exp(), share * pair
    to_bridge, to_current = share.log() + log_pair, (1 - share).log() + log_pair
    return shifts._replace(
        bridge=torch.where(moves, to_bridge - log_bridge, 0.0),
        current=torch.where(moves, to_current - log_current, 0.0),
        infeasible=moves & out_of_reach(reached * pair, target),
        mass_before=_bridge_mass(sums, shifts),
        mass_after=torch.where(moves, after, _bridge_mass(sums, shifts)),
        divergence=torch.where(moves, reached * pair, 0.0),
        variation=torch.where(moves, (after - before).abs(), 0.0),
    )


def out_of_reach(
    divergence: Float[Tensor, "*row"], target: Float[Tensor, "*row"]
) -> Bool[Tensor, "*row"]:
    """Rows whose divergence is not what it was to be."""
    return (divergence - target).abs() > 1e-3 * target


def unreached_by_none(shifts: OddsEqualShifts) -> OddsEqualShifts:
    """The same where no row moves: no divergence is out of reach."""
    return shifts._replace(infeasible=torch.zeros_like(shifts.infeasible))


def _bridge_mass(sums: GroupSums, shifts: OddsEqualShifts) -> Float[Tensor, "*row"]:
    log_all = torch.logaddexp(torch.logaddexp(sums.log_bridge, sums.log_current), sums.log_other)
    return torch.where(shifts.acts, (sums.log_bridge - log_all).exp(), 0.0)


def row_doses(
    before: Float[Tensor, "*lead key"],
    after: Float[Tensor, "*lead key"],
    members: Bool[Tensor, "*#lead key"],
    log_all: Float[Tensor, "*lead"],
) -> tuple[Float[Tensor, "*lead"], Float[Tensor, "*lead"]]:
    """KL(after || before) and total variation of rows whose softmax has the same denominator.

    Args:
        before: Scores.
        after: Scores after the edit.
        members: Keys that take part.
        log_all: Log-sum-exp of the row, sinks included, which the edit holds.
    """
    p, q = (
        torch.where(members, (scores - log_all[..., None]).exp(), 0.0) for scores in (before, after)
    )
    divergence = torch.where(q > 0, q * (after - before), 0.0).sum(-1)
    return divergence, (q - p).abs().sum(-1) / 2
