"""Does a saliency map predict what happens when an edge is cut?

For every query step i (thinking or summary) and earlier key step j (template left out), the
attention from i to j is cut in all layers, in a band of layers or in one head
(`analyses.instruments.knockout`), and measured against the uncut run:

    kl          mean over the predictions of step i of KL(uncut || cut), in nats
    loss        change of step i's mean cross-entropy, in nats per token
    answer      change of the answer's mean cross-entropy (the summary's tokens)
    logit_diff  change of the logit of the answer's first token against its strongest rival

(the last two for cuts in all layers)

How well does a map foretell it?

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
the curves). Rows with fewer than three keys, or on which a map is constant, are left out. Responses
that are not the model's own ask about text that it would not have written.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from analyses.gold_graph import rank_edges
from analyses.instruments.knockout import Cut, cut_logits, divergence, logits_at
from analyses.instruments.losses import cross_entropy
from analyses.instruments.maps import UNPOOLED, Maps, ObjectiveUsed, all_maps
from analyses.instruments.peers_span import METHOD, digest_of
from analyses.material.problems import Item, SourceSettings, item_trace, item_units
from analyses.running.runner import Analysis, Unit, main
from analyses.running.settings import option
from step_saliency.models.facts import n_layers
from step_saliency.options import Pool, Rows
from step_saliency.saliency.api import answer_positions
from step_saliency.saliency.pooling import StepLayout, normalise, step_layout
from step_saliency.stats.paired import paired_table
from step_saliency.stats.problems import mean_table
from step_saliency.stats.ranks import rank_correlation
from step_saliency.tasks import EdgeMatrices
from step_saliency.trace import Region, Trace

EFFECTS = ("kl", "loss", "answer", "logit_diff")
FRACTIONS = (0.1, 0.25, 0.5, 0.75)
KEYS = ["method", "objective", "pool", "scope", "measure", "fraction"]
PEERS = (METHOD,)
"""Methods of other packages, which have one map for the whole model."""
MIN_KEYS = 3
MIN_KL = 1e-3
"""Below it, in nats, there is nothing that a curve could share out."""


@dataclass(frozen=True)
class Scope:
    """Where edges are cut.

    Attributes:
        name: ``all``, a band, or ``L3H1``.
        layers: Layers.
        head: One head of these, or all.
    """

    name: str
    layers: tuple[int, ...]
    head: int | None = None


@dataclass(frozen=True)
class Rankings:
    """One row's edges as a map ranks them.

    Attributes:
        label: (method, objective, pool).
        scores: Score of each key step.
    """

    label: tuple[str, str | None, str | None]
    scores: Float[np.ndarray, "key_step"]


def scopes(total: int, *, bands: bool = True, heads: Sequence[tuple[int, int]] = ()) -> list[Scope]:
    """All layers, the bottom, middle and top third, and single heads (layer, head).

    Raises:
        ValueError: a layer that the model lacks.
    """
    beyond = [layer for layer, _ in heads if not 0 <= layer < total]
    if beyond:
        raise ValueError(f"layers {beyond} of the heads are not among 0 to {total - 1}")
    chosen = [Scope("all", tuple(range(total)))]
    if bands and total >= 3:
        cuts = [round(total * part / 3) for part in range(4)]
        names = ("bottom", "middle", "top")
        chosen += [Scope(names[i], tuple(range(cuts[i], cuts[i + 1]))) for i in range(3)]
    return chosen + [Scope(f"L{layer}H{head}", (layer,), head) for layer, head in heads]


def rows_of_edges(
    trace: Trace,
    layout: StepLayout,
    *,
    max_rows: int | None = None,
    max_keys: int | None = None,
    seed: int = 0,
) -> dict[int, list[int]]:
    """Key steps of every query step that is examined.

    Args:
        trace: Steps.
        layout: Which predictions are filed under which step.
        max_rows: Take so many query steps at random.
        max_keys: Take so many key steps of each at random.
        seed: Of the choice.
    """
    rng = np.random.default_rng([seed, 5])
    regions = trace.regions
    keys = [i for i, region in enumerate(regions) if region != Region.TEMPLATE]
    queries = [
        i
        for i, region in enumerate(regions)
        if region in (Region.THINKING, Region.SUMMARY) and layout.counts[i] > 0
    ]
    rows = {i: [j for j in keys if j < i] for i in queries}
    rows = {i: found for i, found in rows.items() if len(found) >= MIN_KEYS}
    chosen = list(rows)
    if max_rows is not None and len(chosen) > max_rows:
        chosen = sorted(rng.choice(chosen, max_rows, replace=False).tolist())
    return {i: _some(rows[i], max_keys, rng) for i in chosen}


def _some(keys: list[int], limit: int | None, rng: np.random.Generator) -> list[int]:
    if limit is None or len(keys) <= limit:
        return keys
    return sorted(rng.choice(keys, limit, replace=False).tolist())


def edge_effects(
    model: Any,
    trace: Trace,
    rows: Mapping[int, Sequence[int]],
    layout: StepLayout,
    where: Sequence[Scope],
    *,
    batch_size: int = 16,
) -> pd.DataFrame:
    """What each cut does.

    Args:
        model: HookedTransformer or TransformerBridge.
        trace: Tokens and steps.
        rows: Key steps of each query step.
        layout: Which predictions are filed under which step.
        where: Layers and heads in which edges are cut; what the cut does to the answer is measured
            for the first of them.
        batch_size: Cuts computed together.

    Returns:
        One row per query step, key step and scope: ``kl, loss, answer, logit_diff``; the last two
        are missing without a summary and for other scopes than the first.
    """
    answer = [position - 1 for position in answer_positions(trace)]
    found: list[dict[str, Any]] = []
    for query_step, key_steps in rows.items():
        queries = _positions(layout.row_steps, query_step)
        for read_at, some in ((answer, where[:1]), ([], where[1:])):
            reader = _Reader(trace.tokens, queries, read_at)
            names = [(scope, key) for scope in some for key in key_steps]
            cuts = [_cut(layout, queries, key, scope) for scope, key in names]
            tokens = trace.tokens[: reader.positions[-1] + 1]
            clean = logits_at(model, tokens[None], reader.positions)[0]
            logits = cut_logits(model, tokens, cuts, reader.positions, batch_size=batch_size)
            for (scope, key), after in zip(names, logits, strict=True):
                edge = {"query_step": query_step, "key_step": key, "scope": scope.name}
                found.append({**edge, **reader.effects(clean, after)})
    return pd.DataFrame(found, columns=["query_step", "key_step", "scope", *EFFECTS])


def _cut(layout: StepLayout, queries: Sequence[int], key_step: int, scope: Scope) -> Cut:
    heads = None if scope.head is None else (scope.head,)
    return Cut(tuple(queries), tuple(_positions(layout.key_steps, key_step)), scope.layers, heads)


def _positions(steps: Int[Tensor, "pos"], step: int) -> list[int]:
    found: list[int] = (steps == step).nonzero().squeeze(-1).tolist()
    return found


class _Reader:
    """Which logits are read, and what is made of them."""

    def __init__(
        self, tokens: Int[Tensor, "pos"], queries: Sequence[int], answer: Sequence[int]
    ) -> None:
        self.positions = sorted({*queries, *answer})
        self.targets = tokens[torch.tensor(self.positions) + 1]
        place = {position: i for i, position in enumerate(self.positions)}
        self.queries = [place[position] for position in queries]
        self.answer = [place[position] for position in answer]

    def effects(
        self, clean: Float[Tensor, "query vocab"], after: Float[Tensor, "query vocab"]
    ) -> dict[str, float]:
        change = cross_entropy(after, self.targets) - cross_entropy(clean, self.targets)
        found = {
            "kl": float(divergence(clean[self.queries], after[self.queries]).mean()),
            "loss": float(change[self.queries].mean()),
        }
        if self.answer:
            found["answer"] = float(change[self.answer].mean())
            found["logit_diff"] = self._logit_diff(clean, after)
        return found

    def _logit_diff(
        self, clean: Float[Tensor, "query vocab"], after: Float[Tensor, "query vocab"]
    ) -> float:
        first = self.answer[0]
        token = int(self.targets[first])
        others = clean[first].clone()
        others[token] = -torch.inf
        rival = int(others.argmax())
        change = after[first].double() - clean[first].double()
        return float(change[token] - change[rival])


def readings(
    source: Maps, layout: StepLayout, scope: Scope, pools: Sequence[Pool]
) -> Iterator[tuple[str | None, Float[Tensor, "step step"]]]:
    """A map pooled each way, for the layers and head of a scope; nothing where it has no such."""
    maps = source.maps
    if source.method in UNPOOLED:
        yield None, maps[0, 0]
        return
    if source.method in PEERS:
        if scope.name != "all":
            return
        chosen = maps[0, 0]
    elif source.method == "rollout":
        if scope.head is not None:
            return
        chosen = maps[max(scope.layers), 0]
    else:
        of_layers = maps[list(scope.layers)]
        chosen = (of_layers.mean(1) if scope.head is None else of_layers[:, scope.head]).mean(0)
    for pool in pools:
        yield pool, normalise(chosen, layout, pool)


def gold_map(edges: EdgeMatrices) -> Maps:
    """The known step graph as a map of zeros and ones."""
    return Maps("gold", None, (edges.premise | edges.step).float()[None, None])


def read_peers(path: str | Path, trace: Trace, *, rows: Rows) -> list[Maps]:
    """Maps of one trace that `analyses.instruments.peers_span` wrote.

    Raises:
        ValueError: the file has no map of this trace, with these rows.
    """
    name, digest = trace.meta.get("problem") or trace.id, digest_of(trace.tokens.tolist())
    found = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if (entry["problem"], entry["tokens"], entry["rows"]) == (name, digest, rows):
            matrix = torch.tensor(entry["map"])[None, None]
            found.append(Maps(entry["method"], None, matrix))
    if not found:
        raise ValueError(
            f"{path} has no map of the tokens of {name!r} with rows={rows!r}; write the traces anew"
        )
    return found


def trace_maps(
    model: Any, trace: Trace, *, rows: Rows, seed: int, edges: EdgeMatrices | None
) -> list[Maps]:
    """Every map of a trace; those about the answer only where there is one."""
    objectives: tuple[ObjectiveUsed, ...] = get_args(ObjectiveUsed)
    if not answer_positions(trace):
        objectives = tuple(name for name in objectives if name not in ("answer", "logit_diff"))
    found = list(all_maps(model, trace, rows=rows, seed=seed, saliency=objectives))
    return found + ([gold_map(edges)] if edges is not None else [])


def correlations(
    effects: pd.DataFrame,
    maps: Sequence[Maps],
    layout: StepLayout,
    where: Sequence[Scope],
    pools: Sequence[Pool],
) -> Iterator[dict[str, Any]]:
    """Mean over rows of Spearman's rho between each map and the size of each effect."""
    for scope in where:
        read = [
            ((source.method, source.objective, pool), matrix.double().numpy())
            for source in maps
            for pool, matrix in readings(source, layout, scope, pools)
        ]
        table = effects[effects["scope"] == scope.name]
        rhos: dict[str, list[np.ndarray]] = {effect: [] for effect in EFFECTS}
        for query_step in table["query_step"].unique():
            row = table[table["query_step"] == query_step]
            keys = row["key_step"].to_numpy()
            scores = np.stack([matrix[int(query_step), keys] for _, matrix in read])
            for effect in EFFECTS:
                size = row[effect].abs().to_numpy(float)
                if not np.isnan(size).any():
                    rhos[effect].append(rank_correlation(scores, size))
        for effect, found in rhos.items():
            stacked = np.stack(found) if found else np.empty((0, len(read)))
            counts = (~np.isnan(stacked)).sum(0)
            sums = np.nansum(stacked, 0)
            for number, (label, _) in enumerate(read):
                if counts[number]:
                    yield {
                        **_named(label),
                        "scope": scope.name,
                        "measure": f"rho_{effect}",
                        "value": sums[number] / counts[number],
                        "n_rows": int(counts[number]),
                    }


