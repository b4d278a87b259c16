"""Is it the bridge, the layer, the boundary, the content, or just any push of that size?

What an intervention does, with one thing about it made meaningless and all else kept:

    bridge       as many keys on the bridge, but drawn at random from bridge and current part
    block        as many keys that follow each other, at a random place for each step
    permuted     the bridge, with the odds between its keys handed around
    smooth       the same rows, moved as far (equal KL), by a temperature instead of a bridge
    layers       as many layers, others
    boundaries   the same vectors, not where steps begin; those past the end are lost (`injections`)
    direction    injected vectors of the same norm, in random directions
    other        injected vectors of the same norm, from steps of other traces

All draws but that of layers are hashes of the seed and of places in the sequence: the same in a
cached pass and a full one, alone and in a batch, on any device.

When they mislead: keys drawn from bridge and current part are often those of the bridge itself, if
it is the larger part (in expectation |B| / (|B| + |S|) of them), so that a random bridge can work
for that reason; "smooth" holds what all keys together have, not what the rest O has; the layers
next to a band can do what the band does.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from step_saliency.intervene.choices import Source
from step_saliency.intervene.expected import listed_traces
from step_saliency.intervene.hashing import HASH_RANGE, hashed
from step_saliency.intervene.reading import activations_of
from step_saliency.models.bands import spell_layers
from step_saliency.models.hooking import live_names
from step_saliency.segment.regions import Region
from step_saliency.trace import Trace


def random_layers(
    n_layers: int, n: int, seed: int = 0, *, avoid: Collection[int] = ()
) -> tuple[int, ...]:
    """Different layers at random, in order.

    Args:
        n_layers: Layers of the model.
        n: How many to draw.
        seed: Seed of the draw.
        avoid: Layers that are not to be drawn.

    Returns:
        Ascending layers, the same for the same arguments.

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
        layer: Layer, which is part of the draw.
        seed: Seed.
    """
    entries = torch.arange(math.prod(like.shape[1:]), device=like.device).view(like.shape[1:])
    at = positions.to(like.device).view(-1, *[1] * (like.ndim - 1))
    even = [
        ((hashed(seed, layer, at, entries, part).double() + 0.5) / HASH_RANGE) for part in range(2)
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

    def __repr__(self) -> str:
        n_entries = max(map(len, self.values.values()), default=0)
        return f"MomentumBank({n_entries} steps, layers {spell_layers(tuple(self.values))})"

    def drawn(
        self,
        source: Source,
        positions: Int[Tensor, "injection"],
        *,
        layer: int,
        seed: int,
    ) -> Float[Tensor, "injection *head dim"]:
        """A random entry for each injection, the same in all layers.

        Raises:
            ValueError: the bank lacks the layer.
        """
        entries = (self.values if source == "value" else self.resid).get(layer)
        if entries is None:
            raise ValueError(
                f"the bank has no layer {layer}, only {sorted(self.values)}; make it with "
                "momentum_bank(model, traces, layers=...)"
            )
        numbers = hashed(seed, positions) % len(entries)
        return entries.to(positions.device)[numbers]


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

    Returns:
        By layer: ``values`` [step, kv_head, d_head] and ``resid`` [step, d_model], in the order of
        the traces.

    Raises:
        ValueError: no trace has a thinking step.
    """
    points = ("attn.hook_v", "hook_resid_post")
    names = live_names(model, [f"blocks.{layer}.{point}" for layer in layers for point in points])
    entries: dict[str, list[Tensor]] = {name: [] for name in names}
    for trace in tqdm(listed_traces(traces), unit="trace", disable=not progress):
        spans = [(s.start, s.stop) for s in trace.steps if s.region is Region.THINKING]
        for name, means in _step_means(model, trace, names, spans).items():
            entries[name].extend(means)
    if not all(entries.values()):
        raise ValueError("no trace has a thinking step to take momentum from")
    stacked = {name: torch.stack(of_point) for name, of_point in entries.items()}
    return MomentumBank(
        values={layer: stacked[f"blocks.{layer}.{points[0]}"] for layer in layers},
        resid={layer: stacked[f"blocks.{layer}.{points[1]}"] for layer in layers},
    )


def _step_means(
    model: Any, trace: Trace, names: Sequence[str], spans: Sequence[tuple[int, int]]
) -> dict[str, Float[Tensor, "step ..."]]:
    """Mean of each hook point over the tokens of each span."""
    if not spans:
        return {}

    def means(activation: Float[Tensor, "pos ..."]) -> Float[Tensor, "step ..."]:
        return torch.stack([activation[start:stop].mean(0) for start, stop in spans])

    return activations_of(model, trace, names, means)
