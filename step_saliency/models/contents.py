r"""Have the numbers of a model's tensors changed? Read once, at the speed of memory.

A tensor's version counts its changes in place, but not those made through ``.data``, by kernels
that write to its memory, or to inference tensors. So each tensor is read as words of 64 bits,

    sum_i mix_i(sum_{j < ROW} word[ROW i + j])        (mod 2^64),

which is exact: the same on every device and for any number of threads. ``mix_i`` scatters all bits
of a sum, each in its own way, and `ROW` is odd, so that one change made to all words, or to any one
of them, shows. What is left behind the last whole row is mixed word by word.

What is not seen: numbers that change places within `ROW` words that follow each other, and changes
that cancel in their sum; tensors without numbers (device ``meta``); classes of tensors whose memory
cannot be viewed so.

It takes as long as reading the weights once, which is what decoding one token takes.
"""

import hashlib
from collections.abc import Iterable

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

ROW = 127
WORD = 8
"""Bytes."""
UNREAD = (RuntimeError, NotImplementedError, TypeError)
"""What other libraries' tensors raise where their memory is to be viewed."""


def contents_digest(tensors: Iterable[Tensor]) -> str:
    """Changes when numbers of the tensors do; see the module docstring for what is not seen."""
    totals = [_sum(tensor.detach()) for tensor in tensors]
    numbers = torch.zeros(len(totals), dtype=torch.long)
    for device in {total.device for total in totals}:  # each waited for once
        places = [i for i, total in enumerate(totals) if total.device == device]
        numbers[places] = torch.stack([totals[i] for i in places]).cpu()
    return hashlib.sha256(numbers.numpy().tobytes()).hexdigest()[:16]


def _sum(tensor: Tensor) -> Int[Tensor, ""]:
    if tensor.is_meta or not tensor.numel():
        return torch.zeros((), dtype=torch.long)
    try:
        return _sum_of_bytes(_in_memory_order(tensor).view(torch.uint8))
    except UNREAD:
        return torch.zeros((), dtype=torch.long)


def _in_memory_order(tensor: Tensor) -> Tensor:
    """All numbers in a row; a copy only where the tensor has gaps."""
    strides = tensor.stride()
    dims = sorted(range(tensor.ndim), key=lambda dim: -strides[dim])
    return tensor.permute(dims).contiguous().reshape(-1)


def _sum_of_bytes(flat: UInt8[Tensor, "byte"]) -> Int[Tensor, ""]:
    n_words = flat.numel() // WORD
    if flat.storage_offset() % WORD:
        flat = flat.clone()
    words, rest = flat[: n_words * WORD].view(torch.long), flat[n_words * WORD :]
    n_rows = n_words // ROW
    rows = words[: n_rows * ROW].view(n_rows, ROW).sum(1)
    return _mixed(torch.cat([rows, words[n_rows * ROW :], rest.long()])).sum()


def _mixed(sums: Int[Tensor, "row"]) -> Int[Tensor, "row"]:
    """Each number scattered, by its place too (the mixing of splitmix64)."""
    places = torch.arange(1, len(sums) + 1, device=sums.device)
    mixed = sums + places * -7046029254386353131
    mixed = (mixed ^ (mixed >> 30)) * -4658895280553007687
    mixed = (mixed ^ (mixed >> 27)) * -7723592293110705685
    return mixed ^ (mixed >> 31)
