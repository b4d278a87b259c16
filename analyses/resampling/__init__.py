"""What is a thinking step worth, by drawing it and all after it anew? And do maps know it?

Of a greedy answer with thinking steps 0, ..., m - 1 and final answer a, K continuations are drawn
from before each step and from behind it (`analyses.material.continuations`; behind step i is before
step i + 1). With P the share of them that end in a (``outcome`` same) or in the right answer
(right; one that is cut off ends in neither),

    resample(i)        = P(step i kept) - P(step i drawn anew)
    counterfactual(i)  = P(step i kept) - P(step i drawn anew, and another step than it was)

(Bogdan, Macar, Nanda, Conmy, "Thought Anchors: Which LLM Reasoning Steps Matter?", 2025, whose
importance is a divergence of answers where this is a difference of one's share.) A drawn step is
another one (``--differs``) by ``numbers`` where it states other numbers (`worked.stated`; as a set;
steps that state none are held against each other as text), by ``text`` where its words differ,
white space and case aside. A thinking that ends there has no step, which is another one too.

Beside the worth of a step stands what maps say of it: the mean over layers of what it receives in
the step map from the rows of the summary (``rows`` summary), or from all rows behind it (later), by
loss, log-odds and attention; and what needs no map, its position and its number of tokens. Table
``summary``: Spearman's rho within an answer, mean over answers, tested by permutations within
answers; Holm within importance and outcome. ``other half`` is the rho r between the worths by one
and by the other half of the continuations: noise leaves a score without a fault about
sqrt(2 r / (1 + r)) (Spearman 1910; Brown 1910). ``rivals``: rho of each map minus that of position
and of length, these turned so that their mean is positive.

When it misleads: P of K continuations has a standard error of up to 0.5 / sqrt(K), which is the
size of most worths; the rank correlation of a good map is small then too (``other half``). A step
whose words are all implied by those before it is drawn anew as it was, and is worth nothing by
``resample``, however much a map looks at it; ``counterfactual`` asks for the others, which are few
there, and whose model has gone astray in more than one way. Greedy answers are gone on from with
drawn words, so that even a kept beginning may end elsewhere. Position alone predicts a worth that
falls, or rises, along the answer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from analyses.instruments.step_maps import WRITTEN_HELP, step_maps
from analyses.material.answers import answers
from analyses.material.continuations import (
    Fork,
    ForkSettings,
    beginnings,
    check_greedy,
    continuations,
    ends_right,
)
from analyses.material.problems import Item, read_items
from analyses.resampling.agreement import (
    BY,
    GROUP,
    SCORE,
    WORTH,
    map_scores,
    ranked,
    rivals_table,
)
from analyses.resampling.worths import Differs, Drawn, is_another, worths
from analyses.running.runner import MAPS, Analysis, Unit
from analyses.running.settings import option
from step_saliency.options import PoolName, RowsName
from step_saliency.stats.multiplicity import with_holm
from step_saliency.stats.problems import mean_table
from step_saliency.stats.ranks import correlation_table
from step_saliency.tasks.answers import final_answer, same_answer
from step_saliency.trace import Region, Trace

ANSWER = "answer"


@dataclass(frozen=True, kw_only=True)
class ResamplingSettings(ForkSettings):
    """Of how many steps, by how many continuations, and how maps are read."""

    chunk: int = 10
    rollouts: int = option(20, "continuations from each place")
    max_steps: int | None = option(None, "thinking steps of each answer, at random; or all")
    differs: Differs = option("numbers", "what makes a drawn step another one than it was")
    pool: PoolName = "mean"
    rows: RowsName = "target"
    written_only: bool = option(False, WRITTEN_HELP)


def step_scores(model: Any, trace: Trace, settings: ResamplingSettings) -> pd.DataFrame:
    """What maps and simple rivals say of each thinking step: ``step, score, rows, value``."""
    maps = step_maps(
        model,
        trace,
        pool=settings.pool,
        rows=settings.rows,
        written_only=settings.written_only,
    )
    tables = [map_scores(saliency).assign(score=name) for name, saliency in maps.items()]
    steps = [trace.steps[i] for i in trace.region_steps(Region.THINKING)]
    simple = {"position": range(len(steps)), "length": [len(step) for step in steps]}
    tables += [
        pd.DataFrame({"step": range(len(steps)), "value": values, "score": name, "rows": "none"})
        for name, values in simple.items()
    ]
    return pd.concat(tables, ignore_index=True).astype({"value": float})


def resampling(model: Any, items: Sequence[Item], settings: ResamplingSettings) -> pd.DataFrame:
    """Worth of the steps of greedy answers, and what maps say of them.

    Args:
        model: The model.
        items: Problems.
        settings: How answers are written, drawn anew and mapped.

    Returns:
        Rows of ``kind`` answer (one a problem: ``is_correct, is_drawn, n_steps``), worth (see
        `worths`) and score (see `step_scores`), all with ``problem``. Only answers that were
        finished and have thinking are drawn anew.
    """
    plain = replace(settings, samples=1, temperature=0.0)
    written, graded = answers(model, items, None, plain)
    pairs = list(zip(items, written, strict=True))
    plans = [_steps(item, trace, settings) for item, trace in pairs]
    facts = graded[["problem"]].assign(
        is_correct=graded["is_correct"] & graded["finished"],
        is_drawn=[bool(plan) for plan in plans],
        n_steps=[len(trace.region_steps(Region.THINKING)) for trace in written],
    )
    places = [sorted({*plan, *(step + 1 for step in plan)}) for plan in plans]
    forks = [
        Fork(item, beginnings(trace)[place], first=place * settings.rollouts)
        for (item, trace), some in zip(pairs, places, strict=True)
        for place in some
    ]
    found = iter(continuations(model, forks, None, settings, n=settings.rollouts))
    tables = [facts.assign(kind=ANSWER)]
    for (item, trace), plan, some in zip(pairs, plans, places, strict=True):
        drawn = {place: _drawn(model, item, trace, place, next(found), settings) for place in some}
        if plan:
            worth, scores = worths(drawn, plan), step_scores(model, trace, settings)
            tables += [worth.assign(problem=item.id, kind=WORTH)]
            tables += [scores.assign(problem=item.id, kind=SCORE)]
    types = {"step": "Int64", "n_steps": "Int64", "n_anew": "Int64"}
    joined = pd.concat(tables, ignore_index=True)
    return joined.astype({name: kind for name, kind in types.items() if name in joined})


def _steps(item: Item, trace: Trace, settings: ResamplingSettings) -> list[int]:
    """Thinking steps that are drawn anew."""
    n_steps = len(trace.region_steps(Region.THINKING))
    if not trace.meta["finished"]:
        return []
    if settings.max_steps is None or n_steps <= settings.max_steps:
        return list(range(n_steps))
    rng = np.random.default_rng([settings.seed, item.number])
    return sorted(rng.choice(n_steps, settings.max_steps, replace=False).tolist())


def _drawn(
    model: Any,
    item: Item,
    trace: Trace,
    place: int,
    rollouts: Sequence[Trace],
    settings: ResamplingSettings,
) -> Drawn:
    """Outcomes of the continuations from one place, and whether their first step is another."""
    thinking = [trace.steps[i].text for i in trace.region_steps(Region.THINKING)]
    old = thinking[place] if place < len(thinking) else ""
    answer = _answer(item, trace.response)
    outcomes = {"right": np.array([ends_right(item, one) for one in rollouts])}
    if answer is not None:
        found = [_answer(item, one.response) if one.meta["finished"] else None for one in rollouts]
        outcomes["same"] = np.array([a is not None and same_answer(a, answer) for a in found])
    new = [_first_new_step(model.tokenizer, one) for one in rollouts]
    return Drawn(outcomes, np.array([is_another(text, old, settings.differs) for text in new]))


def _answer(item: Item, response: str) -> str | None:
    return item.problem.grade(response).answer if item.problem else final_answer(response)


def _first_new_step(tokenizer: Any, trace: Trace) -> str:
    """Text of the thinking step that a continuation begins with; empty where it has none."""
    first = len(trace) - int(trace.meta["response_tokens"])
    step = trace.steps[int(trace.step_ids[first])]
    if step.region != Region.THINKING:
        return ""
    if step.start == first:
        return step.text
    return str(tokenizer.decode(trace.tokens[first : step.stop]))


def units(settings: ResamplingSettings) -> list[Unit]:
    """Chunks of problems."""
    check_greedy(settings)
    return [Unit(f"answers-{start:05d}", (start, stop)) for start, stop in settings.spans]


def run_unit(model: Any, unit: Unit, settings: ResamplingSettings) -> pd.DataFrame:
    """One chunk. Seeds are the run's."""
    first, last = unit.payload
    return resampling(model, read_items(settings)[first:last], settings)


