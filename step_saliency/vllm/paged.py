"""Keys and values out of vLLM's paged cache, for the rows that an edit moves.

Every backend gets one tensor a layer, ``block kv_head slot 2*d_head``; how keys and values lie in a
block is the backend's affair:

    FLASH_ATTN, TRITON_ATTN   keys in the first half of the last axis, values in the second
    CPU_ATTN                  keys first, ``d_head slot`` or packed for the processor's units, then
                              values; the order is found by writing numbers into a block and looking
                              where they are
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

Cache: TypeAlias = Float[Tensor, "block kv_head slot two_d_head"]


@runtime_checkable
class Pages(Protocol):
    """A backend's cache of one layer."""

    def keys(self, blocks: Int[Tensor, "row n_blocks"]) -> Float[Tensor, "row kv_head key d_head"]:
        """Keys of some blocks of each row, side by side."""

    def values(
        self, blocks: Int[Tensor, "row n_blocks"]
    ) -> Float[Tensor, "row kv_head key d_head"]:
        """Values of some blocks of each row, side by side."""

    def some_values(
        self, blocks: Int[Tensor, "key"], slots: Int[Tensor, "key"]
    ) -> Float[Tensor, "key kv_head d_head"]:
        """Values of single places."""

    @property
    def block_size(self) -> int:
        """Places of a block."""


@dataclass(frozen=True, eq=False)
class SplitPages:
    """Keys and values side by side in the last axis."""

    cache: Cache

    @property
    def block_size(self) -> int:
        return self.cache.shape[2]

    def keys(self, blocks: Int[Tensor, "row n_blocks"]) -> Float[Tensor, "row kv_head key d_head"]:
        return _side_by_side(self._halves[0][blocks])

    def values(
        self, blocks: Int[Tensor, "row n_blocks"]
    ) -> Float[Tensor, "row kv_head key d_head"]:
        return _side_by_side(self._halves[1][blocks])

    def some_values(
        self, blocks: Int[Tensor, "key"], slots: Int[Tensor, "key"]
    ) -> Float[Tensor, "key kv_head d_head"]:
        return self._halves[1][blocks, :, slots]

    @property
    def _halves(self) -> tuple[Tensor, ...]:
        return self.cache.chunk(2, dim=-1)


def _side_by_side(
    blocks: Float[Tensor, "row n_blocks kv_head slot d_head"],
) -> Float[Tensor, "row kv_head key d_head"]:
    return blocks.transpose(1, 2).flatten(2, 3)


@dataclass(frozen=True, eq=False)
class Order:
    """Where the numbers of a block lie.

    Attributes:
        keys: Place in the block's keys of the number ``slot d_head``.
        values: The same of values.
    """

    keys: Int[Tensor, "slot d_head"]
    values: Int[Tensor, "slot d_head"]

    @classmethod
    def found(
        cls,
        write: Callable[[Tensor, Tensor, Tensor], None],
        block_size: int,
        d_head: int,
        dtype: torch.dtype,
    ) -> "Order":
        """Found by writing the digits of each number's place, which every dtype holds exactly.

        Args:
            write: Writes keys and values, each ``slot kv_head d_head``, into a cache of one block
                and one head.
            block_size: Places of a block.
            d_head: Head width.
            dtype: Of the cache.

        Raises:
            ValueError: a number is nowhere in the block, or in two places.
        """
        n = block_size * d_head
        numbers = torch.arange(n)
        found = torch.zeros(2, n, dtype=torch.long)
        for digit in range(0, max(n - 1, 1).bit_length(), 6):
            digits = ((numbers >> digit) & 63).view(block_size, 1, d_head).to(dtype)
            cache = torch.zeros(1, 1, block_size, 2 * d_head, dtype=dtype)
            write(cache, digits, digits)
            found += cache.view(2, n).long() << digit
        for places in found:
            if not torch.equal(places.sort().values, numbers):
                raise ValueError("the attention backend packs its cache in an unknown way")
        return cls(*(places.argsort().view(block_size, d_head) for places in found))

    @cached_property
    def has_plain_values(self) -> bool:
        """Whether values lie ``slot d_head``."""
        return torch.equal(self.values.flatten(), torch.arange(self.values.numel()))

    @cached_property
    def has_turned_keys(self) -> bool:
        """Whether keys lie ``d_head slot``."""
        return torch.equal(self.keys.T.flatten(), torch.arange(self.keys.numel()))


@dataclass(frozen=True, eq=False)
class PackedPages:
    """All keys of a block, then all values, in an order of the processor's."""

    cache: Cache
    order: Order

    @property
    def block_size(self) -> int:
        return self.cache.shape[2]

    def keys(self, blocks: Int[Tensor, "row n_blocks"]) -> Float[Tensor, "row kv_head key d_head"]:
        taken = self.halves[:, :, 0][blocks]
        if not self.order.has_turned_keys:
            return _side_by_side(taken[..., self.order.keys])
        turned = taken.unflatten(-1, (-1, self.block_size)).permute(0, 2, 3, 1, 4)
        return turned.flatten(3, 4).mT

    def values(
        self, blocks: Int[Tensor, "row n_blocks"]
    ) -> Float[Tensor, "row kv_head key d_head"]:
        taken = self.halves[:, :, 1][blocks]
        if not self.order.has_plain_values:
            return _side_by_side(taken[..., self.order.values])
        return _side_by_side(taken.unflatten(-1, (self.block_size, -1)))

    def some_values(
        self, blocks: Int[Tensor, "key"], slots: Int[Tensor, "key"]
    ) -> Float[Tensor, "key kv_head d_head"]:
        if self.order.has_plain_values:
            halves = self.halves.unflatten(-1, (self.block_size, -1))
            return halves[blocks, :, 1, slots]
        places = self.order.values[slots][:, None].expand(-1, self.cache.shape[1], -1)
        return self.halves[blocks, :, 1].gather(-1, places)

    @property
    def halves(self) -> Float[Tensor, "block kv_head 2 half"]:
        """Keys and values of each block."""
        return self.cache.view(*self.cache.shape[:2], 2, -1)

    @property
    def is_read_in_place(self) -> bool:
        """Whether `cpu_kernel` can read it."""
        plain = self.order.has_turned_keys and self.order.has_plain_values
        by_eights = self.cache.shape[3] % 16 == 0
        return plain and by_eights and self.cache.dtype == torch.float32
