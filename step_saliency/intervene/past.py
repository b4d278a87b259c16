"""Activations of all positions so far, while passes show the new ones only."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


class PastStore:
    """One activation of all positions so far, of which every pass shows the new ones.

    The buffer doubles when it is full; a single pass is kept as it is, with its gradient.
    """

    def __init__(self) -> None:
        self._held: Float[Tensor, "batch key ..."] | None = None
        self._length = 0
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
        assert self._held is not None
        return self._held[:, :n_keys]

    def _write(self, shown: Float[Tensor, "batch pos ..."], n_keys: int) -> None:
        start = n_keys - shown.shape[1]
        if start == 0:
            self._held = shown
        elif self._held is None or self._length < start or len(self._held) != len(shown):
            raise ValueError(
                f"the model has {start} earlier positions in its cache, of which {self._length} "
                "were seen here: fill its cache inside of the context too"
            )
        elif shown.requires_grad or self._held.requires_grad:
            self._held = torch.cat([self._held[:, :start], shown], 1)
        else:
            self._held = _with_room(self._held, start, n_keys)
            self._held[:, start:n_keys] = shown
        self._length = n_keys

    def keep(self, rows: Int[Tensor, "row"]) -> None:
        """Go on with these rows only."""
        if self._held is not None:
            self._held = self._held[rows.to(self._held.device)]


def _with_room(
    held: Float[Tensor, "batch key ..."], length: int, needed: int
) -> Float[Tensor, "batch capacity ..."]:
    if held.shape[1] >= needed and not held.is_inference():
        return held
    with torch.inference_mode(False):
        shape = (held.shape[0], max(2 * length, needed), *held.shape[2:])
        roomy = torch.empty(shape, dtype=held.dtype, device=held.device)
    roomy[:, :length] = held[:, :length]
    return roomy
