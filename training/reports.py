"""The reporter's training problems: reports of all sizes, short ones first."""

import random

from step_saliency.tasks.graph import Split
from step_saliency.tasks.making import Problem
from step_saliency.tasks.report import ReportDifficulty, ReportProblem
from step_saliency.tasks.report.graph import draw_report

MAX_STEPS = 36
MAX_DISTRACTORS = 12
MAX_VALUES = 12
MAX_DISTANCE = 12
CURRICULUM_POOLS = 60


def draw_difficulty(rng: random.Random, pool: int) -> ReportDifficulty:
    """Short reports first; from pool 60 on the full range."""
    longest = min(MAX_STEPS, 4 + pool * (MAX_STEPS - 4) // CURRICULUM_POOLS)
    n_steps = min(rng.randint(1, longest), rng.randint(1, longest))
    n_values = rng.randint(1, min(MAX_VALUES, n_steps))
    distance = rng.randint(0, min(MAX_DISTANCE, n_steps - n_values))
    return ReportDifficulty(
        n_steps=n_steps,
        n_distractors=min(rng.randint(0, MAX_DISTRACTORS), rng.randint(0, MAX_DISTRACTORS)),
        digits=rng.choices((1, 2, 3), (1, 7, 2))[0],
        distance=rng.choice((0, distance)),
        n_values=n_values,
    )


def draw_conversations(
    rng: random.Random, n: int, *, pool: int, split: Split
) -> list[tuple[str, str]]:
    """Questions of mixed difficulty and their solutions."""
    problems: list[Problem] = []
    for i in range(n):
        difficulty = draw_difficulty(rng, pool)
        graph = draw_report(rng, difficulty, split)
        problems.append(ReportProblem(graph, "report", str(i), difficulty))
    return [(problem.question, problem.solution) for problem in problems]
