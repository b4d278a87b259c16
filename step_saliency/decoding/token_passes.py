"""Passes of one token a row on a card, by CUDA graphs.

Python takes longer to start the kernels of such a pass than the card takes for them. Here a pass is
captured in pieces once for each number of rows, and then replayed; attention over the cache and
the edits run between the pieces as they always do, see `step_saliency.intervene.fast.pieces`. Rows
are rounded up, so that a row that leaves or joins does not call for another one.

What cannot be captured (experts that are chosen in Python, hooks of the user's on modules, a
cache of more than keys and values, a model on several cards) is decoded as without, slower, and one
warning says why.

When it misleads: products of more rows than there are may be added up in another order, so that
logits differ from those without graphs by rounding, as between batches of other sizes. A pass that
is captured knows the weights by their place: weights that are replaced, not changed in place,
while a batch is decoded are not seen. Of torch's global hooks, those of the token embedding alone
are called in each pass: it is no part of what is captured, so that passes can be counted.
"""

import gc
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers.cache_utils import Cache

from step_saliency.decoding.caches import ColumnCache
from step_saliency.intervene.fast import FastSession
from step_saliency.intervene.fast.pieces import Piece, Pieces
from step_saliency.models.hooking import hooked_modules

PASSES_BEFORE = 8
"""Passes without graphs that come first: taking one down costs as much as three of them."""
LAYER_KINDS = {"full_attention", "sliding_attention"}
"""Kinds of layers whose mask follows from padding and a window."""

NewPiece = Callable[[], Piece]


class CudaPiece:
    """A CUDA graph.

    Args:
        pool: Memory that it shares with those that are replayed before and after it.
    """

    def __init__(self, pool: Any) -> None:
        self._graph = torch.cuda.CUDAGraph()
        self._pool = pool

    def begin(self) -> None:
        """Capture what is asked of the card in this thread; others may go on with theirs."""
        self._graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")

    def end(self) -> None:
        """End of the graph."""
        self._graph.capture_end()

    def replay(self) -> None:
        """Do its work again."""
        self._graph.replay()


class NewestOnly(Cache):  # type: ignore[misc]
    """The cache of a pass that is captured: it hands back what is new.

    Raises:
        ValueError: the model asks how much was read, which would be captured as it is now; keys
            of other shapes than a layer's own are cached.
    """

    def __init__(self) -> None:
        super().__init__(layers=[])
        self._newest: dict[int, tuple[Tensor, Tensor]] = {}

    def update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        layer_idx: int,
        *_args: Any,
        **_kwargs: Any,
    ) -> tuple[Tensor, Tensor]:
        """Keys and values as they come."""
        self._newest[layer_idx] = key_states, value_states
        return key_states, value_states

    def check(self, layer: int, key: Tensor, value: Tensor) -> None:
        """Whether a layer attends to what it caches."""
        newest = self._newest.get(layer)
        if newest is None or newest[0] is not key or newest[1] is not value:
            raise ValueError(f"layer {layer} attends to other keys or values than it caches")

    def get_seq_length(self, layer_idx: int = 0) -> int:  # noqa: ARG002
        raise ValueError("its forward pass asks the cache how much was read")

    def get_mask_sizes(self, *_args: Any, **_kwargs: Any) -> tuple[int, int]:
        raise ValueError("its forward pass makes masks of its own")


