"""One tensor of a batch that grows by positions, and whose rows come and go.

Rows are aligned at their newest position: a shorter row has padding on the left. All that decoding
holds of a batch (keys, values, masks, labels, residuals) is kept so, and moves together:

    append(new)    positions after the newest
    keep(rows)     the batch goes on with these rows, in this order
    join(other)    another batch, aligned at its newest position, is added behind
    trim(n)        the first n positions are forgotten: they are padding in every row

Positions stand in a buffer with room on the right, of which ``view`` is a window, so that neither
a new position, nor a row that leaves, nor one that joins copies the batch.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Shaped
from torch import Tensor

LEAST_ROOM = 64
"""Positions of room that a buffer gets at least."""


class Columns:
    """A growing tensor.

    Args:
        rows: Axis of the batch's rows.
        positions: Axis of positions.
        padding: What stands where a row has no position.
    """

    def __init__(self, *, rows: int = 0, positions: int = 1, padding: int = 0) -> None:
        self._rows, self._positions = rows, positions
        self._padding = padding
        self._held: Tensor | None = None
        self._is_own = False
        self._n_rows = 0
        self._start = 0
        self._stop = 0

    def __len__(self) -> int:
        """Number of positions."""
        return self._stop - self._start

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return self._n_rows

    @property
    def is_empty(self) -> bool:
        """Whether nothing was appended."""
        return self._held is None

    @property
    def view(self) -> Shaped[Tensor, "..."]:
        """The batch as it is; the buffer itself, which later calls change."""
        return self._of_rows().narrow(self._positions, self._start, self._stop - self._start)

    def _of_rows(self) -> Tensor:
        """The rows with all the room that there is."""
        assert self._held is not None
        if self._n_rows == self._held.shape[self._rows]:
            return self._held
        return self._held.narrow(self._rows, 0, self._n_rows)

    def _window(self, held: Tensor, row: int, to_row: int, start: int, stop: int) -> Tensor:
        part = held.narrow(self._positions, start, stop - start)
        return part.narrow(self._rows, row, to_row - row)

    def append(self, new: Shaped[Tensor, "..."]) -> None:
        """Add positions to every row; the first ones are kept as they are, without a copy."""
        n_new = new.shape[self._positions]
        if self._held is None:
            self._take(new, is_own=False)
        elif new.requires_grad or self._held.requires_grad:
            self._take(torch.cat([self.view, new], self._positions), is_own=False)
        else:
            self._reserve(self._n_rows, right=n_new)
            self._of_rows().narrow(self._positions, self._stop, n_new).copy_(new)
            self._stop += n_new

    def _take(self, whole: Tensor, *, is_own: bool) -> None:
        self._held, self._is_own = whole, is_own
        self._n_rows = whole.shape[self._rows]
        self._start, self._stop = 0, whole.shape[self._positions]

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows.

        Rows that only fill places of rows that left are moved in the buffer; else all are copied.
        """
        moves = [(place, row) for place, row in enumerate(rows) if place != row]
        if self._held is None or (not moves and len(rows) == self._n_rows):
            return
        fills = self._is_own and all(row >= len(rows) for _, row in moves)
        if not fills or self._held.requires_grad or self._held.is_inference():
            index = torch.tensor(rows, dtype=torch.long, device=self._held.device)
            self._take(self.view.index_select(self._rows, index), is_own=True)
            return
        for place, row in moves:
            self._row(place).copy_(self._row(row))
        self._n_rows = len(rows)

    def _row(self, row: int) -> Tensor:
        assert self._held is not None
        return self._window(self._held, row, row + 1, self._start, self._stop)

    def join(self, other: "Columns") -> None:
        """Add the rows of another batch behind these; it is not to be used any more."""
        if other._held is None or not other._n_rows:
            return
        if self._held is None or not self._n_rows:
            self._take(other.view, is_own=False)
            return
        n_before, wider = self._n_rows, max(0, len(other) - len(self))
        self._reserve(n_before + other._n_rows, left=wider)
        held, start = self._held, self._start
        self._window(held, 0, n_before, start - wider, start).fill_(self._padding)
        self._start -= wider
        self._n_rows += other._n_rows
        begin = self._stop - len(other)
        self._window(held, n_before, self._n_rows, self._start, begin).fill_(self._padding)
        self._window(held, n_before, self._n_rows, begin, self._stop).copy_(other.view)

    def trim(self, n_first: int) -> None:
        """Forget the first positions."""
        self._start = min(self._start + n_first, self._stop)

    def crop(self, length: int) -> None:
        """Go on from the first positions."""
        self._stop = self._start + length

    def _reserve(self, n_rows: int, *, left: int = 0, right: int = 0) -> None:
        """Have a buffer of one's own with room for so many rows and positions on either side."""
        held = self._held
        assert held is not None
        rows, positions = held.shape[self._rows], held.shape[self._positions]
        has_room = self._start >= left and self._stop + right <= positions and n_rows <= rows
        if self._is_own and has_room and not held.is_inference():
            return
        before, width = self.view, len(self) + left + right
        shape = list(held.shape)
        shape[self._rows] = n_rows if 2 * n_rows <= rows else max(n_rows, rows)
        shape[self._positions] = width + max(LEAST_ROOM, width // 2)
        with torch.inference_mode(False):
            self._held = torch.empty(shape, dtype=held.dtype, device=held.device)
        self._start, self._stop, self._is_own = left, left + before.shape[self._positions], True
        self.view.copy_(before)
