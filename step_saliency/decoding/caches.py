"""Key-value caches whose rows come and go: `Columns` in the clothes of two libraries.

transformers and TransformerLens each ask a cache for keys and values of all positions when they
hand it those of the new ones. Theirs copy all of them for every token; these do not.
"""

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import (
    Cache,
    CacheLayerMixin,
    DynamicLayer,
    DynamicSlidingWindowLayer,
)

from step_saliency.intervene.columns import Columns

try:
    from transformers.cache_utils import DummyLayer
except ImportError:  # transformers below 5.20 has no layer that caches nothing

    class DummyLayer:  # type: ignore[no-redef]
        """Stands for no layer."""


Keys: TypeAlias = Float[Tensor, "batch kv_head key _"]


class ColumnLayer(CacheLayerMixin):  # type: ignore[misc]
    """Keys and values of one layer of a transformers model, ``batch kv_head key d_head``.

    Args:
        window: Keys that a query sees, itself included; None for all. A layer holds no others.
    """

    def __init__(self, window: int | None = None) -> None:
        super().__init__()
        self.window = window
        self.is_sliding = window is not None
        self._columns = Columns(positions=2), Columns(positions=2)
        self._length = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:  # noqa: ARG002
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[Keys, Keys]:
        """Take those of the new positions, give those that any of these sees."""
        self.is_initialized = True
        keys, values = self._columns
        keys.append(key_states)
        values.append(value_states)
        self._length += key_states.shape[-2]
        self.keys, self.values = keys.view, values.view
        whole = self.keys, self.values
        self._forget_hidden()
        return whole

    def _forget_hidden(self) -> None:
        if self.window is not None:
            for columns in self._columns:
                columns.trim(max(0, len(columns) - self.window + 1))

    def get_seq_length(self) -> int:
        """Positions read, also those that are not held any more."""
        return self._length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Keys that the next pass gets, and how many there are before them."""
        n_held = len(self._columns[0])
        return n_held + query_length, self._length - n_held

    def get_max_length(self) -> int:
        """No bound."""
        return -1

    def batch_select_indices(self, indices: Int[Tensor, "row"]) -> None:
        """As `keep`."""
        self.keep(indices.tolist())

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows."""
        for columns in self._columns:
            columns.keep(rows)

    def join(self, other: "ColumnLayer") -> None:
        """Add the rows of another batch."""
        for columns, others in zip(self._columns, other._columns, strict=True):
            columns.join(others)
        self._length = max(self._length, other._length)

    def spread(self, lengths: Sequence[int]) -> "ColumnLayer":
        """Another layer that has read the first positions of the first row, so many in each of its
        own, aligned at the newest one."""
        other = ColumnLayer(self.window)
        other.is_initialized = True
        other._length = max(lengths)
        for columns, of_other in zip(self._columns, other._columns, strict=True):
            of_other.append(_spread(columns.view[:1], lengths))
        return other

    def trim(self, n_first: int) -> None:
        """Forget the first positions, which are padding in every row."""
        self._length -= n_first
        for columns in self._columns:
            columns.trim(max(0, len(columns) - self._length))


def _spread(
    held: Float[Tensor, "1 kv_head key d_head"], lengths: Sequence[int]
) -> Float[Tensor, "row kv_head width d_head"]:
    width = max(lengths)
    rows = held.new_zeros(len(lengths), held.shape[1], width, held.shape[3])
    for row, length in zip(rows, lengths, strict=True):
        row[:, width - length :] = held[0, :, :length]
    return rows