def counts(values: pd.DataFrame) -> pd.DataFrame:
    """Answers, those that were drawn anew, and those that were right."""
    facts = values[values["kind"] == ANSWER]
    names = {"drawn": "is_drawn", "right": "is_correct"}
    sums = {name: int(facts[column].astype(bool).sum()) for name, column in names.items()}
    return pd.DataFrame([{"answers": len(facts), **sums}])


def summarise(values: pd.DataFrame, settings: ResamplingSettings) -> Mapping[str, pd.DataFrame]:
    """Answers drawn anew, mean worths, rho of scores with worths, and of maps against rivals."""
    seed = settings.seed
    tables = {"counts": counts(values)}
    if not (values["kind"] == WORTH).any():
        return tables
    worth = values[values["kind"] == WORTH].dropna(subset=["value"])
    means = mean_table(worth, "value", by=GROUP, null=0.0, kind="difference", seed=seed)
    tables["worth"] = with_holm(means)
    table = ranked(values)
    if len(table):
        found = correlation_table(table, "value", "worth", row=[], by=BY, seed=seed)
        tables["summary"] = with_holm(found, family=GROUP)
        tables["rivals"] = rivals_table(table, seed=seed)
    return {name: table for name, table in tables.items() if not table.empty}


ANALYSIS = Analysis("resampling", ResamplingSettings, units, run_unit, summarise, checks=MAPS)
