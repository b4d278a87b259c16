"""Bytes and operations of both paths, as functions of the lengths of the traces.

With L layers, H heads, T tokens of a trace, P positions of a padded batch (T for one trace),
q = H * d_head, kv = key-value heads * d_head, and s bytes a number, above the weights:

    streaming   L * P * d_model * s                                 inputs of the blocks (on a GPU,
                                                                    one block's if offloaded)
                + max(P * s * (3 d_model + max(6 d_mlp + 2.6 (q + kv), 10 (q + kv))),
                      four chunks of logits)                        one block's graph, or the loss
    keep        L * P * s * (q + 4 / s)                             head outputs and denominators
                L * P * s * (6 d_model + 3 d_mlp + 3 q + 4 kv)      or graphs of all blocks, of what
                                                                    streaming keeps beyond inputs
    hooks       (a L + b) * H * T^2 * s                             patterns and their gradients
                + L * T * s * (8 d_model + 5 d_mlp + 4 (q + kv)) + 16 * T * vocabulary

Of several traces streaming runs those of a `padded_groups` together, and hooks one after another:
memory is that of the largest group or trace, time the sum of all. The factors were fitted to
measured peaks (tests hold them to that); a and b are what the class of model keeps of a pattern.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from step_saliency.options import Keep, ObjectiveName
from step_saliency.saliency import streaming
from step_saliency.saliency.cost.shape import ModelShape
from step_saliency.saliency.kernels.step_attention.chunked import DEFAULT_TILE, GPU_TILE
from step_saliency.saliency.objectives import Custom, LogOdds, NextToken, Objective
from step_saliency.saliency.padding import padded_groups

ObjectiveLike = ObjectiveName | Objective | Callable[..., Tensor]

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
    """

    shape: ModelShape
    local: bool
    all_logits: bool
    lowest: int

    @classmethod
    def of(
        cls, shape: ModelShape, objective: ObjectiveLike, layers: Sequence[int] | None
    ) -> "Work":
        """The work of an objective in some layers; all without ``layers``."""
        lowest = min(layer % shape.n_layers for layer in (range(1) if layers is None else layers))
        return cls(shape, _is_local(objective), _needs_all_logits(objective), lowest)

    @property
    def differentiated(self) -> int:
        """Number of blocks that are differentiated."""
        return self.shape.n_layers - self.lowest

    @property
    def can_offload(self) -> bool:
        """Whether there is memory other than the main memory to be relieved."""
        return self.shape.device.type != "cpu"

    def streaming_bytes(self, lengths: Sequence[int], *, offload: bool = False) -> int:
        """Most memory on the model's device at a time, above the weights."""
        n_inputs = 1 if offload and self.can_offload else self.shape.n_layers
        return max(self._batch_bytes(group, n_inputs) for group in _groups(lengths))

    def kept_bytes(self, lengths: Sequence[int], keep: Keep) -> int:
        """Most memory that what is kept of the differentiated blocks takes beyond inputs."""
        shape = self.shape
        graph = 6 * shape.d_model + 3 * shape.d_mlp + 3 * shape.query_width + 4 * shape.key_width
        widths = {"activations": graph, "heads": shape.query_width + shape.n_heads, "inputs": 0}
        most = max(map(_padded, _groups(lengths)))
        return self.differentiated * most * widths[keep] * shape.itemsize

    def offloaded_bytes(self, lengths: Sequence[int]) -> int:
        """Most main memory that the inputs of all blocks take when they are offloaded."""
        return max(self.shape.n_layers * self._resid_bytes(group) for group in _groups(lengths))

    def _resid_bytes(self, group: Sequence[int]) -> int:
        return _padded(group) * self.shape.d_model * self.shape.itemsize

    def _batch_bytes(self, group: Sequence[int], n_inputs: int) -> int:
        shape, n_positions = self.shape, _padded(group)
        widths = shape.query_width + shape.key_width
        mlp = 6 * shape.d_mlp + 2.6 * widths
        triton = shape.device.type == "cuda" and shape.itemsize == 2
        attention = 10 * widths * (1 if triton else 4 / shape.itemsize)
        graph = n_positions * shape.itemsize * (3 * shape.d_model + max(mlp, attention))
        tile = DEFAULT_TILE if shape.device.type == "cpu" else GPU_TILE
        buffers = 0 if triton else 3 * tile.rows * tile.keys * 4
        inputs = (n_inputs + 2) * self._resid_bytes(group)
        return int(inputs + max(graph + buffers, self._logit_bytes(max(group))))

    def _logit_bytes(self, n_tokens: int) -> int:
        whole = 4 * n_tokens * self.shape.vocab
        limits = streaming.LOGIT_BYTES
        limit = limits.get(self.shape.device.type, limits["cuda"])
        return 4 * (whole if self.all_logits else min(whole, limit))

    def hooks_bytes(self, lengths: Sequence[int]) -> int:
        """Most memory at a time, above the weights."""
        shape, n_tokens = self.shape, max(lengths)
        per_layer, once = shape.pattern_copies
        layers = self.differentiated
        patterns = (per_layer * layers + once) * shape.n_heads * n_tokens**2 * shape.itemsize
        widths = shape.query_width + shape.key_width
        graph = layers * n_tokens * (8 * shape.d_model + 5 * shape.d_mlp + 4 * widths)
        return int(patterns + graph * shape.itemsize + 4 * 4 * n_tokens * shape.vocab)

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
