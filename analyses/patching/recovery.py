"""How much of the clean prediction each patch brings back, and each cut takes away."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from analyses.instruments.knockout import Prefix, cut_logits, logits_at
from analyses.instruments.patching import (
    Patch,
    Site,
    hook_name,
    patch_hooks,
    record,
)
from analyses.patching.pairs import Pair
from analyses.patching.targets import STEP_SITES, head_patches, path_cuts, step_patches
from step_saliency.models.facts import n_heads, n_layers

Direction = Literal["denoising", "noising"]
KEYS = ["kind", "direction", "site", "layer", "head", "role"]


def logit_diff(logits: Float[Tensor, "vocab"], pair: Pair) -> float:
    """Logit of the correct minus logit of the wrong token."""
    both = logits[[pair.correct, pair.wrong]].detach().double()
    return float(both[0] - both[1])


def patched_logit_diffs(
    model: Any, pair: Pair, patches: Sequence[Patch], *, direction: Direction, batch_size: int = 16
) -> list[float]:
    """Logit difference under each patch.

    Of a patch, only the positions from its first on are computed; before the source the two
    sequences are the same.
    """
    into, source = pair.corrupted.tokens, pair.clean.tokens
    if direction == "noising":
        into, source = source, into
    diffs = []
    for site in get_args(Site):
        of_site = [i for i, patch in enumerate(patches) if patch.site == site]
        names = list(dict.fromkeys(hook_name(site, patches[i].layer) for i in of_site))
        sources = record(model, source, names) if names else {}
        for first, places in _by_first(pair, patches, of_site).items():
            prefix = Prefix.shared(model, into[:first])
            for start in range(0, len(places), batch_size):
                batch = places[start : start + batch_size]
                hooks = patch_hooks([patches[i] for i in batch], sources, len(into))
                tokens = into.expand(len(batch), -1)
                logits = logits_at(model, tokens, [pair.position], hooks, prefix=prefix)[:, 0]
                diffs += [(i, logit_diff(row, pair)) for i, row in zip(batch, logits, strict=True)]
    return [value for _, value in sorted(diffs)]


def _by_first(pair: Pair, patches: Sequence[Patch], places: Sequence[int]) -> dict[int, list[int]]:
    """Patches by the first position that they can change."""
    origin = pair.clean.steps[pair.source_step].start
    groups: dict[int, list[int]] = {}
    for place in places:
        first = max(origin, min(patches[place].positions, default=origin))
        groups.setdefault(first, []).append(place)
    return groups


def patch_pair(
    model: Any,
    pair: Pair,
    *,
    sites: Sequence[Site] = STEP_SITES,
    directions: Sequence[Direction] = ("denoising", "noising"),
    heads: bool = True,
    paths: bool = True,
    layers: Sequence[int] | None = None,
    min_gap: float = 1.0,
    batch_size: int = 16,
) -> pd.DataFrame:
    """Every patch of one pair.

    Args:
        model: HookedTransformer or TransformerBridge.
        pair: Two matching sequences.
        sites: What is patched by step and layer.
        directions: Which run is patched.
        heads: Patch single heads as well.
        paths: Cut the paths from the source to what is read as well.
        layers: Layers; all by default.
        min_gap: Smallest d_clean - d_corrupted, in logits, at which a pair counts.
        batch_size: Patches computed together.

    Returns:
        One row per direction, site, layer, head and step (``role``): ``recovery, logit_diff``, with
        ``problem, kind, clean, corrupted`` (logit differences) and ``dropped``; a pair whose gap is
        too small is one row, with ``dropped`` set and nothing else.
    """
    of_layers = range(n_layers(model)) if layers is None else layers
    clean, corrupted = (
        logit_diff(logits_at(model, trace.tokens[None], [pair.position])[0, 0], pair)
        for trace in (pair.clean, pair.corrupted)
    )
    facts: dict[str, Any] = {
        "problem": pair.problem,
        "kind": pair.kind,
        "clean": clean,
        "corrupted": corrupted,
    }
    if clean - corrupted < min_gap:
        return typed(pd.DataFrame([{**facts, "dropped": True}]))
    patches = step_patches(pair, of_layers, sites)
    patches += head_patches(pair, of_layers, n_heads(model)) if heads else []
    rows: list[dict[str, Any]] = []
    for direction in directions:
        diffs = patched_logit_diffs(
            model, pair, patches, direction=direction, batch_size=batch_size
        )
        for patch, value in zip(patches, diffs, strict=True):
            names = ("site", "layer", "head", "role", "step")
            row = {name: getattr(patch, name) for name in names}
            rows.append({**row, "direction": direction, "logit_diff": value})
    if paths:
        rows += _cut_paths(model, pair, of_layers, batch_size)
    table = pd.DataFrame(rows).assign(**facts, dropped=False)
    table["recovery"] = (table["logit_diff"] - corrupted) / (clean - corrupted)
    return typed(table)


def _cut_paths(
    model: Any, pair: Pair, layers: Sequence[int], batch_size: int
) -> list[dict[str, Any]]:
    cuts = path_cuts(pair, layers)
    whole = [path in ("indirect", "both") for path, _, _ in cuts]
    # those of the direct path begin at the step that is read, and what is before is computed once
    found: dict[int, Tensor] = {}
    for some in (True, False):
        chosen = [i for i, is_whole in enumerate(whole) if is_whole == some]
        logits = cut_logits(
            model,
            pair.clean.tokens,
            [cuts[i][2] for i in chosen],
            [pair.position],
            batch_size=batch_size,
        )
        found |= dict(zip(chosen, logits, strict=True))
    shared = {"site": "edge", "direction": "noising"}
    return [
        {**shared, "role": path, "layer": layer, "logit_diff": logit_diff(found[i][0], pair)}
        for i, (path, layer, _) in enumerate(cuts)
    ]


COLUMNS = {
    "problem": "string",
    "kind": "string",
    "direction": "string",
    "site": "string",
    "layer": "Int64",
    "head": "Int64",
    "role": "string",
    "step": "Int64",
    "recovery": "float64",
    "logit_diff": "float64",
    "clean": "float64",
    "corrupted": "float64",
    "dropped": "bool",
}


def typed(table: pd.DataFrame) -> pd.DataFrame:
    return table.reindex(columns=list(COLUMNS)).astype(COLUMNS)
