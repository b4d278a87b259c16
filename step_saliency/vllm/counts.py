"""What was done to each request: counters that are summed on the device and read when asked for."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from step_saliency.intervene.effects import Effects
from step_saliency.intervene.fast.counts import projection_counts

COUNTED_TOGETHER = 256
"""Batches of rows whose counters are summed together."""


@dataclass(eq=False)
class RequestCounts:
    """Effects of each request that is running or has ended and not been fetched.

    Attributes:
        kept: Ended requests whose effects are kept until they are fetched; older ones are dropped.
    """

    kept: int = 10_000
    _effects: dict[str, Effects] = field(default_factory=dict)
    _waiting: list[tuple[str, int, float, Tensor, Tensor]] = field(default_factory=list)

    def moved(
        self,
        request: str,
        layer: int,
        tau_max: float,
        sums: Float[Tensor, "query head 2"],
        counts: Float[Tensor, "query 2"],
    ) -> None:
        """Queries that a bridge saw."""
        self._waiting.append((request, layer, tau_max, sums, counts))
        if len(self._waiting) >= COUNTED_TOGETHER:
            self.settle()

    def injected(self, request: str, layer: int, n: int) -> None:
        """Momentum that was added."""
        self._of(request).add("smi", layer, injections=n)

    def settle(self) -> None:
        """Count all that waits."""
        together: dict[tuple[str, int, float], list[tuple[Tensor, Tensor]]] = {}
        for request, layer, tau, sums, counts in self._waiting:
            together.setdefault((request, layer, tau), []).append((sums, counts))
        self._waiting = []
        for (request, layer, tau), parts in together.items():
            sums, counts = (torch.cat(part) for part in zip(*parts, strict=True))
            seen = (counts > 0).all(-1)
            n_bridge, n_current = counts[seen].unsqueeze(-1).unbind(1)
            made = partial(projection_counts, tau=tau, heads=None)
            self._of(request).add("oeb", layer, **made(sums[seen], n_bridge, n_current))

    def _of(self, request: str) -> Effects:
        if request not in self._effects and len(self._effects) >= self.kept:
            del self._effects[next(iter(self._effects))]
        return self._effects.setdefault(request, Effects())

    def fetch(self, requests: Sequence[str] | None = None) -> dict[str, Effects]:
        """Effects of requests (by default of all), which are forgotten here."""
        self.settle()
        names = list(self._effects) if requests is None else requests
        return {name: self._effects.pop(name) for name in names if name in self._effects}
