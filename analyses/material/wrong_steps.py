"""The first wrong thinking step of a wrong answer: by a grader, or by a worked solution.

The bundled task has a grader that knows the step graph; rows of a file have, where they are
GSM8K's, worked solutions, which say it by either rule of `analyses.material.worked`.

When it misleads: a grader files a thinking part that ends too early where the summary begins, and
so does a rule that finds all steps in order.
"""

from collections.abc import Mapping
from typing import Any, Literal

import pandas as pd

from analyses.material.problems import TASK, Item, SourceSettings, check_task
from analyses.material.worked import first_wrong_of, worked_values
from step_saliency.trace import Trace

RuleName = Literal["grader", "first off", "last on"]
RULE_HELP = (
    "what finds the first wrong step: the task's grader, or GSM8K's worked solutions by either "
    "rule of analyses.material.worked"
)


def check_rule(settings: SourceSettings, rule: RuleName) -> None:
    """Raise ValueError where a rule cannot read the problems.

    Args:
        settings: Of the run.
        rule: What is to find the first wrong step.
    """
    if rule == "grader":
        check_task(settings, "first wrong steps")
    elif settings.data == TASK:
        raise ValueError(
            f"rule={rule!r} reads worked solutions of a file (--data FILE); the bundled "
            "task has a grader of its own (--rule grader)"
        )


def is_told(item: Item, rule: RuleName) -> bool:
    """Whether a rule can say where a wrong answer to a problem goes wrong.

    Args:
        item: The problem.
        rule: What is to find the first wrong step.

    Returns:
        False for a row of a file whose solution computes nothing that can be read.
    """
    if rule == "grader" or item.row is None:
        return True
    try:
        worked_values(str(item.row.gold))
    except ValueError:
        return False
    return True


def first_wrong(item: Item, trace: Trace, grade: Mapping[Any, Any], rule: RuleName) -> int | None:
    """Place of the first wrong thinking step of an answer, from 0.

    Args:
        item: The problem.
        trace: The answer.
        grade: Its row of `analyses.material.answers.answers`.
        rule: What finds it; a right answer is left to the grader.

    Returns:
        None where no step is wrong, and, by a worked solution, where the summary is the first.
    """
    if rule == "grader" or grade["is_correct"]:
        first = grade["first_wrong_step"]
        return None if pd.isna(first) else int(first)
    assert item.row is not None
    return first_wrong_of(trace, item.question, str(item.row.gold), rule)
