"""Does a saliency map predict what happens when an edge is cut?

For every query step i (thinking or summary) and earlier key step j (template left out), the
attention from i to j is cut in all layers, in a band of layers or in one head
(`analyses.instruments.knockout`), and measured against the uncut run:

    kl          mean over the predictions of step i of KL(uncut || cut), in nats
    loss        change of step i's mean cross-entropy, in nats per token
    answer      change of the answer's mean cross-entropy (the summary's tokens)
    logit_diff  change of the logit of the answer's first token against its strongest rival

(the last two for cuts in all layers)

How well does a map predict it?

    rho_kl, rho_loss, ...  Spearman's rho between the map's row and the size of the effect, mean
                           over the rows of a trace
    deletion     kl, summed over the steps i, when in each row the edges that the map ranks highest
                 are cut together, as a share of kl with all cut: rises early for a good map
    insertion    the same when only these edges are left: falls early for a good map
    *_auc        area under such a curve over the fraction of edges, by the trapezoid rule

Maps: those of `analyses.instruments.maps` under every objective and pooling; ``gold``, the known
step graph of the bundled task; in the curves also ``oracle``, the order of the measured single
effects, and ``worst``, its reverse. A band's cut is held against the map's mean over the band's
layers, a head's against the head's map. ``auroc_gold`` (method ``knockout``) says how well the
measured effects themselves find the edges of the gold graph.

Rows: ``rows="target"`` takes as step i the predictions *of* its tokens, ``"query"`` those made *at*
its tokens; the same positions are cut, measured and pooled.

When it misleads: a cut removes an edge and scales up what is left, at every strength at once, where
saliency is a derivative; effects of redundant edges vanish one by one and not together (compare
the curves). Rows with fewer than three keys, or on which a map is constant, are left out, as are
key steps that the sliding windows of all layers of a scope hide: there is no edge to cut. Responses
that are not the model's own ask about text that it would not have written.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Unpack

import pandas as pd

from analyses.faithfulness.agreement import KEYS, correlations, gold_agreement
from analyses.faithfulness.curves import curves
from analyses.faithfulness.design import Design, DesignOptions
from analyses.faithfulness.effects import (
    edge_effects,
    rows_of_edges,
    scopes,
)
from analyses.faithfulness.readings import read_peers, trace_maps
from analyses.faithfulness.summary import differences, summarise
from analyses.material.problems import Item, SourceSettings, item_trace, item_units
from analyses.running.runner import MAPS, Analysis, Unit
from analyses.running.settings import option
from step_saliency.models.facts import n_layers
from step_saliency.models.windows import windows
from step_saliency.saliency.pooling import step_layout
from step_saliency.tasks import EdgeMatrices
from step_saliency.trace import Trace

COLUMNS = ["problem", *KEYS, "value", "n_rows"]


def faithfulness(
    model: Any,
    traces: Sequence[Trace],
    *,
    edges: Sequence[EdgeMatrices | None] | None = None,
    peers: str | Path | None = None,
    seed: int = 0,
    design: Design | None = None,
    **options: Unpack[DesignOptions],
) -> pd.DataFrame:
    """Hold every map of every trace against measured cuts.

    Args:
        model: HookedTransformer or TransformerBridge.
        traces: Traces; ``meta["problem"]`` names the problem, else ``id``.
        edges: Gold graph of each trace, where known.
        peers: File of other packages' maps of these traces, see `analyses.instruments.peers_span`.
        seed: Of the choice and of the random map.
        design: What is cut, and how maps are read.
        options: Fields of the design that are to be others.

    Returns:
        One row per problem, method, objective, pool, scope, measure and fraction (of curves):
        ``value`` and ``n_rows``, the number of rows it is the mean of.
    """
    changed = replace(design or Design(), **options)
    known = [None] * len(traces) if edges is None else list(edges)
    frames = []
    for number, (trace, gold) in enumerate(zip(traces, known, strict=True)):
        rows = trace_values(model, trace, changed, gold=gold, peers=peers, seed=seed + number)
        name = trace.meta.get("problem") or trace.id
        frames.append(pd.DataFrame(rows, columns=COLUMNS[1:]).assign(problem=name))
    frames = [frame for frame in frames if len(frame)]
    if not frames:
        return pd.DataFrame(columns=COLUMNS)
    table = pd.concat(frames, ignore_index=True)
    names = {key: "string" for key in ["problem", *KEYS] if key != "fraction"}
    return table.astype({**names, "fraction": float, "value": "float32"})[COLUMNS]


def trace_values(
    model: Any,
    trace: Trace,
    design: Design,
    *,
    gold: EdgeMatrices | None,
    peers: str | Path | None,
    seed: int,
) -> list[dict[str, Any]]:
    """Every measure of one trace; none where it has too few steps."""
    layout = step_layout(trace.step_ids, rows=design.rows)
    limits = {"max_rows": design.max_rows, "max_keys": design.max_keys}
    keys_of_rows = rows_of_edges(trace, layout, seed=seed, of_layers=windows(model), **limits)
    if not keys_of_rows:
        return []
    where = scopes(n_layers(model), bands=design.bands, heads=design.heads)
    size = design.batch_size
    effects = edge_effects(model, trace, keys_of_rows, layout, where, batch_size=size)
    maps = trace_maps(model, trace, rows=design.rows, seed=seed, edges=gold)
    maps += [] if peers is None else read_peers(peers, trace, rows=design.rows)
    values = list(correlations(effects, maps, layout, where, design.pools))
    if gold is not None:
        values += gold_agreement(effects, gold)
    if design.with_curves:
        values += curves(model, trace, effects, maps, layout, design.curve_pools, batch_size=size)
    return values


@dataclass(frozen=True, kw_only=True)
class FaithfulnessSettings(SourceSettings):
    """Problems, and what is cut."""

    rows: Literal["target", "query"] = "target"
    heads: tuple[str, ...] = option((), "heads to cut in", metavar="L3H1")
    bands: bool = True
    curves: bool = True
    max_rows: int | None = option(None, "query steps of a trace, at random")
    max_keys: int | None = option(None, "key steps of a query step, at random")
    peers: Path | None = option(None, "maps of other packages, by peers_span.py")
    batch_size: int = 16


def run_unit(model: Any, unit: Unit, settings: FaithfulnessSettings) -> pd.DataFrame:
    """One problem."""
    item: Item = unit.payload
    trace = item_trace(model, item, settings)
    design = Design(
        rows=settings.rows,
        heads=[_parse_head(name) for name in settings.heads],
        bands=settings.bands,
        with_curves=settings.curves,
        max_rows=settings.max_rows,
        max_keys=settings.max_keys,
        batch_size=settings.batch_size,
    )
    seed = unit.seed % 2**31
    edges = [_known_edges(item, trace)]
    return faithfulness(model, [trace], edges=edges, peers=settings.peers, seed=seed, design=design)


def _known_edges(item: Item, trace: Trace) -> EdgeMatrices | None:
    """Gold graph; none of a row of a file, or of a response in another notation than the task's."""
    try:
        return item.problem.edges(trace) if item.problem is not None else None
    except ValueError:
        return None


def _parse_head(name: str) -> tuple[int, int]:
    layer, _, head = name.removeprefix("L").partition("H")
    if not (name.startswith("L") and layer.isdigit() and head.isdigit()):
        raise ValueError(f"{name!r} is no head; write L3H1 for head 1 of layer 3")
    return int(layer), int(head)


def tables(values: pd.DataFrame, settings: FaithfulnessSettings) -> dict[str, pd.DataFrame]:
    """Means and paired differences; none where no trace has steps enough."""
    if values.empty:
        return {}
    seed = settings.seed
    return {
        "summary": summarise(values, seed=seed),
        "differences": differences(values, seed=seed),
    }


ANALYSIS = Analysis(
    "faithfulness",
    FaithfulnessSettings,
    item_units,
    run_unit,
    tables,
    checks=(*MAPS, "score_edits", "cached_decoding"),
    keep_values=False,
)
