"""Bridge and current part of single queries: which keys, grown pass after pass, and how much moves.

Nothing here waits for the device.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from step_saliency.intervene.fast.call import masked
from step_saliency.intervene.groups import KeyGroup
from step_saliency.intervene.labels import WRITTEN, StepLabels
from step_saliency.intervene.oeb.edit import OddsEqualBridge
from step_saliency.intervene.oeb.masses import visible_keys
from step_saliency.intervene.oeb.projection import bridge_floor
from step_saliency.intervene.rows import Label


class GrownMembers:
    """Members of bridge and current part for single queries, pass after pass.

    While every row stays in its region (and step, if that is what is current), a pass changes
    nothing but that its own token is current to it.
    """

    def __init__(self, edit: OddsEqualBridge) -> None:
        self._edit = edit
        self._places: list[tuple[int, int]] = []
        self._held: Float[Tensor, "batch capacity 2"] = torch.empty(0, 0, 2)
        self._length = 0

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
        places = [(row[-1][1], row[-1][0] if by_step else 0) for row in newest]
        goes_on = places == self._places and self._length == len(labels) - 1
        if goes_on and self._held.shape[1] > self._length and self._held.dtype == dtype:
            own = [[0.0, float(region in WRITTEN)] for region, _ in places]
            self._held[:, self._length] = torch.tensor(own, dtype=dtype, device=self._held.device)
        else:
            self._fill(labels, dtype)
        self._places, self._length = places, len(labels)
        return self._held[:, : self._length]

    def _fill(self, labels: StepLabels, dtype: torch.dtype) -> None:
        groups = self._edit.groups(labels, 1)[:, 0]
        members = torch.stack([groups == KeyGroup.BRIDGE, groups == KeyGroup.CURRENT], dim=-1)
        room = len(labels) // 2 + 64
        self._held = torch.nn.functional.pad(members.to(dtype), (0, 0, 0, room))


@dataclass(frozen=True, eq=False)
class PassGroups:
    """What the layers of one pass of single queries share.

    Attributes:
        members: 1 where a visible key is in the bridge (0) or the current part (1).
        gaining: The transpose, with -1 for the current part, which gives what the bridge gets.
        counts: Visible keys of the bridge and of the current part.
        floor: sqrt(|B| / (|B| + |S|)); 0 in rows without a bridge or without a current part.
        bias: 0 at visible keys and the lowest number elsewhere; None if all are visible.
    """

    members: Float[Tensor, "batch key 2"]
    gaining: Float[Tensor, "batch 2 key"]
    counts: tuple[Float[Tensor, "batch 1"], Float[Tensor, "batch 1"]]
    floor: Float[Tensor, "batch 1"]
    bias: Float[Tensor, "batch 1 key"] | None

    @classmethod
    def of(cls, members: Float[Tensor, "batch key 2"], mask: Tensor | None) -> "PassGroups":
        """From the members among the keys of a layer, and its mask."""
        bias = None
        if mask is not None:
            nothing = torch.zeros((), dtype=members.dtype, device=mask.device)
            bias = masked(nothing.expand(mask.shape), mask)[:, 0]
            visible = mask[:, 0] if mask.dtype == torch.bool else visible_keys(bias)
            members = members * visible.mT
        counts = members.sum(1)
        n_bridge, n_current = counts.unsqueeze(-1).unbind(1)
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

    def of(
        self, edit: OddsEqualBridge, mask: Tensor | None, n_keys: int, dtype: torch.dtype
    ) -> PassGroups:
        """The groups among the last keys.

        Args:
            edit: Whose bridge and current part.
            mask: Mask of the layer; layers of one kind are handed the same tensor.
            n_keys: Keys that the layer holds.
            dtype: Type of the members.
        """
        kind = edit.bridge, edit.current, n_keys, dtype
        for known, of_mask, groups in self._by_mask:
            if known == kind and of_mask is mask:
                return groups
        members = self._members_of(edit, dtype)
        groups = PassGroups.of(members[:, len(self.labels) - n_keys :], mask)
        self._by_mask.append((kind, mask, groups))
        return groups

    def _members_of(
        self, edit: OddsEqualBridge, dtype: torch.dtype
    ) -> Float[Tensor, "batch key 2"]:
        kind = edit.bridge, edit.current, dtype
        if kind not in self._members:
            grown = self._grown.setdefault(kind, GrownMembers(edit))
            self._members[kind] = grown.of(self.labels, self.newest, dtype)
        return self._members[kind]


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
