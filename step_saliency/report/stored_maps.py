"""Which maps a page holds, and in how many bits.

The mean over layers and every layer are always there, in 16 bits, or in 8 where that would make the
file too large. Heads are stored in 8 bits; where not all fit, equally many of each layer, those
with the largest total, and in the room that is left the next largest of all layers.
"""

import math
from typing import Any

import torch

from step_saliency.models.bands import spell_layers
from step_saliency.report.packing import COARSE_DECADES, encoded_length, pack_maps
from step_saliency.saliency.result import StepSaliency


def maps_within(sal: StepSaliency, room: int) -> dict[str, Any]:
    """Maps of the mean over layers and of each layer, and of as many heads as there is room for.

    Args:
        sal: The maps.
        room: Characters that they may take.

    Returns:
        ``maps``, ``heads`` (None where there are none) and ``precision``, which says in words what
        was rounded and left out.
    """
    means = sal.mean_heads.detach().double()
    stacked = torch.cat([means.mean(0, keepdim=True), means])
    n_entries = means.shape[-1] * (means.shape[-1] + 1) // 2
    fine = encoded_length(2 * n_entries * len(stacked)) <= room
    defined = torch.cat([sal.defined[None], sal.seen])
    packed = pack_maps(stacked, defined, bits=16 if fine else 8)
    precision = "Entries are rounded to 0.2% or better." if fine else _coarse("Entries")
    if not sal.per_head:
        return {"maps": packed.to_json(), "heads": None, "precision": precision}
    left = room - encoded_length(packed.codes.nbytes)
    n_stored = min(sal.maps[:, :, 0, 0].numel(), max(0, left // encoded_length(n_entries)))
    heads = _heads(sal, n_stored)
    precision += f" {_coarse('Entries of single heads')}{_left_out(sal, n_stored, heads)}"
    return {"maps": packed.to_json(), "heads": heads, "precision": precision}


def _left_out(sal: StepSaliency, n_stored: int, heads: dict[str, Any] | None) -> str:
    """Which heads are not there, in words."""
    n_layers, n_heads = sal.maps.shape[:2]
    if n_stored == n_layers * n_heads:
        return ""
    text = (
        f" To keep the file small it holds {n_stored} of {n_layers * n_heads} heads, those with "
        "the largest total"
    )
    if each := n_stored // n_layers:
        text += f", at least {each} of each layer"
    elif heads is not None:
        some = [layer for layer, of in zip(sal.layers, heads["kept"], strict=True) if of]
        text += f", in layers {spell_layers(some)}"
    return f"{text}."


def _heads(sal: StepSaliency, n_stored: int) -> dict[str, Any] | None:
    if not n_stored:
        return None
    totals = sal.maps.detach().double().sum((-2, -1))
    first = totals.argsort(dim=1, descending=True).argsort(dim=1) < n_stored // len(totals)
    order = torch.where(first, math.inf, totals).flatten().argsort(descending=True, stable=True)
    is_stored = torch.zeros_like(first).flatten()
    is_stored[order[:n_stored]] = True
    is_stored = is_stored.view_as(first)
    seen = sal.seen.unsqueeze(1).expand(sal.maps.shape)
    packed = pack_maps(sal.maps[is_stored], seen[is_stored], bits=8)
    return {**packed.to_json(), "kept": [heads.nonzero().flatten().tolist() for heads in is_stored]}


def _coarse(subject: str) -> str:
    return f"{subject} are rounded to 3% and cut off {COARSE_DECADES:.0f} decades below the top."
