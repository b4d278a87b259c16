"""Activations of all positions so far, while passes show the new ones only."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from step_saliency.intervene.columns import Columns


class PastStore:
    """One activation of all positions so far, of which every pass shows the new ones.

    A single pass is kept as it is, with its gradient.
    """

    def __init__(self) -> None:
        self._held = Columns()
        self._shown: Float[Tensor, "batch pos ..."] | None = None

    def show(self, activation: Float[Tensor, "batch pos ..."]) -> None:
        """Take what a pass shows."""
        self._shown = activation

    def all(self, n_keys: int) -> Float[Tensor, "batch key ..."]:
        """The activation at all positions, those of the pass at the end.

        Raises:
            ValueError: earlier positions were not shown.
        """
        if self._shown is not None:
            self._write(self._shown, n_keys)
            self._shown = None
        held: Float[Tensor, "batch key ..."] = self._held.view[:, :n_keys]
        return held

    def _write(self, shown: Float[Tensor, "batch pos ..."], n_keys: int) -> None:
        start = n_keys - shown.shape[1]
        if start == 0:
            self._held = Columns()
        elif len(self._held) < start or self._held.n_rows != len(shown):
            raise ValueError(
                f"the model has {start} earlier positions in its cache, of which "
                f"{len(self._held)} were seen here: fill its cache inside of the context too"
            )
        else:
            self._held.crop(start)
        self._held.append(shown)

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows only."""
        self._held.keep(rows)

    def join(self, other: "PastStore") -> None:
        """Add the rows of another batch."""
        self._held.join(other._held)

    def trim(self, n_first: int) -> None:
        """Forget the first positions, which are padding in every row."""
        if not self._held.is_empty:
            self._held.trim(n_first)