def _named(label: tuple[str, str | None, str | None]) -> dict[str, str | None]:
    return dict(zip(KEYS[:3], label, strict=True))


def curves(
    model: Any,
    trace: Trace,
    effects: pd.DataFrame,
    maps: Sequence[Maps],
    layout: StepLayout,
    pools: Sequence[Pool],
    *,
    fractions: Sequence[float] = FRACTIONS,
    batch_size: int = 16,
) -> Iterator[dict[str, Any]]:
    """Deletion and insertion curves of each map, all layers: sums over rows, as shares."""
    scope = Scope("all", tuple(range(n_layers(model))))
    read = [
        ((source.method, source.objective, pool), matrix.double().numpy())
        for source in maps
        for pool, matrix in readings(source, layout, scope, pools)
    ]
    curves_of: dict[Any, list[np.ndarray]] = {}
    table = effects[effects["scope"] == "all"]
    for query_step in map(int, table["query_step"].unique()):
        row = table[table["query_step"] == query_step]
        keys = row["key_step"].to_numpy()
        measured = row["kl"].to_numpy(float)
        rankings = [Rankings(label, matrix[query_step, keys]) for label, matrix in read]
        rankings += [
            Rankings(("oracle", None, None), measured),
            Rankings(("worst", None, None), -measured),
        ]
        row_curves = _row_curves(
            model, trace, layout, query_step, keys, rankings, fractions, batch_size
        )
        for key, curve in row_curves:
            curves_of.setdefault(key, []).append(curve)
    grid = np.array([0.0, *fractions, 1.0])
    for (label, kind), found in curves_of.items():
        total = np.sum(found, axis=0)
        full = total[-1] if kind == "deletion" else total[0]
        if full < MIN_KL:
            continue
        curve = total / full
        base = {**_named(label), "scope": "all", "n_rows": len(found)}
        for fraction, value in zip(grid, curve, strict=True):
            yield {**base, "measure": kind, "fraction": fraction, "value": value}
        yield {**base, "measure": f"{kind}_auc", "value": float(np.trapezoid(curve, grid))}


