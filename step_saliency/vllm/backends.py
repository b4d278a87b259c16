"""vLLM's attention backends, each with the edits of the running pass after its own kernel."""

from functools import cache
from typing import Any, cast

import torch
from vllm.model_executor.models.utils import extract_layer_index
from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend, CPUAttentionBackendImpl

from step_saliency.vllm.engine import running
from step_saliency.vllm.layers import LayerCall
from step_saliency.vllm.paged import Order, PackedPages, Pages, SplitPages


def edit_output(impl: Any, layer: Any, query: Any, metadata: Any, output: Any, pages: Any) -> None:
    """Edit what a kernel gave, if the running pass edits this layer.

    Args:
        impl: The backend's implementation of the layer.
        layer: The layer.
        query: Queries of the pass.
        metadata: The backend's metadata of the pass; None while the engine warms up.
        output: What the kernel gave.
        pages: Makes the cache readable.
    """
    pass_ = None if metadata is None else running()
    if pass_ is None:
        return
    index = layer_index(layer.layer_name)
    if index not in pass_.plan.layers:
        return
    if getattr(impl, "alibi_slopes", None) is not None:
        raise ValueError(f"layer {index} has ALiBi slopes, and StepFlow does not know them in vLLM")
    LayerCall(
        layer=index,
        query=query,
        output=output,
        pages=pages(),
        block_table=metadata.block_table,
        scale=impl.scale,
        window=window_of(impl.sliding_window),
        softcap=float(impl.logits_soft_cap or 0.0),
        sinks=impl.sinks,
    ).edit(pass_)


@cache
def layer_index(name: str) -> int:
    """Number of the layer that a module's name names."""
    return int(extract_layer_index(name))


def window_of(sliding_window: int | tuple[int, int] | None) -> int | None:
    """Keys that a query sees, its own included, from what a backend keeps; None for all."""
    if isinstance(sliding_window, tuple):
        return None if sliding_window[0] < 0 else sliding_window[0] + 1
    return None if sliding_window is None or sliding_window < 0 else sliding_window


class StepFlowCPUImpl(CPUAttentionBackendImpl):
    """CPU_ATTN with edits."""

    def forward(
        self,
        layer: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        kv_cache: torch.Tensor,
        attn_metadata: Any,
        output: torch.Tensor,
        output_scale: torch.Tensor | None = None,
        output_block_scale: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The kernel's output, edited."""
        result = super().forward(
            layer, query, key, value, kv_cache, attn_metadata, output, output_scale,
            output_block_scale,
        )  # fmt: skip
        edit_output(self, layer, query, attn_metadata, output, lambda: self._pages(layer, kv_cache))
        return result

    def _pages(self, layer: Any, kv_cache: torch.Tensor) -> Pages:
        block_size, d_head = kv_cache.shape[2], kv_cache.shape[3] // 2
        return PackedPages(kv_cache, cpu_order(layer.isa, block_size, d_head, kv_cache.dtype))


@cache
def cpu_order(isa: str, block_size: int, d_head: int, dtype: torch.dtype) -> Order:
    """How the CPU backend packs a block for a kind of processor unit."""
    from vllm import _custom_ops as ops

    def write(cache: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> None:
        by_half = cache.view(1, 1, 2 * block_size, d_head)
        ops.cpu_attn_reshape_and_cache(
            key, value, *by_half.chunk(2, dim=2), torch.arange(block_size), isa,
            k_scale=1.0, v_scale=1.0, kv_cache_dtype="auto",
        )  # fmt: skip

    return Order.found(write, block_size, d_head, dtype)


class StepFlowCPUBackend(CPUAttentionBackend):
    """CPU_ATTN with edits."""

    @staticmethod
    def get_impl_cls() -> type[CPUAttentionBackendImpl]:
        return StepFlowCPUImpl


def split_backend(backend: type[Any]) -> type[Any]:
    """A backend whose cache holds keys and values side by side, with edits.

    Args:
        backend: ``FlashAttentionBackend`` or ``TritonAttentionBackend``.
    """
    implementation = cast(type[Any], backend.get_impl_cls())

    class Implementation(implementation):  # type: ignore[misc]
        def forward(
            self,
            layer: Any,
            query: torch.Tensor,
            key: torch.Tensor,
            value: torch.Tensor,
            kv_cache: torch.Tensor,
            attn_metadata: Any,
            output: torch.Tensor,
            *args: Any,
            **kwargs: Any,
        ) -> torch.Tensor:
            result = super().forward(
                layer, query, key, value, kv_cache, attn_metadata, output, *args, **kwargs
            )
            edit_output(self, layer, query, attn_metadata, output, lambda: SplitPages(kv_cache))
            return cast(torch.Tensor, result)

    class Backend(backend):  # type: ignore[misc]
        @staticmethod
        def get_impl_cls() -> type[Any]:
            return Implementation

    Implementation.__name__ = f"StepFlow{implementation.__name__}"
    Backend.__name__ = f"StepFlow{backend.__name__}"
    return Backend
