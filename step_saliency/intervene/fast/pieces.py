"""A pass captured once, in pieces that the device replays, with Python between them.

A token of each row is some forty kernels a layer. Python starts each of them, and on a card that
takes longer than the kernels themselves. None depends on how much was read before, but for
attention over the cache and the edits. So the pass is captured once, as pieces that end where
these come, and from then on the pieces are replayed:

    piece | attention of layer 0, its cache and edits | piece | attention of layer 1 | ... | piece

What is between runs anew each time, as Python that may look at the rows, wait for the device or
have other shapes. While the pass is captured it does not run: what it would give is zeros, so
that capturing neither reads nor changes anything of a batch, and may fail.

When it misleads: what Python decides inside of a piece is decided once. `part` is where it must not
be.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Protocol, runtime_checkable

from torch import Tensor

Part = Callable[..., Tensor | None]
"""From inputs of the rows that are there, to a result for them; or nothing."""


@runtime_checkable
class Piece(Protocol):
    """Work of a device that can be captured and replayed, such as a CUDA graph."""

    def begin(self) -> None:
        """Capture what follows, until `end`."""

    def end(self) -> None:
        """Nothing more belongs to it."""

    def replay(self) -> None:
        """Do the work again, on the same tensors."""


class Pieces:
    """A pass in pieces.

    Args:
        new_piece: Makes a piece; None rehearses the pass, which runs it without taking it down.
    """

    def __init__(self, new_piece: Callable[[], Piece] | None) -> None:
        self._new_piece = new_piece
        self._done: list[tuple[Piece, Callable[[int], None]]] = []
        self._open: Piece | None = None

    @contextmanager
    def captured(self) -> Iterator[None]:
        """Context in which the pass is run to take it down."""
        self._begin()
        try:
            yield
        except BaseException:
            with suppress(RuntimeError):  # the device says once more that it cannot
                self._end()
            raise
        self._end()

    def _begin(self) -> None:
        if self._new_piece is not None:
            self._open = self._new_piece()
            self._open.begin()

    def _end(self) -> None:
        if self._open is not None:
            self._open.end()

    def part(self, run: Part, *inputs: Tensor, result: Tensor | None = None) -> Tensor | None:
        """Leave a place for what is to run anew in each pass.

        Args:
            run: What runs there, with as many rows of the inputs as there are.
            inputs: Tensors of the piece before, ``row ...``.
            result: Like what it returns, for all rows; None if it returns nothing.

        Returns:
            Where the result will be.
        """
        if self._new_piece is None:
            return None if result is None else result.new_zeros(result.shape)
        piece = self._open
        assert piece is not None
        self._end()
        place = None if result is None else result.new_zeros(result.shape)

        def between(n_rows: int) -> None:
            output = run(*(_first(n_rows, tensor) for tensor in inputs))
            if place is not None:
                assert output is not None
                _first(n_rows, place).copy_(output)

        self._done.append((piece, between))
        self._begin()
        return place

    def replay(self, n_rows: int) -> None:
        """Run the pass.

        Args:
            n_rows: Rows that are there, of those that it was captured with.
        """
        for piece, between in self._done:
            piece.replay()
            between(n_rows)
        assert self._open is not None
        self._open.replay()


def _first(n_rows: int, tensor: Tensor) -> Tensor:
    return tensor if len(tensor) == n_rows else tensor[:n_rows]
