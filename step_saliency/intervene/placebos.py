"""Is it the bridge, the layer, the boundary, the content, or just any push of that size?

What an intervention does, with one thing about it made meaningless and all else kept:

    bridge       as many keys on the bridge, but drawn by lot from bridge and current part
    smooth       the same rows, moved as far (equal KL), by a temperature instead of a bridge
    layers       as many layers, others
    boundaries   as many injections of the same vectors, but not where steps begin
    direction    injected vectors of the same norm, in random directions
    other        injected vectors of the same norm, from steps of other traces

All lots are hashes of the seed and of places in the sequence: the same in a cached pass and a full
one, alone and in a batch, on any device.

Moved boundaries. The injection at the first token s of a step moves to the first token from
s + d on that is in thinking or summary and begins no step, with d drawn evenly from 1 to the length
of the step before. How long a step will be is not known when it begins, so that an injection can
land in a later step; it is lost only if the sequence ends before.

When they mislead: lots among bridge and current part share many keys with the bridge itself where
the bridge is the larger part (in expectation |B| / (|B| + |S|) of them), so that a random bridge
can work for that reason; "smooth" holds what all keys together have, not what the rest O has; the
layers next to a band can do what the band does.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from step_saliency.intervene.labels import REGION_CODE, StepLabels, hashed
from step_saliency.models.facts import device_of
from step_saliency.models.hooking import live_names
from step_saliency.trace import Region, Trace

Placebo = Literal["bridge", "smooth", "layers", "boundaries", "direction", "other"]
PLACEBOS: tuple[Placebo, ...] = get_args(Placebo)
BOUNDARY_PLACEBOS = ("random",)
MOMENTUM_PLACEBOS = ("random", "other")

_ACTING = (REGION_CODE[Region.THINKING], REGION_CODE[Region.SUMMARY])
_LOT_RANGE = 2.0**62


def random_layers(
    n_layers: int, n: int, seed: int = 0, *, avoid: Collection[int] = ()
) -> tuple[int, ...]:
    """Different layers by lot, in order.

    Args:
        n_layers: Layers of the model.
        n: How many are wanted.
        seed: Seed of the lot.
        avoid: Layers that are not to be drawn.

    Raises:
        ValueError: there are not so many.
    """
    free = [layer for layer in range(n_layers) if layer not in set(avoid)]
    if not 1 <= n <= len(free):
        raise ValueError(
            f"n={n} layers cannot be drawn from {len(free)}: the model has {n_layers}, and "
            f"{sorted(set(avoid))} are to be avoided"
        )
    drawn = np.random.default_rng([seed, n_layers]).choice(free, size=n, replace=False)
    return tuple(sorted(drawn.tolist()))


@dataclass(frozen=True, eq=False)
class Injections:
    """Where momentum is injected, one entry each.

    Attributes:
        row: Row of the batch.
        start: Position of the first token of the step that the injection belongs to, in the
            padded sequence.
        target: Position where the vector is added.
        source: Step whose momentum it is: the last before that is no template.
    """

    row: Int[Tensor, "injection"]
    start: Int[Tensor, "injection"]
    target: Int[Tensor, "injection"]
    source: Int[Tensor, "injection"]


def injections(
    labels: StepLabels, n_queries: int, *, boundaries: str = "step", seed: int = 0
) -> Injections:
    """Injections into the last positions.

    Args:
        labels: What every position so far is.
        n_queries: The positions are the last ones, this many.
        boundaries: ``"step"``, first tokens of thinking and summary steps; or the placebo
            ``"random"``, of which the module docstring tells.
        seed: Seed of the lots.
    """
    acts = torch.isin(labels.region, torch.tensor(_ACTING, device=labels.region.device))
    starts = labels.starts & acts & (labels.previous >= 0)
    row, start = starts.nonzero().unbind(-1)
    source = labels.previous[row, start]
    target = start
    if boundaries == "random":
        target = _moved(labels, acts & ~labels.starts, row, start, source, seed)
    here = (target >= len(labels) - n_queries) & (target < len(labels))
    return Injections(row[here], start[here], target[here], source[here])


def _moved(
    labels: StepLabels,
    allowed: Tensor,
    row: Int[Tensor, "injection"],
    start: Int[Tensor, "injection"],
    source: Int[Tensor, "injection"],
    seed: int,
) -> Int[Tensor, "injection"]:
    n_keys = len(labels)
    length = (labels.step[row] == source[:, None]).sum(-1)
    delay = 1 + hashed(seed, labels.position[row, start]) % length
    places = torch.arange(n_keys, device=row.device)
    due = torch.where(allowed, places, n_keys).flip(-1).cummin(-1).values.flip(-1)
    none = due.new_full((len(due), 1), n_keys)
    return torch.cat([due, none], dim=1)[row, (start + delay).clamp(max=n_keys)]


def random_directions(
    like: Float[Tensor, "injection *head dim"],
    positions: Int[Tensor, "injection"],
    *,
    layer: int,
    seed: int,
) -> Float[Tensor, "injection *head dim"]:
    """Vectors in random directions with the norms of others, even over the sphere.

    Args:
        like: Vectors along the last axis.
        positions: Position of each injection's step in its own sequence.
        layer: Layer, which is part of the lot.
        seed: Seed.
    """
    entries = torch.arange(math.prod(like.shape[1:]), device=like.device).view(like.shape[1:])
    at = positions.to(like.device).view(-1, *[1] * (like.ndim - 1))
    even = [
        ((hashed(seed, layer, at, entries, part).double() + 0.5) / _LOT_RANGE) for part in range(2)
    ]
    normal = (-2 * even[0].log()).sqrt() * (2 * math.pi * even[1]).cos()
    return norm_matched(normal.to(like.dtype), like)


def norm_matched(
    vectors: Float[Tensor, "*lead dim"], like: Float[Tensor, "*lead dim"]
) -> Float[Tensor, "*lead dim"]:
    """Vectors scaled to the norms of others along the last axis; zero stays zero."""
    norm = vectors.norm(dim=-1, keepdim=True)
    tiny = torch.finfo(vectors.dtype).tiny
    return vectors / norm.clamp(min=tiny) * like.norm(dim=-1, keepdim=True)


@dataclass(frozen=True, eq=False)
class MomentumBank:
    """Momentum of steps of other traces, for ``momentum="other"``.

    Attributes:
        values: Mean value of each step's tokens, by layer.
        resid: Mean ``hook_resid_post`` of the same, by layer.
    """

    values: Mapping[int, Float[Tensor, "entry kv_head d_head"]]
    resid: Mapping[int, Float[Tensor, "entry d_model"]]

    def drawn(
        self,
        source: Literal["value", "resid_post"],
        positions: Int[Tensor, "injection"],
        *,
        layer: int,
        seed: int,
    ) -> Float[Tensor, "injection *head dim"]:
        """An entry by lot for each injection, the same in all layers.

        Raises:
            ValueError: the bank lacks the layer.
        """
        entries = (self.values if source == "value" else self.resid).get(layer)
        if entries is None:
            raise ValueError(
                f"the bank has no layer {layer}, only {sorted(self.values)}; make it with "
                "momentum_bank(model, traces, layers=...)"
            )
        lots = hashed(seed, positions) % len(entries)
        return entries.to(positions.device)[lots]


@torch.no_grad()
def momentum_bank(
    model: Any, traces: Iterable[Trace], *, layers: Sequence[int], progress: bool = True
) -> MomentumBank:
    """Mean values and residuals of the thinking steps of traces.

    Args:
        model: HookedTransformer or TransformerBridge.
        traces: Traces of other problems than those that the placebo will run on.
        layers: Layers that will be injected into.
        progress: Show a progress bar.

    Raises:
        ValueError: no trace has a thinking step.
    """
    points = ("attn.hook_v", "hook_resid_post")
    names = live_names(model, [f"blocks.{layer}.{point}" for layer in layers for point in points])
    found: dict[str, list[Tensor]] = {name: [] for name in names}
    for trace in tqdm(traces, unit="trace", disable=not progress):
        spans = [(s.start, s.stop) for s in trace.steps if s.region is Region.THINKING]

        def keep(
            activation: Tensor, hook: Any, name: str, spans: list[tuple[int, int]] = spans
        ) -> None:
            found[name] += [activation[0, start:stop].mean(0) for start, stop in spans]

        hooks = [
            (name, lambda x, hook, name=name, keep=keep: keep(x, hook, name)) for name in names
        ]
        tokens = trace.tokens[None].to(device_of(model))
        if spans:
            with model.hooks(fwd_hooks=hooks):
                model(tokens, attention_mask=torch.ones_like(tokens))
    if not all(found.values()):
        raise ValueError("no trace has a thinking step to take momentum from")
    made = {name: torch.stack(entries) for name, entries in found.items()}
    return MomentumBank(
        values={layer: made[f"blocks.{layer}.{points[0]}"] for layer in layers},
        resid={layer: made[f"blocks.{layer}.{points[1]}"] for layer in layers},
    )
