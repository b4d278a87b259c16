"""Is a step-saliency map right? Maps against the known step graph of the bundled task.

Every thinking step of the task needs one premise and the earlier steps whose values it substitutes;
the summary needs the last step (see `step_saliency.tasks.gold`). A map gives each candidate pair
of steps a score. How well do the scores rank the true pairs above the others?

    average precision = sum over thresholds of (recall_n - recall_{n-1}) * precision_n
    AUROC             = P(score_true > score_false) + P(score_true = score_false) / 2

``edge="premise"``: thinking steps against all premises; ``"step"``: thinking steps and the summary
against earlier thinking steps; ``"all"``: both together. ``ranking="problem"`` ranks all candidate
pairs of a problem in one list, so the scale of a row counts; ``"row"`` ranks the candidates of each
step by itself and averages over the steps.

Maps: those of `analyses.instruments.maps`; what random numbers get in average precision is chance.
Readings: each head; ``head="mean"``, the mean map of the heads; layer missing, the mean map of all
layers; ``head="best"``, the head (of the layer, or of the model where the layer is missing) that
does best *on the other half of the problems*, so that picking it gains nothing by itself;
``head="best_layer"``, likewise the layer whose mean over heads does best there.

Intervals: 95% percentile bootstrap over problems, at plain levels (all other tables take expanded
ones, `step_saliency.stats.resampling`); the scores of one problem are not independent.
For ``head="best"`` and ``"best_layer"`` they hold what was picked fixed.

When it misleads: the graph has the contents that a step needs and not what the choice of the next
step needs, so a map that rightly shows the latter is charged with it. Responses are the gold
solutions by default, teacher-forced; where the model would have written something else, it is asked
about text that is not its own.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from scipy.stats import rankdata
from torch import Tensor
from tqdm.auto import tqdm

import step_saliency as ss
from analyses.instruments.maps import UNPOOLED, Maps, all_maps
from analyses.running.runner import Analysis, Unit, main
from analyses.running.settings import ModelSettings, option
from step_saliency.options import Draws
from step_saliency.saliency.pooling import Pool, Rows, normalise, step_layout
from step_saliency.stats.problems import mean_intervals
from step_saliency.tasks import EdgeMatrices, Family, Level, Problem, make_problems
from step_saliency.trace import Region, Trace

Edge = Literal["premise", "step", "all"]
Ranking = Literal["problem", "row"]

KEYS = ["family", "method", "objective", "pool", "layer", "head", "edge", "ranking", "metric"]
N_BOOTSTRAP = 2000


def average_precision(
    scores: Float[np.ndarray, "map pair"], truth: Bool[np.ndarray, "pair"]
) -> Float[np.ndarray, "map"]:
    """Average precision of several scores of the same pairs; equal scores enter together."""
    order = np.argsort(-scores, axis=1, kind="stable")
    ranked = np.take_along_axis(scores, order, axis=1)
    hits = truth[order]
    n_pairs = scores.shape[1]
    ends_tie = np.ones_like(hits)
    ends_tie[:, :-1] = ranked[:, :-1] != ranked[:, 1:]
    last = np.where(ends_tie, np.arange(n_pairs), n_pairs)
    last = np.minimum.accumulate(last[:, ::-1], axis=1)[:, ::-1]
    precision = np.cumsum(hits, axis=1) / np.arange(1, n_pairs + 1)
    return (np.take_along_axis(precision, last, axis=1) * hits).sum(1) / truth.sum()


def auroc(
    scores: Float[np.ndarray, "map pair"], truth: Bool[np.ndarray, "pair"]
) -> Float[np.ndarray, "map"]:
    """Chance that a true pair scores above a false one, ties counting half, for several scores."""
    n_true = truth.sum()
    ranks = rankdata(scores, axis=1)[:, truth].sum(1)
    return (ranks - n_true * (n_true + 1) / 2) / (n_true * (truth.size - n_true))


METRICS: Mapping[str, Callable[..., Any]] = {
    "average_precision": average_precision,
    "auroc": auroc,
}


def rank_edges(
    maps: Float[np.ndarray, "map step step"],
    truth: Bool[np.ndarray, "step step"],
    candidate: Bool[np.ndarray, "step step"],
    *,
    ranking: Ranking,
) -> dict[str, Float[np.ndarray, "map"]]:
    """Each metric of several maps; rows without both a true and a false candidate are left out."""
    rows = (
        [candidate]
        if ranking == "problem"
        else [_only_row(candidate, i) for i in range(len(truth))]
    )
    rows = [row for row in rows if 0 < truth[row].sum() < row.sum()]
    if not rows:
        return {name: np.full(len(maps), np.nan) for name in METRICS}
    return {
        name: np.mean([metric(maps[:, row], truth[row]) for row in rows], axis=0)
        for name, metric in METRICS.items()
    }


def _only_row(candidate: Bool[np.ndarray, "step step"], row: int) -> Bool[np.ndarray, "step step"]:
    return candidate & (np.arange(len(candidate)) == row)[:, None]


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
            maps = source.maps if pool is None else normalise(source.maps, layout, pool)
            stacked, names = readings(Maps(source.method, source.objective, maps))
            for edge, truth, candidate in edge_kinds(edges, trace):
                for ranking in get_args(Ranking):
                    found = rank_edges(stacked, truth, candidate, ranking=ranking)
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
                        **found,
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


def pick_best_heads(values: pd.DataFrame) -> pd.DataFrame:
    """Rows ``head="best"``: the head that was best on the other half of the problems.

    Per layer, and over the whole model (layer missing). Halves are even and odd problems.
    """
    heads = values[values["head"].str.isdigit().astype(bool)]
    keys = [key for key in KEYS if key not in ("layer", "head")]
    in_layer = _best_on_other_half(heads, [*keys, "layer"], values)
    in_model = _best_on_other_half(heads, keys, values)
    in_model["layer"] = pd.NA
    picked = pd.concat([in_layer, in_model], ignore_index=True).assign(head="best")
    return picked.astype({"layer": "Int64", "head": "string"})


def pick_best_layers(values: pd.DataFrame) -> pd.DataFrame:
    """Rows ``head="best_layer"``: the mean over heads of the layer best on the other half."""
    layers = values[(values["head"] == "mean") & values["layer"].notna()]
    keys = [key for key in KEYS if key not in ("layer", "head")]
    picked = _best_on_other_half(layers, keys, values).assign(head="best_layer")
    picked["layer"] = pd.NA
    return picked.astype({"layer": "Int64", "head": "string"})


def _best_on_other_half(
    rows: pd.DataFrame, scope: Sequence[str], values: pd.DataFrame
) -> pd.DataFrame:
    """Of each scope, the rows of the reading whose mean is highest on the other half."""
    if rows.empty:
        return rows
    order = {problem: i for i, problem in enumerate(values["problem"].unique())}
    half = rows["problem"].map(order) % 2
    picked = []
    for mine in (0, 1):
        other = rows[half != mine].groupby([*KEYS], dropna=False)["value"].mean().reset_index()
        best = other.loc[other.groupby([*scope], dropna=False)["value"].idxmax()]
        picked.append(rows[half == mine].merge(best[KEYS], on=KEYS))
    return pd.concat(picked, ignore_index=True)


def with_picked(values: pd.DataFrame) -> pd.DataFrame:
    """Values with the rows of picked heads and layers."""
    picked = [pick_best_heads(values), pick_best_layers(values)]
    return pd.concat([values, *picked], ignore_index=True)


def summarise(
    values: pd.DataFrame, *, seed: int = 0, n_bootstrap: int = N_BOOTSTRAP
) -> pd.DataFrame:
    """Means over problems with intervals: columns of `KEYS`, then estimate, lower, upper, n."""
    return _intervals(with_picked(values), seed=seed, n_bootstrap=n_bootstrap)


def differences(
    values: pd.DataFrame, *, seed: int = 0, n_bootstrap: int = N_BOOTSTRAP
) -> pd.DataFrame:
    """Each method minus raw attention, same reading, paired by problem; no single heads."""
    both = with_picked(values)
    both = both[both["head"].isin(["mean", "best", "best_layer"])]
    keys = [key for key in KEYS if key not in ("method", "objective")]
    attention = both[both["method"] == "attention"]
    merged = both.merge(
        attention[["problem", *keys, "value"]], on=["problem", *keys], suffixes=("", "_attention")
    )
    merged = merged[merged["method"] != "attention"]
    merged["value"] -= merged["value_attention"]
    table = _intervals(merged, seed=seed, n_bootstrap=n_bootstrap)
    return table.assign(reference="attention")


def _intervals(values: pd.DataFrame, *, seed: int, n_bootstrap: int) -> pd.DataFrame:
    wide = _by_problem(values)
    draws = Draws(n_resamples=n_bootstrap, seed=seed)
    intervals = mean_intervals(wide.to_numpy(float), draws, levels="plain")
    return _restore(pd.concat([wide.columns.to_frame(index=False), intervals], axis=1))


MISSING_LAYER, MISSING_NAME = -1, ""


def _by_problem(values: pd.DataFrame) -> pd.DataFrame:
    """One row a problem, one column a reading; pandas drops missing keys, so they get stand-ins."""
    names = dict.fromkeys(["objective", "pool"], MISSING_NAME) | {"layer": MISSING_LAYER}
    filled = values.fillna(names).astype({"layer": int})
    return filled.pivot(index="problem", columns=KEYS, values="value")


def _restore(table: pd.DataFrame) -> pd.DataFrame:
    table["layer"] = table["layer"].astype("Int64").mask(table["layer"] == MISSING_LAYER)
    for name in ("objective", "pool"):
        table[name] = table[name].astype("string").mask(table[name] == MISSING_NAME)
    return table


def headline(
    summary: pd.DataFrame, *, edge: Edge = "all", ranking: Ranking = "problem"
) -> pd.DataFrame:
    """The readings to look at first: mean over layers and heads, best head, best layer's mean head.

    Where a layer is named it is picked on the same problems that it is reported for: an upper
    bound. ``head="best_layer"`` is not.
    """
    chosen = summary[
        (summary["edge"] == edge)
        & (summary["ranking"] == ranking)
        & (summary["metric"] == "average_precision")
    ]
    whole = chosen[chosen["layer"].isna()]
    per_layer = chosen[chosen["layer"].notna() & (chosen["head"] == "mean")]
    keys = ["family", "method", "objective", "pool"]
    best = per_layer.loc[per_layer.groupby(keys, dropna=False)["estimate"].idxmax()]
    table = pd.concat([whole, best]).sort_values([*keys, "head", "layer"])
    return table[[*keys, "layer", "head", "estimate", "lower", "upper", "n"]]


def own_responses(model: Any, problems: Sequence[Problem]) -> list[str]:
    """What the model writes greedily, right or wrong."""
    questions = [problem.question for problem in problems]
    traces = ss.generate(model, questions, temperature=0.0, progress=False)
    return [trace.response for trace in traces]


@dataclass(frozen=True, kw_only=True)
class GraphSettings(ModelSettings):
    """Problems and responses."""

    level: Level = "medium"
    families: tuple[Family, ...] = option(
        ("symbols", "words"), "--n problems of each", flag="--family"
    )
    responses: Literal["gold", "own"] = option("gold", "gold solutions or greedy ones")


def problem_units(settings: GraphSettings) -> list[Unit]:
    """One unit a problem: its number within the family, and the problem."""
    units = []
    for family in settings.families:
        problems = make_problems(
            n=settings.n, level=settings.level, seed=settings.seed, family=family
        )
        units += [Unit(problem.id, (i, problem)) for i, problem in enumerate(problems)]
    return units


def run_unit(model: Any, unit: Unit, settings: GraphSettings) -> pd.DataFrame:
    """Scores of one problem."""
    number, problem = unit.payload
    responses = own_responses(model, [problem]) if settings.responses == "own" else None
    return gold_graph(
        model, [problem], responses=responses, seed=settings.seed + number, progress=False
    )


def tables(values: pd.DataFrame, settings: GraphSettings) -> dict[str, pd.DataFrame]:
    """Means with intervals, differences from attention, and what to look at first."""
    summary = summarise(values, seed=settings.seed)
    first = [headline(summary, edge=edge).assign(edge=edge) for edge in get_args(Edge)]
    return {
        "summary": summary,
        "differences": differences(values, seed=settings.seed),
        "headline": pd.concat(first, ignore_index=True),
    }


ANALYSIS = Analysis(
    "gold_graph",
    GraphSettings,
    units=problem_units,
    run_unit=run_unit,
    summarise=tables,
    checks=("gradients", "pattern_rows", "local_gradients"),
    keep_values=False,
)


if __name__ == "__main__":
    main("analyses.gold_graph")