def _row_curves(
    model: Any,
    trace: Trace,
    layout: StepLayout,
    query_step: int,
    keys: Int[np.ndarray, "key_step"],
    rankings: Sequence[Rankings],
    fractions: Sequence[float],
    batch_size: int,
) -> Iterator[tuple[Any, Float[np.ndarray, "point"]]]:
    """Effect along each curve, in nats; each set of edges is cut once."""
    every = frozenset(keys.tolist())
    wanted: dict[Any, list[frozenset[int]]] = {}
    for ranking in rankings:
        # Equal scores are cut in the order of the steps, latest first.
        order = keys[np.lexsort((-keys, -ranking.scores))].tolist()
        tops = [frozenset(order[: math.ceil(part * len(keys))]) for part in fractions]
        wanted[ranking.label, "deletion"] = tops
        wanted[ranking.label, "insertion"] = [every - top for top in tops]
    sets = list(dict.fromkeys([every, *(s for some in wanted.values() for s in some)]))
    effect = _joint_effects(model, trace, layout, query_step, sets, batch_size)
    for (label, kind), some in wanted.items():
        inner = [effect[one] for one in some]
        ends = (0.0, effect[every])
        first, last = ends if kind == "deletion" else reversed(ends)
        yield (label, kind), np.array([first, *inner, last])


