"""Which keys the newest query of each request has in its bridge and in its current part.

One table for all requests of an engine. While a request stays in its region (or step), a new token
changes nothing but its own entry, so a pass writes one number a request, all of them at once; where
the region changes, the request's row is written anew.
"""

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from step_saliency.vllm.requests import RequestSteps

ROOM = 256
"""Places for keys that are made at least when a table grows."""

Newest = tuple[str, RequestSteps, int]
"""A request, its steps, and the number of its keys, those of its newest query among them."""


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

    def forget(self, requests: Iterable[str]) -> None:
        """Free the places of requests."""
        for request in requests:
            if request in self._places:
                self._free.append(self._places.pop(request))
                self._written.pop(request, None)

    def up_to_date(self, newest: Sequence[Newest]) -> Int[Tensor, "row"]:
        """Places of requests whose members are those of their newest query now."""
        self._make_room(newest)
        follows = [self._follows(*each) for each in newest]
        self._append([each for each, is_next in zip(newest, follows, strict=True) if is_next])
        for request, steps, n_keys in (
            each for each, is_next in zip(newest, follows, strict=True) if not is_next
        ):
            of_keys = steps.members(n_keys - 1, n_keys)[0].T
            self.members[self._places[request], :, :n_keys] = of_keys.to(self.members)
        for request, steps, n_keys in newest:
            self._written[request] = (steps.part(n_keys), n_keys)
        places = [self._places[request] for request, _, _ in newest]
        return torch.tensor(places, device=self.members.device)

    def _follows(self, request: str, steps: RequestSteps, n_keys: int) -> bool:
        return self._written.get(request) == (steps.part(n_keys), n_keys - 1)

    def _append(self, newest: Sequence[Newest]) -> None:
        """Write the newest token of each request, which is current if it is written text."""
        if newest:
            device = self.members.device
            places = torch.tensor([self._places[request] for request, _, _ in newest])
            keys = torch.tensor([n_keys - 1 for _, _, n_keys in newest])
            current = torch.tensor([float(steps.is_written(n)) for _, steps, n in newest])
            both = torch.stack([torch.zeros_like(current), current], -1)
            self.members[places.to(device), :, keys.to(device)] = both.to(device)

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