class ColumnCache(Cache):  # type: ignore[misc]
    """A cache of transformers whose rows come and go.

    Args:
        layers: Layers of its own kind, and dummies for those that keep nothing.
    """

    def __init__(self, layers: Sequence[Any] = ()) -> None:
        super().__init__(layers=list(layers))

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """As the layer's; layers that the config does not tell of are made as they come."""
        while len(self.layers) <= layer_idx:
            self.layers.append(ColumnLayer())
        keys, values = self.layers[layer_idx].update(key_states, value_states, *args, **kwargs)
        return keys, values

    @property
    def _column_layers(self) -> Iterator[ColumnLayer]:
        return (layer for layer in self.layers if isinstance(layer, ColumnLayer))

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows."""
        for layer in self._column_layers:
            layer.keep(rows)

    @property
    def has_windows(self) -> bool:
        """Whether some layer forgets what falls out of its window."""
        return any(layer.window is not None for layer in self._column_layers)

    def spread(self, lengths: Sequence[int]) -> "ColumnCache":
        """Another cache that has read the first positions of the first row, so many in each row."""
        assert not self.has_windows
        return ColumnCache(
            [
                layer.spread(lengths) if isinstance(layer, ColumnLayer) else layer
                for layer in self.layers
            ]
        )

    def join(self, other: "ColumnCache") -> None:
        """Add the rows of another batch."""
        while len(self.layers) < len(other.layers):
            self.layers.append(ColumnLayer())
        for layer, others in zip(self._column_layers, other._column_layers, strict=True):
            layer.join(others)

    def trim(self, n_first: int) -> None:
        """Forget the first positions, which are padding in every row."""
        for layer in self._column_layers:
            layer.trim(n_first)


def column_cache(config: Any, *, keep_all: bool) -> ColumnCache | None:
    """A cache for a model; None where some layer keeps something else than keys and values.

    Args:
        config: The model's config.
        keep_all: Keep what falls out of a sliding window too.
    """
    layers: list[Any] = []
    for layer in DynamicCache(config=config).layers:
        if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer, DummyLayer):
            return None
        window = None if keep_all else getattr(layer, "sliding_window", None)
        layers.append(layer if type(layer) is DummyLayer else ColumnLayer(window))
    return ColumnCache(layers)


class ColumnEntry:
    """Keys and values of one layer of a HookedTransformer, ``batch key kv_head d_head``."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self._keys, self._values = Columns(), Columns()
        self._keys.append(keys)
        self._values.append(values)
        self.frozen = False

    @property
    def past_keys(self) -> Float[Tensor, "batch key kv_head d_head"]:
        """Keys of all positions."""
        return self._keys.view

    @property
    def past_values(self) -> Float[Tensor, "batch key kv_head d_head"]:
        """Values of all positions."""
        return self._values.view

    def append(self, new_keys: Tensor, new_values: Tensor) -> tuple[Tensor, Tensor]:
        """Take those of the new positions, give those of all."""
        self._keys.append(new_keys)
        self._values.append(new_values)
        return self._keys.view, self._values.view

    @property
    def columns(self) -> tuple[Columns, Columns]:
        """Keys and values."""
        return self._keys, self._values


class HookedCache:
    """The cache of a HookedTransformer, whose rows come and go.

    Args:
        empty: An empty cache of TransformerLens.
    """

    def __init__(self, empty: Any) -> None:
        self.entries = [ColumnEntry(e.past_keys, e.past_values) for e in empty.entries]
        self.frozen = False
        self._mask = Columns()
        self._mask.append(empty.previous_attention_mask)

    def __getitem__(self, layer: int) -> ColumnEntry:
        return self.entries[layer]

    def __len__(self) -> int:
        """Positions, padding included."""
        return len(self._mask)

    @property
    def previous_attention_mask(self) -> Int[Tensor, "batch key"]:
        """1 where a position is no padding."""
        return self._mask.view

    def append_attention_mask(
        self, attention_mask: Int[Tensor, "batch new"]
    ) -> Int[Tensor, "batch key"]:
        """Take the mask of the new positions, give that of all."""
        self._mask.append(attention_mask.to(self._mask.view.device))
        return self._mask.view

    def _all_columns(self) -> Iterator[Columns]:
        yield self._mask
        for entry in self.entries:
            yield from entry.columns

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows."""
        for columns in self._all_columns():
            columns.keep(rows)

    def join(self, other: "HookedCache") -> None:
        """Add the rows of another batch."""
        for columns, others in zip(self._all_columns(), other._all_columns(), strict=True):
            columns.join(others)

    def trim(self, n_first: int) -> None:
        """Forget the first positions, which are padding in every row."""
        for columns in self._all_columns():
            columns.trim(n_first)
