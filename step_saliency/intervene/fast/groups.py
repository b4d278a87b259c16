"""Bridge and current part of single queries: which keys, grown pass after pass, and how much moves.

Nothing here waits for the device.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from step_saliency.intervene.columns import Columns
from step_saliency.intervene.fast.call import masked
from step_saliency.intervene.groups import KeyGroup
from step_saliency.intervene.labels import PADDING, WRITTEN, StepLabels
from step_saliency.intervene.oeb.edit import OddsEqualBridge
from step_saliency.intervene.oeb.masses import visible_keys
from step_saliency.intervene.oeb.projection import bridge_floor
from step_saliency.intervene.rows import Label

Place: TypeAlias = tuple[int, int]
"""Region of a row's last position and, if a step is what is current, its step."""
OUTSIDE: Place = (PADDING, 0)
"""Place of rows whose last position is neither thinking nor summary: it has no groups."""


class GrownMembers:
    """Members of bridge and current part for single queries, pass after pass.

    While a row stays in its region (and step, if that is what is current), a pass changes nothing
    but that its own token is current to it; else the row is read from its labels anew.
    """

    def __init__(self, edit: OddsEqualBridge) -> None:
        self._edit = edit
        self._places: list[Place | None] = []
        self._held = Columns()

    def of(
        self,
        labels: StepLabels,
        newest: Sequence[Sequence[Label]],
        dtype: torch.dtype,
    ) -> Float[Tensor, "batch key 2"]:
        """1 where a key is in the bridge (0) or the current part (1) of the last position.

        Args:
            labels: What every position so far is.
            newest: Step, region and previous step of each row's last position.
            dtype: Type of the result.
        """
        by_step = self._edit.current == "step"
        places: list[Place | None] = [
            (region, step if by_step else 0) if region in WRITTEN else OUTSIDE
            for *_, (step, region, _) in newest
        ]
        self._grow(labels, places, dtype)
        pairs = enumerate(zip(places, self._places, strict=True))
        changed = [row for row, (now, before) in pairs if now != before]
        outside = [row for row in changed if places[row] == OUTSIDE]
        if outside:
            self._held.view[outside] = 0
        if len(outside) < len(changed):
            self._read_anew(labels, [row for row in changed if row not in outside], dtype)
        self._places = places
        held: Float[Tensor, "batch key 2"] = self._held.view
        return held

    def _grow(self, labels: StepLabels, places: Sequence[Place | None], dtype: torch.dtype) -> None:
        """Add the newest position; rows of which nothing is known get a place that is none."""
        device = labels.step.device
        if not self._places or len(self._held) != len(labels) - 1:
            self._held, self._places = Columns(), []
            self._held.append(torch.zeros(len(places), len(labels), 2, dtype=dtype, device=device))
        else:
            self._join(len(places) - len(self._places))
            own = [[0.0, float(place != OUTSIDE)] for place in places]
            self._held.append(torch.tensor(own, dtype=dtype, device=device).unsqueeze(1))
        self._places += [None] * (len(places) - len(self._places))

    def _join(self, n_rows: int) -> None:
        if n_rows:
            others = Columns()
            others.append(self._held.view.new_zeros(n_rows, 1, 2))
            self._held.join(others)

    def _read_anew(self, labels: StepLabels, rows: Sequence[int], dtype: torch.dtype) -> None:
        index = torch.tensor(rows, device=labels.step.device)
        groups = self._edit.groups(labels.each(lambda label: label[index]), 1)[:, 0]
        members = torch.stack([groups == KeyGroup.BRIDGE, groups == KeyGroup.CURRENT], dim=-1)
        self._held.view[index] = members.to(dtype)

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows only; others may come behind them.

        If one of them joined after the last pass that was asked for, all are read anew.
        """
        if any(row >= len(self._places) for row in rows):
            self._held, self._places = Columns(), []
            return
        self._places = [self._places[row] for row in rows]
        self._held.keep(rows)

    def trim(self, n_first: int) -> None:
        """Forget the first positions, which are padding in every row."""
        self._held.trim(n_first)


@dataclass(frozen=True, eq=False)
class PassGroups:
    """What the layers of one pass of single queries share.

    Attributes:
        members: 1 where a visible key is in the bridge (0) or the current part (1).
        gaining: The transpose, with -1 for the current part, which gives what the bridge gets.
        counts: Visible keys of the bridge and of the current part.
        floor: sqrt(|B| / (|B| + |S|)); 0 in rows without a bridge or without a current part.
        bias: 0 at visible keys and the lowest number elsewhere, for each row of the batch and head
            of keys; None if all are visible.
    """

    members: Float[Tensor, "batch key 2"]
    gaining: Float[Tensor, "batch 2 key"]
    counts: tuple[Float[Tensor, "batch 1"], Float[Tensor, "batch 1"]]
    floor: Float[Tensor, "batch 1"]
    bias: Float[Tensor, "rows 1 key"] | None

    @classmethod
    def of(
        cls, members: Float[Tensor, "batch key 2"], mask: Tensor | None, n_kv_heads: int
    ) -> "PassGroups":
        """From the members among the keys of a layer, its mask, and how many heads keys have."""
        bias = None
        if mask is not None:
            nothing = torch.zeros((), dtype=members.dtype, device=mask.device)
            bias = masked(nothing.expand(mask.shape), mask)[:, 0]
            visible = mask[:, 0] if mask.dtype == torch.bool else visible_keys(bias)
            members = members * visible.mT
            bias = bias.repeat_interleave(n_kv_heads, dim=0) if n_kv_heads > 1 else bias
        n_bridge, n_current = members.sum(1).split(1, dim=1)
        return cls(
            members=members,
            gaining=(members * members.new_tensor([1.0, -1.0])).mT,
            counts=(n_bridge, n_current),
            floor=bridge_floor(n_bridge, n_current, 1.0) * (n_current > 0),
            bias=bias,
        )


@dataclass(eq=False)
class SharedGroups:
    """The groups of the pass that is running, for all layers that need the same ones.

    Attributes:
        labels: What every position so far is.
        newest: Step, region and previous step of each row's last positions.
    """

    labels: StepLabels
    newest: Sequence[Sequence[Label]]
    _grown: dict[tuple[object, ...], GrownMembers] = field(default_factory=dict)
    _members: dict[tuple[object, ...], Float[Tensor, "batch key 2"]] = field(default_factory=dict)
    _by_mask: list[tuple[tuple[object, ...], Tensor | None, PassGroups]] = field(
        default_factory=list
    )

    def next_pass(self, labels: StepLabels, newest: Sequence[Sequence[Label]]) -> "SharedGroups":
        """Those of the pass that follows."""
        return SharedGroups(labels, newest, self._grown)

    def keep(self, rows: Sequence[int]) -> None:
        """The batch goes on with these rows only; others may come behind them."""
        for grown in self._grown.values():
            grown.keep(rows)

    def trim(self, n_first: int) -> None:
        """The first positions, padding in every row, are forgotten."""
        for grown in self._grown.values():
            grown.trim(n_first)

    def of(
        self,
        edit: OddsEqualBridge,
        mask: Tensor | None,
        n_keys: int,
        dtype: torch.dtype,
        n_kv_heads: int = 1,
        device: torch.device | None = None,
    ) -> PassGroups:
        """The groups among the last keys.

        Args:
            edit: Whose bridge and current part.
            mask: Mask of the layer; layers of one kind are handed the same tensor.
            n_keys: Keys that the layer holds.
            dtype: Type of the members.
            n_kv_heads: Heads that have keys of their own.
            device: Device of the layer and its mask; by default that of the labels.
        """
        device = device or self.labels.step.device
        kind = edit.bridge, edit.current, n_keys, n_kv_heads, dtype, device
        for known, of_mask, groups in self._by_mask:
            if known == kind and of_mask is mask:
                return groups
        members = self._members_of(edit, dtype, device)
        groups = PassGroups.of(members[:, len(self.labels) - n_keys :], mask, n_kv_heads)
        self._by_mask.append((kind, mask, groups))
        return groups

    def _members_of(
        self, edit: OddsEqualBridge, dtype: torch.dtype, device: torch.device
    ) -> Float[Tensor, "batch key 2"]:
        kind = edit.bridge, edit.current, dtype
        if kind not in self._members:
            grown = self._grown.setdefault(kind, GrownMembers(edit))
            self._members[kind] = grown.of(self.labels, self.newest, dtype)
        if (*kind, device) not in self._members:
            self._members[(*kind, device)] = self._members[kind].to(device)
        return self._members[(*kind, device)]


def relative_changes(
    sums: Float[Tensor, "batch head 2"], floor: Float[Tensor, "batch 1"]
) -> Float[Tensor, "batch head 2"]:
    """f_B - 1 and 1 - f_S of `odds_equal_factors`, in fewer operations.

    The bridge gets d = max(0, tau_B - p(B)), which the current part gives, so that f_B - 1 =
    d / p(B) and 1 - f_S = d / p(S); both are 0 where a row is left alone.

    Args:
        sums: Normalised mass of the bridge (0) and of the current part (1).
        floor: tau_B before it is capped; 0 in rows that are to be left alone.
    """
    bridge, current = sums.unbind(-1)
    pair = bridge + current
    tau = torch.where(floor < pair, floor, pair / 2)
    moved = torch.where(bridge > 0, tau - bridge, 0.0).clamp(min=0)
    return moved.unsqueeze(-1) / sums.clamp(min=torch.finfo(sums.dtype).tiny)