def _joint_effects(
    model: Any,
    trace: Trace,
    layout: StepLayout,
    query_step: int,
    sets: Sequence[frozenset[int]],
    batch_size: int,
) -> dict[frozenset[int], float]:
    """KL of the step's predictions when the edges to several steps are cut together."""
    queries = _positions(layout.row_steps, query_step)
    positions = {j: _positions(layout.key_steps, j) for some in sets for j in some}
    cuts = [Cut(tuple(queries), tuple(p for j in some for p in positions[j])) for some in sets]
    tokens = trace.tokens[: queries[-1] + 1]
    clean = logits_at(model, tokens[None], queries)[0]
    logits = cut_logits(model, tokens, cuts, queries, batch_size=batch_size)
    return {
        some: float(divergence(clean, after).mean())
        for some, after in zip(sets, logits, strict=True)
    }


def gold_agreement(effects: pd.DataFrame, edges: EdgeMatrices) -> Iterator[dict[str, Any]]:
    """How well the measured effects, all layers cut, rank the edges of the gold graph in rows."""
    table = effects[effects["scope"] == "all"]
    truth = (edges.premise | edges.step).numpy()
    candidate = np.zeros_like(truth)
    candidate[table["query_step"], table["key_step"]] = True
    candidate &= edges.candidate.numpy()
    for effect in EFFECTS:
        if table[effect].isna().any():
            continue
        matrix = np.zeros(truth.shape)
        matrix[table["query_step"], table["key_step"]] = table[effect].abs()
        found = rank_edges(matrix[None], truth, candidate, ranking="row")["auroc"][0]
        yield {
            **_named(("knockout", effect, None)),
            "scope": "all",
            "measure": "auroc_gold",
            "value": found,
            "n_rows": int(candidate.any(1).sum()),
        }


