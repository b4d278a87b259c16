"""Lock-in and decay by layer over many traces of the bundled task, correct against error traces.

Question: do error traces look more at the current step in the shallow layers, and less at the
thinking in the deep ones, than correct traces of the same problems? Each problem is answered
``samples`` times at temperature 1, each answer is mapped and diagnosed (definitions:
`step_saliency.diagnosis.shares`); curves are means over problems
(`step_saliency.diagnosis.mean_curves`), differences are within problems
(`step_saliency.diagnosis.compare`).

Both indices depend on how the map is read: ``--objective``, ``--pool`` and ``--rows`` are those of
`step_saliency`. The defaults are the paper's; ``--objective log_odds --pool mass --rows target``
is the reading that agrees best with known step graphs (`analyses.gold_graph`).

When it misleads: as these two say; and a difference between correct and error traces is an
association. Lengths differ too: the rows ``control="length"`` of ``comparison`` bring lengths
nearer, and ``n_tokens`` among them says how near.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

import step_saliency as ss
from analyses.material.answers import chunks
from analyses.running.runner import MAPS, Analysis, Unit, main
from analyses.running.settings import ModelSettings, option
from step_saliency.diagnosis import compare, diagnose, mean_curves
from step_saliency.options import (
    ObjectiveLiteral,
    ObjectiveName,
    Pool,
    PoolName,
    Rows,
    RowsName,
)
from step_saliency.tasks import Family, Level, Problem, make_problems
from step_saliency.trace import Trace

CHUNK = 5
TEMPERATURE = 1.0
METRICS = ("lock_in", "decay", "share", "lock_in_index", "decay_index")


def diagnosed_answers(
    model: Any,
    problems: Sequence[Problem],
    *,
    samples: int,
    seed: int,
    objective: ObjectiveName = "next_token",
    pool: Pool = "mean",
    rows: Rows = "query",
) -> pd.DataFrame:
    """Diagnosis of several answers to each problem, as `Diagnosis.to_frame` writes it.

    Args:
        model: The model.
        problems: Problems of the bundled task.
        samples: Answers to each.
        seed: Of the answers.
        objective: As for `step_saliency`, like the other two.
        pool: How tokens are pooled to steps.
        rows: Which predictions are a step's.
    """
    questions = [problem.question for problem in problems]
    written = ss.generate(
        model, questions, n=samples, temperature=TEMPERATURE, seed=seed, progress=False
    )
    frames = []
    for number, answer in enumerate(written):
        problem = problems[number // samples]
        trace = _labelled(problem, problem.trace(model.tokenizer, answer.response), number)
        saliency = ss.step_saliency(model, trace, objective=objective, pool=pool, rows=rows)
        frame = diagnose(saliency).to_frame()
        frames.append(frame[frame["metric"].isin(METRICS)])
    return pd.concat(frames, ignore_index=True)


def _labelled(problem: Problem, trace: Trace, number: int) -> Trace:
    meta = {"problem": problem.id, "is_correct": problem.grade(trace).is_correct}
    return replace(trace, id=f"{problem.id}#{number}", meta=meta)


@dataclass(frozen=True, kw_only=True)
class CurveSettings(ModelSettings):
    """Problems, responses, and the reading of the map."""

    level: Level = "medium"
    family: Family = option("symbols", "of the task", later=True)
    samples: int = option(4, "responses per problem")
    objective: ObjectiveLiteral = "next_token"
    pool: PoolName = "mean"
    rows: RowsName = "query"


def units(settings: CurveSettings) -> list[Unit]:
    """Problems in chunks."""
    return [Unit(f"problems-{a:04d}", (a, b)) for a, b in chunks(settings.n, CHUNK)]


def run_unit(model: Any, unit: Unit, settings: CurveSettings) -> pd.DataFrame:
    """Diagnoses of a chunk."""
    first, last = unit.payload
    problems = make_problems(
        n=settings.n, level=settings.level, seed=settings.seed, family=settings.family
    )
    return diagnosed_answers(
        model,
        problems[first:last],
        samples=settings.samples,
        seed=unit.seed,
        objective=settings.objective,
        pool=settings.pool,
        rows=settings.rows,
    )


def summarise(values: pd.DataFrame, settings: CurveSettings) -> Mapping[str, pd.DataFrame]:
    """Curves with intervals, and error minus correct within problems."""
    tables = {"summary": mean_curves(values, seed=settings.seed)}
    try:
        tables["comparison"] = compare(values, seed=settings.seed)
    except ValueError:
        return tables
    return tables


ANALYSIS = Analysis(
    "depth_curves", CurveSettings, units, run_unit, summarise, checks=MAPS, keep_values=False
)

if __name__ == "__main__":
    main("analyses.depth_curves")