class TokenPasses:
    """Passes of one token a row, captured and replayed.

    Args:
        model: transformers model on one device.
        session: The session that has its attention.
        new_piece: Makes a piece; by default a CUDA graph.

    Attributes:
        newest: The cache that the model has while a pass is captured.
    """

    def __init__(
        self, model: Any, session: FastSession, *, new_piece: NewPiece | None = None
    ) -> None:
        self.newest = NewestOnly()
        self._model = model
        self._session = session
        self._new_piece = cuda_pieces() if new_piece is None else new_piece
        self._by_size: dict[int, _Captured] = {}
        self._n_passes = 0
        self._refusal: str | None = None
        if (reason := refusal(model)) is not None:
            self._refuse(reason)
        self._cache: ColumnCache | None = None
        self._seen: Int[Tensor, "batch key"] | None = None
        self._masks: dict[tuple[int, int | None], Tensor | None] = {}

    def read(
        self,
        tokens: Int[Tensor, "row 1"],
        positions: Int[Tensor, "row 1"],
        cache: Any,
        seen: Int[Tensor, "row key"],
    ) -> Float[Tensor, "row 1 vocab"] | None:
        """Logits of the next pass; None where the model has to be asked.

        Args:
            tokens: The newest token of each row.
            positions: Its position in its row.
            cache: What was read before.
            seen: 0 where a position, the newest included, is padding.
        """
        self._n_passes += 1
        if self._refusal is None and not isinstance(cache, ColumnCache):
            self._refuse("its cache holds more than keys and values")
        if self._refusal is not None:
            return None
        size = padded_rows(len(tokens))
        if size not in self._by_size and not self._capture(size):
            return None
        self._cache, self._seen, self._masks = cache, seen, {}
        try:
            return self._by_size[size].run(tokens, positions)
        finally:
            self._cache = self._seen = None

    def _capture(self, size: int) -> bool:
        """Capture a pass of so many rows, once that pays; whether it is."""
        if self._n_passes <= PASSES_BEFORE:
            return False
        try:
            taken = _Captured(self._model, self._session, self, size, self._new_piece)
        except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
            self._refuse(str(error).splitlines()[0])
            return False
        self._by_size[size] = taken
        return True

    def _refuse(self, reason: str) -> None:
        self._refusal = reason
        warnings.warn(
            f"decoding without CUDA graphs, slower: passes of {type(self._model).__name__} cannot "
            f"be captured: {reason}",
            stacklevel=3,
        )

    def close(self) -> None:
        """Give back what was captured."""
        self._by_size = {}

    def expect(self, layer: int, key: Tensor, value: Tensor) -> None:
        """As `Past.expect`."""
        self.newest.check(layer, key, value)

    def take(
        self, layer: int, key: Tensor, value: Tensor, options: dict[str, Any]
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """As `Past.take`."""
        assert self._cache is not None
        keys, values = self._cache.update(key, value, layer)
        return keys, values, self._mask(keys.shape[2], options.get("sliding_window"))

    def _mask(self, n_keys: int, window: int | None) -> Bool[Tensor, "row 1 1 key"] | None:
        """Which of a layer's keys are seen; None for all. Layers of one kind get the same one."""
        assert self._seen is not None
        kind = n_keys, window
        if kind not in self._masks:
            visible = self._seen[:, -n_keys:].bool()
            if window is not None and n_keys > window:
                visible = visible.clone()
                visible[:, :-window] = False
            is_needed = not bool(visible.all())
            self._masks[kind] = visible[:, None, None] if is_needed else None
        return self._masks[kind]


class _Captured:
    """A pass of some number of rows.

    Args:
        model: The model.
        session: The session that has its attention.
        past: Whom attention asks for keys and values.
        size: Rows.
        new_piece: Makes a piece.
    """

    def __init__(
        self,
        model: Any,
        session: FastSession,
        past: TokenPasses,
        size: int,
        new_piece: NewPiece,
    ) -> None:
        device = model.device
        options = {"logits_to_keep": 1} if "logits_to_keep" in _accepted(model) else {}
        self._embed = model.get_input_embeddings()
        self._embedded = self._embed.weight.new_zeros(size, 1, self._embed.weight.shape[1])
        self._positions = torch.zeros(size, 1, dtype=torch.long, device=device)
        mask = torch.zeros(size, 1, 1, 1, dtype=torch.bool, device=device)

        def run() -> Tensor:
            output = model(
                inputs_embeds=self._embedded,
                attention_mask=mask,
                position_ids=self._positions,
                past_key_values=past.newest,
                use_cache=True,
                **options,
            )
            logits: Tensor = output.logits
            return logits

        with _own_stream(device), _without_collection():
            with session.captured(Pieces(None), past):
                run()
            self._pieces = Pieces(new_piece)
            with session.captured(self._pieces, past):
                self._logits = run()

    def run(
        self, tokens: Int[Tensor, "row 1"], positions: Int[Tensor, "row 1"]
    ) -> Float[Tensor, "row 1 vocab"]:
        """Logits of a pass."""
        n = len(tokens)
        self._embedded[:n].copy_(self._embed(tokens))
        self._positions[:n].copy_(positions)
        self._pieces.replay(n)
        return self._logits[:n].clone()


@contextmanager
def _own_stream(device: torch.device) -> Iterator[None]:
    """Context in which a card works on a stream of its own, as capturing asks for."""
    if device.type != "cuda":
        yield
        return
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream(device).wait_stream(stream)


@contextmanager
def _without_collection() -> Iterator[None]:
    """Context in which Python collects no garbage: a graph that is freed would end another one."""
    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def cuda_pieces() -> NewPiece:
    """CUDA graphs that share memory."""
    pool = torch.cuda.graph_pool_handle()
    return lambda: CudaPiece(pool)


def padded_rows(n_rows: int) -> int:
    """So many rows are captured for a pass of this many: 1, 2, 4, a multiple of 8, or of 32."""
    if n_rows <= 4:
        return 1 << (n_rows - 1).bit_length()
    step = 8 if n_rows <= 64 else 32
    return -(-n_rows // step) * step


def refusal(model: Any) -> str | None:
    """Why passes of a model are not captured; None if they are."""
    config = model.config.get_text_config(decoder=True)
    kinds = set(getattr(config, "layer_types", None) or LAYER_KINDS)
    devices = {str(parameter.device) for parameter in model.parameters()}
    hooked = hooked_modules(model)
    reasons = {
        f"hooks at {', '.join(hooked[:3])} run from Python": bool(hooked),
        f"it has layers of kind {', '.join(sorted(kinds - LAYER_KINDS))}": not kinds <= LAYER_KINDS,
        "its layers attend to chunks": getattr(config, "attention_chunk_size", None) is not None,
        f"it lies on {', '.join(sorted(devices))}": len(devices) != 1,
        "it takes no position_ids": "position_ids" not in _accepted(model),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def _accepted(model: Any) -> Mapping[str, Any]:
    return inspect.signature(model.forward).parameters