def faithfulness(
    model: Any,
    traces: Sequence[Trace],
    *,
    edges: Sequence[EdgeMatrices | None] | None = None,
    pools: Sequence[Pool] = ("mean", "mass", "block_mean", "sum"),
    rows: Rows = "target",
    bands: bool = True,
    heads: Sequence[tuple[int, int]] = (),
    with_curves: bool = True,
    curve_pools: Sequence[Pool] = ("mean", "mass"),
    max_rows: int | None = None,
    max_keys: int | None = None,
    peers: str | Path | None = None,
    batch_size: int = 16,
    seed: int = 0,
) -> pd.DataFrame:
    """Hold every map of every trace against measured cuts.

    Args:
        model: HookedTransformer or TransformerBridge.
        traces: Traces; ``meta["problem"]`` names the problem, else ``id``.
        edges: Gold graph of each trace, where known.
        pools: How maps are pooled for the correlations.
        rows: Which predictions are a step's, see the module docstring.
        bands: Cut in the bottom, middle and top third of the layers besides all of them.
        heads: Single heads (layer, head) to cut in.
        with_curves: Measure deletion and insertion curves.
        curve_pools: How maps are pooled for the curves.
        max_rows: Examine so many query steps of a trace, chosen at random.
        max_keys: Examine so many key steps of each, chosen at random.
        peers: File of other packages' maps of these traces, see `analyses.instruments.peers_span`.
        batch_size: Cuts computed together.
        seed: Of the choice and of the random map.

    Returns:
        One row per problem, method, objective, pool, scope, measure and fraction (of curves):
        ``value`` and ``n_rows``, the number of rows it is the mean of.
    """
    known = [None] * len(traces) if edges is None else list(edges)
    frames = []
    for number, (trace, gold) in enumerate(zip(traces, known, strict=True)):
        layout = step_layout(trace.step_ids, rows=rows)
        chosen = rows_of_edges(
            trace, layout, max_rows=max_rows, max_keys=max_keys, seed=seed + number
        )
        if not chosen:
            continue
        where = scopes(n_layers(model), bands=bands, heads=heads)
        effects = edge_effects(model, trace, chosen, layout, where, batch_size=batch_size)
        maps = trace_maps(model, trace, rows=rows, seed=seed + number, edges=gold)
        maps += [] if peers is None else read_peers(peers, trace, rows=rows)
        found = list(correlations(effects, maps, layout, where, pools))
        if gold is not None:
            found += gold_agreement(effects, gold)
        if with_curves:
            found += curves(model, trace, effects, maps, layout, curve_pools, batch_size=batch_size)
        name = trace.meta.get("problem") or trace.id
        frames.append(pd.DataFrame(found, columns=[*KEYS, "value", "n_rows"]).assign(problem=name))
    if not frames:
        return pd.DataFrame(columns=["problem", *KEYS, "value", "n_rows"])
    table = pd.concat(frames, ignore_index=True)
    names = {key: "string" for key in ["problem", *KEYS] if key != "fraction"}
    return table.astype({**names, "fraction": float, "value": "float32"})[
        ["problem", *KEYS, "value", "n_rows"]
    ]


