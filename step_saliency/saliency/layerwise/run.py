"""Step attention as a function of autograd, which leaves its totals when it is differentiated."""

from collections import deque
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from step_saliency.saliency.kernels.step_attention import KernelName, load_kernel
from step_saliency.saliency.kernels.step_attention.types import AttentionSpec, Spans, StepIndex


@dataclass(eq=False)
class AttentionRun:
    """What step attention needs beyond one layer's tensors, and where it leaves its totals.

    Attributes:
        kernel: Implementation.
        spans: Real positions of each sequence; None if all are.
        local: Whether keys and values get gradient from their own position alone.
        per_head: Whether totals keep heads apart.
        steps: Steps of rows and columns while a layer to be mapped is differentiated, else None.
        totals: Totals of the layer that was differentiated last, averaged over heads unless
            `per_head`; None if no gradient reached its attention.
        n_heads: Heads of the layer that ran last.
        record: Takes head outputs and denominators of a block that will be run again; None where
            they are not kept.
        replay: Those of the block that is run again, which are not computed a second time.
        copies: Whether hooks of others could change in place what they are handed, so that it is a
            copy.
        is_watched: Whether the block that runs is to be differentiated.
        anchor: What to differentiate by so that autograd comes by every watched attention, also
            where hooks put something without a history in place of queries, keys and values.
    """

    kernel: KernelName = "auto"
    spans: Spans | None = None
    local: bool = True
    per_head: bool = False
    steps: StepIndex | None = None
    totals: Float[Tensor, "batch heads_out step step"] | None = None
    n_heads: int = 1
    record: "HeadOutputs | None" = None
    replay: "HeadOutputs" = field(default_factory=deque)
    copies: bool = False
    is_watched: bool = False
    anchor: Float[Tensor, ""] = field(default_factory=lambda: torch.zeros((), requires_grad=True))

    def attend(
        self,
        q: Float[Tensor, "batch head pos d_head"],
        k: Float[Tensor, "batch kv_head pos d_head"],
        v: Float[Tensor, "batch kv_head pos d_value"],
        spec: AttentionSpec,
        sinks: Float[Tensor, "head"] | None = None,
    ) -> Float[Tensor, "batch head pos d_value"]:
        """Head outputs, whose backward pass leaves `totals`."""
        self.n_heads = q.shape[1]
        anchor = self.anchor if self.is_watched else None
        z: Tensor = _StepAttention.apply(q, k, v, sinks, anchor, spec, self)
        return z.clone() if self.copies else z

    def kernel_for(self, q: Tensor, v: Tensor) -> ModuleType:
        """The implementation for these queries and values."""
        widest = max(q.shape[-1], v.shape[-1])
        return load_kernel(self.kernel, q.device, q.dtype, widest=widest)

    def head_outputs(
        self, q: Tensor, k: Tensor, v: Tensor, spec: AttentionSpec, sinks: Tensor | None
    ) -> tuple[Float[Tensor, "batch head pos d_value"], Float[Tensor, "batch head pos"]]:
        """Head outputs and denominators, computed at the first run of a block alone."""
        if self.replay:
            z, lse = self.replay.popleft()
            return z.to(q.device), lse.to(q.device)
        kernel = self.kernel_for(q, v)
        z, lse = kernel.attention(q, k, v, spec, spans=self.spans, sinks=sinks)
        if self.record is not None:
            self.record.append((z, lse))
        return z, lse


HeadOutputs = deque[tuple[Tensor, Tensor]]
"""Head outputs and denominators of a block, by attention call."""


class _StepAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        sinks: Tensor | None,
        anchor: Tensor | None,  # noqa: ARG004
        spec: AttentionSpec,
        run: AttentionRun,
    ) -> Tensor:
        z, lse = run.head_outputs(q, k, v, spec, sinks)
        ctx.save_for_backward(q, k, v, z, lse)
        ctx.spec, ctx.run = spec, run
        return z

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        run = ctx.run
        q, k, v, z, lse = ctx.saved_tensors
        result = run.kernel_for(q, v).pool_influence(
            q,
            k,
            v,
            z,
            lse,
            grads[0],
            ctx.spec,
            spans=run.spans,
            steps=run.steps,
            per_head=run.per_head,
            local=run.local,
        )
        if result.totals is not None:
            run.totals = result.totals if run.per_head else result.totals / q.shape[1]
        return result.dq, result.dk, result.dv, None, None, None, None
