"""Step attention: causal attention whose backward pass sums |A * dL/dA| into pairs of steps.

`naive` is the truth, `chunked` runs anywhere, `triton` on CUDA; one signature, see `types`.
"""

from types import ModuleType
from typing import Literal, get_args

import torch

from step_saliency.saliency.kernels.step_attention import chunked, naive

KernelName = Literal["auto", "naive", "chunked", "triton"]


def load_kernel(name: KernelName, device: torch.device) -> ModuleType:
    """The implementation to use on a device.

    Args:
        name: An implementation, or ``"auto"``: Triton on CUDA where it is installed, else chunked.
        device: Where queries, keys and values are.

    Returns:
        A module with `attention` and `pool_influence`.

    Raises:
        ValueError: the name is unknown, or Triton is asked for and missing.
    """
    if name not in get_args(KernelName):
        raise ValueError(f"kernel={name!r} is unknown; choose one of {get_args(KernelName)}")
    if name == "naive":
        return naive
    if name == "chunked" or (name == "auto" and device.type != "cuda"):
        return chunked
    try:
        from step_saliency.saliency.kernels.step_attention import triton
    except ImportError as error:
        if name == "auto":
            return chunked
        raise ValueError(
            "kernel='triton' needs the package triton; kernel='chunked' does not"
        ) from error
    return triton