def summarise(values: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """Means over problems with intervals: `KEYS`, ``estimate, lower, upper, n``."""
    return mean_table(values, "value", by=KEYS, seed=seed).drop(columns="p")


def differences(values: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """Each map minus attention of the same pooling, and minus distance; paired by problem.

    Columns ``scope, measure, map, reference, estimate, lower, upper, n, p, p_holm, ...``; Holm's
    correction is made within a measure, scope and reference.
    """
    whole = values[values["fraction"].isna() & (values["measure"] != "auroc_gold")]
    labels = whole[["method", "objective", "pool"]].fillna("").agg(" ".join, axis=1)
    whole = whole.assign(map=labels.str.split().str.join(" "))
    tables = []
    for reference in ("attention mean", "attention mass", "distance"):
        if (whole["map"] == reference).any():
            table = paired_table(
                whole,
                "value",
                condition="map",
                reference=reference,
                by=["scope", "measure"],
                family=["scope", "measure"],
                n_permutations=2000,
                seed=seed,
            )
            tables.append(table)
    return pd.concat(tables, ignore_index=True)


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
    edges = None
    if item.problem is not None:
        try:
            edges = item.problem.edges(trace)
        except ValueError:  # a response that does not keep to the task's notation
            edges = None
    return faithfulness(
        model,
        [trace],
        edges=[edges],
        rows=settings.rows,
        heads=[_parse_head(name) for name in settings.heads],
        bands=settings.bands,
        with_curves=settings.curves,
        max_rows=settings.max_rows,
        max_keys=settings.max_keys,
        peers=settings.peers,
        batch_size=settings.batch_size,
        seed=unit.seed % 2**31,
    )


def _parse_head(name: str) -> tuple[int, int]:
    layer, _, head = name.removeprefix("L").partition("H")
    if not (name.startswith("L") and layer.isdigit() and head.isdigit()):
        raise ValueError(f"{name!r} is no head; write L3H1 for head 1 of layer 3")
    return int(layer), int(head)


def tables(values: pd.DataFrame, settings: FaithfulnessSettings) -> dict[str, pd.DataFrame]:
    """Means and paired differences."""
    seed = settings.seed
    return {
        "summary": summarise(values, seed=seed),
        "differences": differences(values, seed=seed),
    }


ANALYSIS = Analysis(
    "faithfulness",
    FaithfulnessSettings,
    units=item_units,
    run_unit=run_unit,
    summarise=tables,
    checks=("gradients", "pattern_rows", "local_gradients", "score_edits", "cached_decoding"),
    keep_values=False,
)


if __name__ == "__main__":
    main("analyses.faithfulness")
