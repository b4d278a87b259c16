"""Scores of every map on every problem: which reading of a map finds which kind of edge."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm.auto import tqdm

from analyses.gold_graph.picks import KEYS
from analyses.instruments.edge_ranking import METRICS, Ranking, rank_edges
from analyses.instruments.maps import UNPOOLED, Maps, all_maps
from step_saliency.saliency.pooling import Pool, Rows, normalise, step_layout
from step_saliency.tasks import EdgeMatrices, Problem
from step_saliency.trace import Region, Trace

Edge = Literal["premise", "step", "all"]


def edge_kinds(
    edges: EdgeMatrices, trace: Trace
) -> Iterator[tuple[Edge, Bool[np.ndarray, "step step"], Bool[np.ndarray, "step step"]]]:
    """(kind, true pairs, candidate pairs) of a trace."""
    is_premise = torch.tensor([step.region == Region.QUESTION for step in trace.steps])
    candidate = edges.candidate.numpy()
    yield "premise", edges.premise.numpy(), candidate & is_premise.numpy()
    yield "step", edges.step.numpy(), candidate & ~is_premise.numpy()
    yield "all", (edges.premise | edges.step).numpy(), candidate


def readings(maps: Maps) -> tuple[Float[np.ndarray, "map step step"], list[tuple[int | None, str]]]:
    """Every map that is scored, with its (layer, head): single heads, mean head, mean layer."""
    stacked: list[Float[Tensor, "step step"]] = []
    names: list[tuple[int | None, str]] = []
    n_layers, n_heads = maps.maps.shape[:2]
    if n_heads > 1:
        stacked += list(maps.maps.flatten(0, 1))
        names += [(layer, str(head)) for layer in range(n_layers) for head in range(n_heads)]
    mean_head = maps.maps.mean(1)
    if n_layers > 1:
        stacked += list(mean_head)
        names += [(layer, "mean") for layer in range(n_layers)]
    stacked.append(mean_head.mean(0))
    names.append((None, "mean"))
    return torch.stack(stacked).double().numpy(), names


def score_trace(
    model: Any, problem: Problem, trace: Trace, *, pools: Sequence[Pool], rows: Rows, seed: int
) -> Iterator[dict[str, Any]]:
    """Table rows of one trace: method, reading, kind of edge, ranking, metric, value."""
    layout = step_layout(trace.step_ids, rows=rows)
    edges = problem.edges(trace)
    for source in all_maps(model, trace, rows=rows, seed=seed):
        pooled: Sequence[Pool | None] = [None] if source.method in UNPOOLED else pools
        for pool in pooled:
            maps = source.maps
            if pool is not None:
                maps = normalise(maps, layout, pool, windows=source.windows)
            stacked, names = readings(Maps(source.method, source.objective, maps))
            for edge, truth, candidate in edge_kinds(edges, trace):
                for ranking in get_args(Ranking):
                    values = rank_edges(stacked, truth, candidate, ranking=ranking)
                    yield {
                        "problem": problem.id,
                        "family": problem.family,
                        "method": source.method,
                        "objective": source.objective,
                        "pool": pool,
                        "edge": edge,
                        "ranking": ranking,
                        "layer": [layer for layer, _ in names],
                        "head": [head for _, head in names],
                        **values,
                    }


def gold_graph(
    model: Any,
    problems: Sequence[Problem],
    *,
    responses: Sequence[str] | None = None,
    pools: Sequence[Pool] = ("mean", "mass"),
    rows: Rows = "target",
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """Score the maps of every method on every problem.

    Args:
        model: HookedTransformer or TransformerBridge with a tokenizer that has a chat template.
        problems: Problems with a known graph.
        responses: What was written for each problem; the gold solutions by default.
        pools: How tokens are pooled to steps.
        rows: ``"target"`` files a prediction under the step that the predicted token is in.
        seed: Of the random baseline.
        progress: Show a bar.

    Returns:
        One row per problem, method, objective, pool, layer, head, edge, ranking and metric;
        ``value`` is the metric on that problem. A missing layer is the mean over layers.
    """
    texts: Sequence[str | None] = [None] * len(problems) if responses is None else responses
    blocks = []
    pairs = list(zip(problems, texts, strict=True))
    for i, (problem, response) in enumerate(tqdm(pairs, disable=not progress, unit="problem")):
        trace = problem.trace(model.tokenizer, response, split_question=True)
        scored = score_trace(model, problem, trace, pools=pools, rows=rows, seed=seed + i)
        block = pd.DataFrame(scored).explode(["layer", "head", *METRICS])
        blocks.append(block)
    wide = pd.concat(blocks, ignore_index=True).astype(dict.fromkeys(METRICS, float))
    wide["layer"] = wide["layer"].astype("Int64")
    table = wide.melt(
        id_vars=[name for name in wide.columns if name not in METRICS], var_name="metric"
    )
    return table.astype({key: "string" for key in KEYS if key != "layer"})
