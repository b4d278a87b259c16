"""Random numbers that depend on places alone, for what has to be drawn alike in every pass."""

import torch
from jaxtyping import Int
from torch import Tensor

HASH_RANGE = 2.0**62
"""Every hash is below this."""


def hashed(*parts: Int[Tensor, "..."] | int) -> Int[Tensor, "..."]:
    """A number from 0 to 2^62 - 1 that looks random and depends on ``parts`` alone, broadcast.

    The same on every device and in every pass, unlike draws from a generator.

    Args:
        parts: What it depends on; those that have axes are on one device, on which the result is.
    """
    devices = (part.device for part in parts if isinstance(part, Tensor) and part.ndim)
    state = torch.zeros((), dtype=torch.long, device=next(devices, None))
    for part in parts:
        mixed = torch.as_tensor(part, dtype=torch.long, device=state.device) * -7046029254386353131
        state = _scrambled(state + mixed + 0x632BE59BD9B4E019)
    return state & (2**62 - 1)


def _scrambled(state: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
    """The finaliser of splitmix64, on numbers that wrap."""
    state = (state ^ ((state >> 30) & (2**34 - 1))) * -4658895280553007687
    state = (state ^ ((state >> 27) & (2**37 - 1))) * -7723592293110705685
    return state ^ ((state >> 31) & (2**33 - 1))
