"""How fast a device multiplies and copies, measured in a moment."""

import time
from collections.abc import Callable

import torch
from torch import Tensor

from step_saliency.saliency.cost.shape import ModelShape

ENOUGH_SECONDS = 0.5
"""A run as long as this is not repeated."""


def measured_speed(shape: ModelShape) -> tuple[float, float]:
    """Operations a second of a matrix product, and bytes a second of a copy."""
    dtype = {2: torch.bfloat16, 4: torch.float32, 8: torch.float64}[shape.itemsize]
    rows, widest = (64, 1024) if shape.device.type == "cpu" else (4096, 4096)
    width = min(shape.d_model, widest)
    x = torch.ones(rows, width, dtype=dtype, device=shape.device)
    w = torch.ones(width, 2 * width, dtype=dtype, device=shape.device)
    product = _shortest(lambda: x @ w, shape.device)
    large = torch.ones(2**22, dtype=dtype, device=shape.device)
    copy = _shortest(lambda: large + 1, shape.device)
    return 2 * x.numel() * 2 * width / product, 2 * large.nbytes / copy


def _shortest(run: Callable[[], Tensor], device: torch.device) -> float:
    """Seconds of the fastest of a few runs, or of one that is long enough to be exact."""
    best = float("inf")
    for _ in range(4):
        best = min(best, seconds_of(run, device))
        if best > ENOUGH_SECONDS:
            break
    return best


def seconds_of(run: Callable[[], object], device: torch.device) -> float:
    """Seconds until the device has done it."""
    wait(device)
    start = time.perf_counter()
    run()
    wait(device)
    return time.perf_counter() - start


def wait(device: torch.device) -> None:
    """Return once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
