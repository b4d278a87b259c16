"""Fresh problems from a seed, of any family."""

import random
from collections.abc import Callable
from typing import Any, get_args

from step_saliency.options import check_seed, is_whole
from step_saliency.tasks.graph import Difficulty, Split, draw_graph
from step_saliency.tasks.notation import Family
from step_saliency.tasks.problem import LEVELS, Level, Problem
from step_saliency.tasks.report import (
    REPORT_LEVELS,
    ReportDifficulty,
    ReportProblem,
)
from step_saliency.tasks.report.drawing import draw_report


def make_problems(
    n: int = 100,
    level: Level | Difficulty = "medium",
    seed: int = 0,
    *,
    family: Family = "symbols",
    split: Split = "test",
) -> list[Problem]:
    """Fresh problems from a seed.

    Args:
        n: How many.
        level: ``"easy"``, ``"medium"``, ``"hard"``, or dials of your own (`ReportDifficulty` for
            reports).
        seed: The same seed gives the same problems; the first n do not depend on n.
        family: ``"symbols"`` (``p=q+12; ...``) or ``"words"`` (short English sentences), for the
            bundled reasoner; the same seed gives the same graphs in both. ``"report"`` for the
            bundled reporter: problems whose summary puts the answer together.
        split: ``"test"`` problems never occur in training, in any family. Reports also have
            ``"dev"``: neither trained on nor tested on, for choosing what the results rest on.

    Returns:
        Problems; two of them may coincide only by chance.

    Raises:
        ValueError: For unknown names, numbers that are none, or dials that allow no problem.
    """
    _check_choice("split", split, Split)
    _check_choice("family", family, Family)
    if not isinstance(level, Difficulty):
        _check_choice("level", level, Level)
    if not is_whole(n, least=0):
        raise ValueError(f"n={n!r}: must be a whole number from 0")
    check_seed(seed)
    named = None if isinstance(level, Difficulty) else level
    if family == "report":
        difficulty = REPORT_LEVELS[level] if not isinstance(level, Difficulty) else level
    else:
        difficulty = LEVELS[level] if not isinstance(level, Difficulty) else level
    _check_family(family, difficulty, split)
    rng = random.Random(f"{seed}/{split}/{difficulty}")
    return [
        _draw(
            rng,
            difficulty,
            split,
            family=family,
            id=f"{family}-{named or 'custom'}-{split}-{seed}-{i}",
            level=named,
        )
        for i in range(n)
    ]


def _draw(rng: random.Random, difficulty: Difficulty, split: Split, **named: Any) -> Problem:
    if isinstance(difficulty, ReportDifficulty):
        report = draw_report(rng, difficulty, split)
        return ReportProblem(graph=report, difficulty=difficulty, **named)
    return Problem(graph=draw_graph(rng, difficulty, split), difficulty=difficulty, **named)


def _check_family(family: Family, difficulty: Difficulty, split: Split) -> None:
    is_report = family == "report"
    if is_report != isinstance(difficulty, ReportDifficulty):
        needed = "a ReportDifficulty" if is_report else "a plain Difficulty"
        raise ValueError(f"level={difficulty!r}: family {family!r} takes {needed}")
    if split == "dev" and not is_report:
        raise ValueError(f"split='dev': only reports have one, not family {family!r}")


def _check_choice(name: str, value: str, choices: Callable[..., Any] | Any) -> None:
    if value not in get_args(choices):
        raise ValueError(f"{name}={value!r} is unknown; choose one of {get_args(choices)}")
