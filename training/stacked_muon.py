"""Muon with all matrices of one shape in one stack: a few large kernels in place of thousands.

A step of `torch.optim.Muon` launches some 30 kernels a matrix, which on a GPU takes longer than
forward and backward pass of a small model. State and update rule are the same; results differ by
the rounding of batched products in bfloat16.
"""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


def orthogonalised(
    matrices: Float[Tensor, "matrix rows columns"],
    coefficients: tuple[float, float, float],
    n_steps: int,
    eps: float,
) -> Float[Tensor, "matrix rows columns"]:
    """Newton-Schulz iteration on every matrix of a stack, in bfloat16."""
    a, b, c = coefficients
    wide = matrices.bfloat16()
    is_tall = wide.shape[1] > wide.shape[2]
    if is_tall:
        wide = wide.mT
    wide = wide / wide.norm(dim=(1, 2), keepdim=True).clamp(min=eps)
    for _ in range(n_steps):
        gram = wide @ wide.mT
        update = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        wide = torch.baddbmm(wide, update, wide, beta=a)
    return wide.mT if is_tall else wide


class StackedMuon(torch.optim.Muon):
    """`torch.optim.Muon` with ``adjust_lr_fn="match_rms_adamw"``, shape by shape."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One update of all parameters that have a gradient; a closure is not taken."""
        if closure is not None:
            raise ValueError(f"closure={closure!r}: StackedMuon takes none")
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault(parameter.shape, []).append(parameter)
            for parameters in by_shape.values():
                self._update(parameters, group)

    def _update(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        gradients = [p.grad for p in parameters if p.grad is not None]
        for parameter in parameters:
            if "momentum_buffer" not in self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        buffers = [self.state[parameter]["momentum_buffer"] for parameter in parameters]
        torch._foreach_lerp_(buffers, gradients, 1 - group["momentum"])
        if group["nesterov"]:
            buffers = list(torch._foreach_lerp(gradients, buffers, group["momentum"]))
        steps = orthogonalised(
            torch.stack(buffers), group["ns_coefficients"], group["ns_steps"], group["eps"]
        )
        rate = group["lr"] * 0.2 * math.sqrt(max(parameters[0].shape))
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(parameters, list(steps.float().unbind()), alpha=-rate)
