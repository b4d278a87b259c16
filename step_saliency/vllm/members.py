"""Which keys the newest query of each request has in its bridge and in its current part.

One table for all requests of an engine. While a request stays in its region (or step), a new token
changes nothing but its own entry, so a pass writes one number a request, all of them at once; where
the region changes, the request's row is written anew.
"""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from step_saliency.vllm.requests import RequestSteps

ROOM = 256
"""Places for keys that are made at least when a table grows."""

Newest = tuple[str, RequestSteps, int]
"""A request, its steps, and the number of its keys, its newest query, of a region that the model
writes, among them."""


class MemberTable:
    """Members of every running request.

    Args:
        device: Where the engine computes.
    """

    def __init__(self, device: torch.device) -> None:
        self.members: Float[Tensor, "place 2 key"] = torch.zeros(0, 2, 0, device=device)
        self._places: dict[str, int] = {}
        self._free: list[int] = []
        self._written: dict[str, tuple[tuple[int, int], int]] = {}

    def __len__(self) -> int:
        """Requests that have a place."""
        return len(self._places)

    @property
    def places(self) -> Mapping[str, int]:
        """Place of each request that has one."""
        return MappingProxyType(self._places)

    def forget(self, requests: Iterable[str]) -> None:
        """Free the places of requests."""
        for request in requests:
            if request in self._places:
                self._free.append(self._places.pop(request))
                self._written.pop(request, None)

    def up_to_date(self, newest: Sequence[Newest]) -> Int[np.ndarray, "row"]:
        """Places of requests whose members are those of their newest query now."""
        self._make_room(newest)
        places = [self._places[request] for request, _, _ in newest]
        grown: list[tuple[int, int]] = []
        for place, (request, steps, n_keys) in zip(places, newest, strict=True):
            part = steps.part(n_keys)
            if self._written.get(request) == (part, n_keys - 1):
                grown.append((place, n_keys - 1))
            else:
                of_keys = torch.from_numpy(steps.newest_members(n_keys))
                self.members[place, :, :n_keys] = of_keys.to(self.members.device)
            self._written[request] = (part, n_keys)
        self._append(grown)
        return np.array(places)

    def _append(self, grown: Sequence[tuple[int, int]]) -> None:
        """Write newest tokens, each of which is of its own query's current part."""
        if grown:
            device = self.members.device
            places, keys = torch.from_numpy(np.array(grown)).to(device).unbind(-1)
            self.members[places, 0, keys] = 0
            self.members[places, 1, keys] = 1

    def _make_room(self, newest: Sequence[Newest]) -> None:
        for request, _, _ in newest:
            if request not in self._places:
                self._places[request] = self._free.pop() if self._free else len(self._places)
        n_places, _, n_keys = self.members.shape
        most_places = 1 + max(self._places.values(), default=-1)
        most_keys = max((n for _, _, n in newest), default=0)
        if most_places > n_places or most_keys > n_keys:
            larger = self.members.new_zeros(
                max(n_places, most_places + most_places // 2),
                2,
                n_keys if most_keys <= n_keys else most_keys + max(ROOM, most_keys // 2),
            )
            larger[:n_places, :, :n_keys] = self.members
            self.members = larger
