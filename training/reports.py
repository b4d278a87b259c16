"""The reporter's training problems: reports of all sizes, short ones first.

It was trained in two parts. The first was on reports without a plan, of up to 36 steps: there it
learnt to read, to compute and to recall, and not to find the order of the steps. The second is on
planned reports. No report of the training restates a value twice.
"""

import random
from dataclasses import dataclass

from step_saliency.tasks.graph import Split
from step_saliency.tasks.making import Problem
from step_saliency.tasks.report import ReportDifficulty, ReportProblem
from step_saliency.tasks.report.drawing import draw_report

MIN_STEPS = 2
MAX_DISTRACTORS = 12


@dataclass(frozen=True)
class Range:
    """Of the reports that are trained on.

    Attributes:
        steps, values, distance: Most of each.
        first: Most steps in the first pool.
        pools: From this pool on the range is full.
        planned: Whether the questions list every step.
        gathered: Share of the reports whose summary gathers the values itself.
    """

    steps: int
    values: int
    distance: int
    first: int
    pools: int
    planned: bool
    gathered: float


UNPLANNED = Range(steps=36, values=12, distance=12, first=4, pools=60, planned=False, gathered=0.0)
PLANNED = Range(steps=20, values=8, distance=6, first=12, pools=6, planned=True, gathered=0.85)


def draw_difficulty(rng: random.Random, pool: int, range_: Range = PLANNED) -> ReportDifficulty:
    """Short reports are more frequent than long ones."""
    longest = min(range_.steps, range_.first + pool * (range_.steps - range_.first) // range_.pools)
    n_steps = min(rng.randint(MIN_STEPS, longest), rng.randint(MIN_STEPS, longest))
    n_values = rng.randint(1, min(range_.values, n_steps))
    distance = rng.randint(0, min(range_.distance, n_steps - n_values))
    return ReportDifficulty(
        n_steps=n_steps,
        n_distractors=min(rng.randint(0, MAX_DISTRACTORS), rng.randint(0, MAX_DISTRACTORS)),
        digits=rng.choices((1, 2, 3), (1, 7, 2))[0],
        distance=rng.choice((0, distance)),
        n_values=n_values,
        planned=range_.planned,
        gathered=range_.gathered > 0 and rng.random() < range_.gathered,
    )


def draw_conversations(
    rng: random.Random, n: int, *, pool: int, split: Split, range_: Range = PLANNED
) -> list[tuple[str, str]]:
    """Questions of mixed difficulty and their solutions."""
    problems: list[Problem] = []
    for i in range(n):
        difficulty = draw_difficulty(rng, pool, range_)
        graph = draw_report(rng, difficulty, split)
        problems.append(ReportProblem(graph, "report", str(i), difficulty))
    return [(problem.question, problem.solution) for problem in problems]


def draw_unplanned(rng: random.Random, n: int, *, pool: int, split: Split) -> list[tuple[str, str]]:
    """Those of the first part."""
    return draw_conversations(rng, n, pool=pool, split=split, range_=UNPLANNED)
