"""Step attention: causal attention whose backward pass sums |A * dL/dA| into pairs of steps.

`naive` is the truth, `chunked` runs anywhere, `triton` on CUDA. The three have one signature, which
each spells out so that it can be read, and checked, beside its truth; what the arguments mean is
said in `naive`, the definitions are in `types`.
"""

from importlib import import_module
from types import ModuleType
from typing import Literal, get_args

import torch

from step_saliency.saliency.kernels.step_attention import chunked, naive
from step_saliency.saliency.kernels.step_attention.types import TRITON_WIDEST

KernelName = Literal["auto", "naive", "chunked", "triton"]


def load_kernel(
    name: KernelName, device: torch.device, dtype: torch.dtype, *, widest: int = 0
) -> ModuleType:
    """The implementation to use for queries of a device and type.

    Args:
        name: An implementation, or ``"auto"``: Triton for half precision on CUDA where it is
            installed and takes the heads (in float32 a GPU's own matrix products are faster), else
            chunked.
        device: Where queries, keys and values are.
        dtype: Type of queries, keys and values.
        widest: Dimensions of a head's queries or values, whichever are more.

    Returns:
        A module with `attention` and `pool_influence`.

    Raises:
        ValueError: the name is unknown, or Triton is asked for and missing.
    """
    if name not in get_args(KernelName):
        raise ValueError(f"kernel={name!r} is unknown; choose one of {get_args(KernelName)}")
    if name == "naive":
        return naive
    half = dtype in (torch.bfloat16, torch.float16)
    pays = device.type == "cuda" and half and widest <= TRITON_WIDEST
    if name == "chunked" or (name == "auto" and not pays):
        return chunked
    try:
        return import_module(f"{__name__}.triton")
    except ImportError as error:
        if name == "auto":
            return chunked
        raise ValueError(
            "kernel='triton' needs the package triton; kernel='chunked' does not"
        ) from error
