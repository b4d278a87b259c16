"""Bytes and operations of both paths, as functions of the lengths of the traces.

With L layers, H heads, T tokens of a trace, P positions of a padded batch (T for one trace), widths
d (residual), m (MLP), q and k (queries, and keys or values, all heads), s bytes a number, and
f = max(1, 4 / s) for what is in float32 whatever the model's type: a block's graph keeps, of each
position,

    attention   2 d + 2 q + 2 k + H f               residuals at the norms, rotated q and k, v, z,
                (d + c d f + 2 q + 2 k + H f)       denominators (in half precision, where norms
                                                    keep c copies in float32)
    MLP         3 m                                 gate, its activation, and what it multiplies

and streaming holds at most, above the weights,

    kept        L d P s                             ``keep="inputs"`` (on a GPU, one if offloaded)
                L (d + q + H f) P s                 ``keep="heads"``
                L (attention + MLP) P s             ``keep="activations"``
    + the largest of
      loss      2 d P s + a chunk of logits, its gradient, and scratch
      MLP       (attention + MLP - d + 2 d + 3 m) P s
      attention (attention - d + 3 d + q) P s + (q + 2 k) P s + (4 q + 4 k + 2 H) f P s + tiles
    hooks       L (attention + MLP + 3 d) T s + L a H T^2
                + the larger of T * vocabulary * (2 + f) s + scratch, and 3 H T^2 f s (+ 8 H T^2)

with a bytes that the class of model keeps for each entry of a pattern, and 8 more where a pattern
in half precision is differentiated. These are tensors, counted; on a CPU the process holds `HEAP`
times as much of tensors below `HEAP_LIMIT`, and with ``keep="activations"`` the gaps of each block.

Of several traces streaming runs those of a `padded_groups` together, and hooks one after another:
memory is that of the largest group or trace, time the sum of all.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from step_saliency.options import Keep, ObjectiveName
from step_saliency.saliency import log_odds, streaming
from step_saliency.saliency.cost.shape import ModelShape, Tensors
from step_saliency.saliency.kernels.step_attention import short
from step_saliency.saliency.kernels.step_attention.chunked import DEFAULT_TILE, GPU_TILE
from step_saliency.saliency.objectives import Custom, LogOdds, NextToken, Objective
from step_saliency.saliency.padding import padded_groups

ObjectiveLike = ObjectiveName | Objective | Callable[..., Tensor]

HEAP: dict[Keep, float] = {"activations": 1.0, "heads": 1.65, "inputs": 1.85}
"""What a process holds of tensors that the C library takes from its heap, over their bytes.

