"""Next tokens from logits, one random number a row.

The token drawn is the first whose cumulative probability exceeds the row's number u in [0, 1), by
order of token ids. Logits that differ by rounding (another batch, another attention kernel) give
the same token unless u falls within rounding of a boundary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Sampler:
    """Temperature, top-k and top-p, in this order."""

    temperature: float | int
    top_p: float | int = 1.0
    top_k: int | None = None

    @property
    def is_random(self) -> bool:
        """Whether random numbers are read at all."""
        return self.temperature > 0

    def __call__(
        self, logits: Float[Tensor, "batch vocab"], uniforms: Sequence[float]
    ) -> Int[Tensor, "batch"]:
        """Draw a token for each row; ``uniforms`` are read if `is_random`.

        Raises:
            ValueError: logits that are not finite.
        """
        best, greedy = logits.max(-1)
        if not bool(best.isfinite().all()):
            raise ValueError("the model's logits are not finite")
        if not self.is_random:
            return greedy
        exact = torch.promote_types(logits.dtype, torch.float32)
        scaled = (logits.to(exact) - best.to(exact).unsqueeze(-1)) / self.temperature
        cumulative = self._truncated(scaled.exp()).cumsum(-1, dtype=torch.float64)
        draws = torch.tensor(uniforms, device=logits.device, dtype=cumulative.dtype)
        levels = draws.unsqueeze(-1) * cumulative[:, -1:]
        return torch.searchsorted(cumulative, levels, right=True).squeeze(-1)

    def _truncated(self, weights: Float[Tensor, "batch vocab"]) -> Float[Tensor, "batch vocab"]:
        """Zero where top_p or top_k leave a token out; rows need not sum to one."""
        if self.top_k is not None and self.top_k < weights.shape[-1]:
            weights = weights.masked_fill(~_largest(weights, self.top_k), 0)
        if self.top_p < 1:
            total = weights.sum(-1, keepdim=True, dtype=torch.float64)
            ordered, order = torch.sort(weights, dim=-1, descending=True, stable=True)
            before = ordered.cumsum(-1, dtype=torch.float64) - ordered
            beyond = before >= self.top_p * total
            weights = weights.masked_fill(torch.zeros_like(beyond).scatter(-1, order, beyond), 0)
        return weights


def _largest(weights: Float[Tensor, "batch vocab"], k: int) -> Bool[Tensor, "batch vocab"]:
    """Which are the k largest of each row; of equal ones the first, as greedy decoding has it."""
    least = weights.topk(k, dim=-1).values[:, -1:]
    above, equal = weights > least, weights == least
    return above | (equal & (equal.cumsum(-1) <= k - above.sum(-1, keepdim=True)))
