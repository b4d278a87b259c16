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

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import pandas as pd

import step_saliency as ss
from analyses.gold_graph.scores import Edge, gold_graph
from analyses.gold_graph.summary import differences, headline, summarise
from analyses.running.runner import MAPS, Analysis, Unit
from analyses.running.settings import ModelSettings, option
from step_saliency.tasks import Family, Level, Problem, make_problems


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
    "gold_graph", GraphSettings, problem_units, run_unit, tables, checks=MAPS, keep_values=False
)