PyTorch asks for aligned memory, for which glibc seldom finds room where a tensor of the same size
was freed, so that gaps stay between those that are kept, the more so the more is freed between
them: 1.4 to 1.9 and 1.4 to 2.1 times were measured, and 1.0 with
``MALLOC_MMAP_THRESHOLD_=131072``, which keeps small tensors off the heap too. Where a block's graph
is kept, the gaps are those of what its forward pass frees (`ModelShape.gaps`).
"""
HEAP_BY_HOOKS = {"half": 1.5, "wide": 2.1}
"""The same by hooks, in half precision (1.3 to 1.8 measured) and in others (1.9 to 2.4)."""
HEAP_LIMIT = 32 * 2**20
"""Bytes from which on glibc gets each tensor from the system, and gives it back at once."""

PATTERN_PASSES = 40
"""How often the hooks path reads or writes each entry of a pattern."""


@dataclass(frozen=True)
class Work:
    """Bytes and seconds of mapping with a model.

    Attributes:
        shape: Sizes of the model.
        local: Whether keys and values get gradient from their own position alone.
        all_logits: Whether the objective needs the logits of all positions at once.
        lowest: Lowest layer that is mapped; blocks below it are not differentiated.
        heap: What a process holds of tensors on the heap, over their bytes.
    """

    shape: ModelShape
    local: bool
    all_logits: bool
    lowest: int
    heap: float

    @classmethod
    def of(
        cls, shape: ModelShape, objective: ObjectiveLike, layers: Sequence[int] | None
    ) -> "Work":
        """The work of an objective in some layers; all without ``layers``."""
        lowest = min(layer % shape.n_layers for layer in (range(1) if layers is None else layers))
        heap = HEAP_BY_HOOKS["half" if shape.itemsize < 4 else "wide"]
        return cls(shape, _is_local(objective), _needs_all_logits(objective), lowest, heap)

    @property
    def differentiated(self) -> int:
        """Number of blocks that are differentiated."""
        return self.shape.n_layers - self.lowest

    @property
    def can_offload(self) -> bool:
        """Whether there is memory other than the main memory to be relieved."""
        return self.shape.device.type != "cpu"

    def streaming_bytes(
        self, lengths: Sequence[int], *, keep: Keep = "inputs", offload: bool = False
    ) -> int:
        """Most memory on the model's device at a time, above the weights."""
        n_inputs = 1 if offload and self.can_offload else self.shape.n_layers
        work = replace(self, heap=HEAP["inputs" if keep == "auto" else keep])
        return max(work._batch_bytes(group, n_inputs, keep) for group in _groups(lengths))

    def kept_bytes(self, lengths: Sequence[int], keep: Keep) -> int:
        """Memory that keeping more than inputs takes beyond them."""
        return max(0, self.streaming_bytes(lengths, keep=keep) - self.streaming_bytes(lengths))

    def offloaded_bytes(self, lengths: Sequence[int]) -> int:
        """Most main memory that the inputs of all blocks take when they are offloaded."""
        most = max(map(_padded, _groups(lengths)))
        return self.shape.n_layers * self._held(most, (self.shape.d_model, 1))

    def _batch_bytes(self, group: Sequence[int], n_inputs: int, keep: Keep) -> int:
        shape, n_positions = self.shape, _padded(group)
        resid = self._held(n_positions, (shape.d_model, 1))
        mlp = self._held(n_positions, *shape.mlp)
        graph = self._held(n_positions, *shape.attention) + mlp - resid
        # of blocks below the lowest that is mapped, no more than the input is kept
        more = {
            "activations": graph,
            "heads": self._held(n_positions, *shape.head_outputs),
            "inputs": 0,
        }
        kept = n_inputs * resid + self.differentiated * more[keep]
        if keep == "activations" and self._is_on_heap(n_positions * shape.d_model * shape.itemsize):
            kept += self.differentiated * shape.gaps * resid
        block = 0 if keep == "activations" else graph
        return kept + max(
            2 * resid + self._logit_bytes(max(group)),
            block + 2 * resid + mlp,
            block - mlp + self._attention_bytes(group),
        )

    def _attention_bytes(self, group: Sequence[int]) -> int:
        """What is held while a block's attention is differentiated, beyond its graph."""
        shape, n_positions = self.shape, _padded(group)
        d, q, k = shape.d_model, shape.query_width, shape.key_width
        gradients = self._held(n_positions, (d, 3), (q, 2), (k, 2))
        if shape.device.type == "cuda" and shape.itemsize == 2:
            return gradients
        wide = self._held(n_positions, (q, 4), (k, 4), (shape.n_heads, 2), itemsize=shape.widest)
        return gradients + wide + self._tile_bytes(group)

    def _tile_bytes(self, group: Sequence[int]) -> int:
        tile = DEFAULT_TILE if self.shape.device.type == "cpu" else GPU_TILE
        entries = tile.rows * tile.keys
        if len(group) > 1 and max(group) <= short.LONGEST:
            one = self.shape.n_heads * max(group) ** 2
            entries = one * min(len(group), max(1, short.TILE_ENTRIES // one))
        return 3 * self._heap(entries * self.shape.widest)

    def _held(self, n_positions: int, *tensors: Tensors, itemsize: int | None = None) -> int:
        """Bytes of tensors, each given as its width and how many there are."""
        size = itemsize or self.shape.itemsize
        return sum(int(count * self._heap(n_positions * width * size)) for width, count in tensors)

    def _heap(self, n_bytes: int) -> int:
        """What a process holds for a tensor."""
        return int(n_bytes * (self.heap if self._is_on_heap(n_bytes) else 1))

    def _is_on_heap(self, n_bytes: int) -> bool:
        """Whether the C library takes a tensor from its heap."""
        return self.shape.device.type == "cpu" and n_bytes < heap_limit()

    def _logit_bytes(self, n_tokens: int) -> int:
        vocab = self.shape.vocab
        if self.all_logits:
            return 4 * self._heap(4 * n_tokens * vocab)
        limits = streaming.LOGIT_BYTES
        limit = limits.get(self.shape.device.type, limits["cuda"])
        chunk = min(n_tokens, max(1, limit // (4 * vocab))) * vocab
        widened = 4 if self.local else 8
        # of several chunks on a heap, the room of one before is cut up by smaller tensors
        held = self._heap(chunk * self.shape.itemsize)
        is_cut = n_tokens * vocab > chunk and held > chunk * self.shape.itemsize
        return (3 if is_cut else 2) * held + self._heap(self._scratch(chunk) * widened)

    def _scratch(self, n_logits: int) -> int:
        """How many of them are held in float64 at a time."""
        return min(n_logits, log_odds.SCRATCH.get(self.shape.device.type, log_odds.SCRATCH["cpu"]))

    def hooks_bytes(self, lengths: Sequence[int]) -> int:
        """Most memory at a time, above the weights."""
        shape, n_tokens = self.shape, max(lengths)
        entries, is_half = shape.n_heads * n_tokens**2, shape.itemsize < 4
        graph = self._held(n_tokens, *shape.attention, *shape.mlp, (shape.d_model, 3))
        pattern = self._heap(entries * shape.pattern_bytes)
        # while one layer's pattern is differentiated; in half precision both types are there
        gradients = 2 * self._heap(entries * shape.widest) + is_half * 4 * self._heap(2 * entries)
        logits = 2 * self._heap(n_tokens * shape.vocab * shape.itemsize)
        logits += self._heap(n_tokens * shape.vocab * shape.widest)
        logits += 3 * self._heap(8 * self._scratch(n_tokens * shape.vocab))
        # the lowest pattern is where the graph begins: nothing is kept of how scores were capped
        capped = self._heap(entries * shape.cap_bytes)
        return self.differentiated * (graph + pattern) - capped + max(gradients, logits)

    def streaming_seconds(
        self, lengths: Sequence[int], speed: float, *, keep: Keep = "inputs"
    ) -> float:
        """Rough time; padding costs what does not depend on other positions."""
        # products of one pass: forward 2 T^2 q over half the square; backward 3, or 5 if not local
        backward = (3 if self.local else 5) + (2 if keep == "inputs" else 0)
        attention = 2 * self.shape.n_layers + backward * self.differentiated
        blocks = self.shape.n_layers + (1 if keep == "activations" else 2) * self.differentiated
        n_positions = sum(_padded(group) for group in _groups(lengths))
        square = self.shape.query_width * sum(n_tokens**2 for n_tokens in lengths)
        linear = 2 * n_positions * self.shape.block_parameters * blocks
        return (linear + self._head_work(lengths) + attention * square) / speed

    def hooks_seconds(self, lengths: Sequence[int], speed: float, bandwidth: float) -> float:
        """Rough time."""
        squares = sum(n_tokens**2 for n_tokens in lengths)
        attention = 2 * self.shape.n_layers + 4 * self.differentiated
        blocks = self.shape.n_layers + self.differentiated
        linear = 2 * sum(lengths) * self.shape.block_parameters * blocks
        entries = self.shape.n_layers * self.shape.n_heads * squares
        traffic = PATTERN_PASSES * entries * self.shape.itemsize / bandwidth
        products = attention * 2 * squares * self.shape.query_width
        return (linear + self._head_work(lengths) + products) / speed + traffic

    def _head_work(self, lengths: Sequence[int]) -> int:
        return 4 * sum(lengths) * self.shape.d_model * self.shape.vocab


def heap_limit() -> int:
    """Bytes from which on a tensor is not taken from the heap, as the environment says."""
    fixed = os.environ.get("MALLOC_MMAP_THRESHOLD_", "")
    return int(fixed) if fixed.isdecimal() else HEAP_LIMIT


def longest(n_bytes: Callable[[Sequence[int]], int], free: int) -> int:
    """Length of the longest single trace whose bytes fit, by bisection."""
    low, high = 0, 1
    while n_bytes([high]) <= free and high < 2**30:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if n_bytes([middle]) <= free else (low, middle)
    return low


def _groups(lengths: Sequence[int]) -> Iterator[Sequence[int]]:
    return (lengths[group] for group in padded_groups(lengths))


def _padded(group: Sequence[int]) -> int:
    """Positions of a batch, padding included."""
    return len(group) * max(group)


def _is_local(objective: ObjectiveLike) -> bool:
    if isinstance(objective, Objective):
        return objective.local
    names: tuple[Any, ...] = (NextToken.name, LogOdds.name)
    return objective in names


def _needs_all_logits(objective: ObjectiveLike) -> bool:
    return isinstance(objective, Custom) or (
        callable(objective) and not isinstance(objective, Objective)
    )
