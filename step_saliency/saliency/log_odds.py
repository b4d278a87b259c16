"""Log-odds against a token, exact however sure the prediction is.

With x the logits of one position and y the token that came, the odds of all other tokens together
against y are

    o = log(sum over v != y of exp x[v]) - x[y],       -log p(y) = log(1 + exp o),
    do/dx[v] = exp(x[v] - log(sum over the others)),   do/dx[y] = -1.

No term subtracts p from 1: of a sure prediction, 1 - p = exp(o) / (1 + exp o) keeps all its digits.
(log p by a softmax has 1e-7 of error in float32, which is the whole of it where 1 - p is 1e-7.)
Sums are in float64, of a few rows at a time; what autograd keeps is the logits and one number a
row, and the gradient is in the type of the logits.

`summed_gradient` gives the gradient of a sum of losses or log-odds alone, in one pass over the
logits and in their own precision (float32 at least): what a map needs, whose model rounds as much.
"""

from collections.abc import Iterator
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

SCRATCH = {"cpu": 2**20, "cuda": 2**23}
"""Logits that are widened to float64 at a time."""


def log_odds_against(
    logits: Float[Tensor, "query vocab"], targets: Int[Tensor, "query"]
) -> Float[Tensor, "query"]:
    """Log-odds, in nats and float64, of all other tokens against each row's target.

    Args:
        logits: Of any floating type; differentiated once at most.
        targets: Token of each row.
    """
    odds: Tensor = _LogOdds.apply(logits, targets)
    return odds


def cross_entropy_of(log_odds: Float[Tensor, "query"]) -> Float[Tensor, "query"]:
    """-log p of each target, in nats, from the log-odds against it."""
    return -torch.nn.functional.logsigmoid(-log_odds)


def summed_gradient(
    logits: Float[Tensor, "query vocab"],
    targets: Int[Tensor, "query"],
    *,
    of: Literal["loss", "log_odds"],
    weight: float = 1.0,
) -> tuple[Float[Tensor, ""], Float[Tensor, "query vocab"]]:
    """A weighted sum over rows, and its gradient at the logits.

    Args:
        logits: Of any floating type.
        targets: Token of each row.
        of: What is summed: -log p of the target, or the log-odds against it.
        weight: Of each row.
    """
    gradient = torch.empty_like(logits)
    total = logits.new_zeros((), dtype=torch.float64)
    for rows in _chunks(logits):
        shares = logits[rows].to(_at_least_float32(logits.dtype), copy=True)
        target = shares.gather(-1, targets[rows].unsqueeze(-1))
        shares.scatter_(-1, targets[rows].unsqueeze(-1), -torch.inf)
        largest = shares.amax(-1, keepdim=True)
        others = shares.sub_(largest).exp_().sum(-1, keepdim=True)
        odds = largest.double() + others.double().log() - target.double()
        # d loss/d odds = 1 - p, without a difference
        slope = weight * (odds.sigmoid() if of == "loss" else torch.ones_like(odds))
        shares.mul_((slope / others).to(shares.dtype))
        gradient[rows] = shares.scatter_(-1, targets[rows].unsqueeze(-1), -slope.to(shares.dtype))
        total += weight * (odds if of == "log_odds" else cross_entropy_of(odds.squeeze(-1))).sum()
    return total, gradient


class _LogOdds(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        others = torch.empty(len(logits), dtype=torch.float64, device=logits.device)
        for rows in _chunks(logits):
            others[rows] = _others(logits[rows], targets[rows]).logsumexp(-1)
        ctx.save_for_backward(logits, targets, others)
        return others - logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1).double()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        logits, targets, others = ctx.saved_tensors
        (by_row,) = gradients
        gradient = torch.empty_like(logits)
        for rows in _chunks(logits):
            shares = _others(logits[rows], targets[rows]).sub_(others[rows].unsqueeze(-1)).exp_()
            gradient[rows] = shares.mul_(by_row[rows].unsqueeze(-1)).to(logits.dtype)
        return gradient.scatter_(-1, targets.unsqueeze(-1), -by_row.unsqueeze(-1).to(logits)), None


def _others(
    logits: Float[Tensor, "query vocab"], targets: Int[Tensor, "query"]
) -> Float[Tensor, "query vocab"]:
    """A copy in float64 with nothing at the targets."""
    wide = logits.to(torch.float64, copy=True)
    return wide.scatter_(-1, targets.unsqueeze(-1), -torch.inf)


def _at_least_float32(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _chunks(logits: Float[Tensor, "query vocab"]) -> Iterator[slice]:
    scratch = SCRATCH.get(logits.device.type, SCRATCH["cpu"])
    size = max(1, scratch // logits.shape[-1])
    for first in range(0, len(logits), size):
        yield slice(first, first + size)
