"""Log-odds against a token, exact however sure the prediction is.

With x the logits of one position and y the token that came, the odds of all other tokens together
against y are

    o = log(sum over v != y of exp x[v]) - x[y],       -log p(y) = log(1 + exp o),
    do/dx[v] = exp(x[v] - log(sum over the others)),   do/dx[y] = -1.

No term subtracts p from 1: of a sure prediction, 1 - p = exp(o) / (1 + exp o) keeps all its digits.
(log p by a softmax has 1e-7 of error in float32, which is the whole of it where 1 - p is 1e-7.)
Sums are in float64, of a few rows at a time; what autograd keeps is the logits and one number a
row, and the gradient is in the type of the logits.
"""

from collections.abc import Iterator
from typing import Any

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


def _chunks(logits: Float[Tensor, "query vocab"]) -> Iterator[slice]:
    scratch = SCRATCH.get(logits.device.type, SCRATCH["cpu"])
    size = max(1, scratch // logits.shape[-1])
    for first in range(0, len(logits), size):
        yield slice(first, first + size)
