"""The maps that are held against the effects, each pooled and reduced to the scope of a cut."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from analyses.faithfulness.effects import (
    Scope,
)
from analyses.instruments.maps import UNPOOLED, Maps, ObjectiveUsed, all_maps
from analyses.instruments.peers_span import METHOD, digest_of
from step_saliency.options import Pool, Rows
from step_saliency.saliency.api import answer_positions
from step_saliency.saliency.pooling import (
    StepLayout,
    defined_pairs,
    mean_over_layers,
    normalise,
)
from step_saliency.tasks import EdgeMatrices
from step_saliency.trace import Trace

PEERS = (METHOD,)
"""Methods of other packages, which have one map for the whole model."""


def readings(
    source: Maps, layout: StepLayout, scope: Scope, pools: Sequence[Pool]
) -> Iterator[tuple[str | None, Float[Tensor, "step step"]]]:
    """A map pooled each way, for the layers and head of a scope; nothing where it has no such."""
    maps, windows = source.maps, source.windows
    if source.method in UNPOOLED:
        yield None, maps[0, 0]
        return
    if source.method in PEERS:
        if scope.name != "all":
            return
        totals = maps[:, 0]
    elif source.method == "rollout":
        if scope.head is not None:
            return
        totals = maps[[max(scope.layers)], 0]
    else:
        of_layers = maps[list(scope.layers)]
        totals = of_layers.mean(1) if scope.head is None else of_layers[:, scope.head]
        windows = [windows[layer] for layer in scope.layers] if windows else None
    seen = defined_pairs(layout, windows or [None] * len(totals))
    for pool in pools:
        yield pool, mean_over_layers(normalise(totals, layout, pool, windows=windows), seen)


def gold_map(edges: EdgeMatrices) -> Maps:
    """The known step graph as a map of zeros and ones."""
    return Maps("gold", None, (edges.premise | edges.step).float()[None, None])


def read_peers(path: str | Path, trace: Trace, *, rows: Rows) -> list[Maps]:
    """Maps of one trace that `analyses.instruments.peers_span` wrote.

    Raises:
        ValueError: the file has no map of this trace, with these rows.
    """
    name, digest = trace.meta.get("problem") or trace.id, digest_of(trace.tokens.tolist())
    maps = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if (entry["problem"], entry["tokens"], entry["rows"]) == (name, digest, rows):
            matrix = torch.tensor(entry["map"])[None, None]
            maps.append(Maps(entry["method"], None, matrix))
    if not maps:
        raise ValueError(
            f"{path} has no map of the tokens of {name!r} with rows={rows!r}; write the traces anew"
        )
    return maps


def trace_maps(
    model: Any, trace: Trace, *, rows: Rows, seed: int, edges: EdgeMatrices | None
) -> list[Maps]:
    """Every map of a trace; those about the answer only where there is one."""
    objectives: tuple[ObjectiveUsed, ...] = get_args(ObjectiveUsed)
    if not answer_positions(trace):
        objectives = tuple(name for name in objectives if name not in ("answer", "logit_diff"))
    maps = list(all_maps(model, trace, rows=rows, seed=seed, saliency=objectives))
    return maps + ([gold_map(edges)] if edges is not None else [])
