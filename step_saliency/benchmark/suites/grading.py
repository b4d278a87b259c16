"""Right, wrong or unknown: one judgement for each kind of suite, of the whole response.

Mathematics and letters are judged by `step_saliency.tasks` (what follows the thinking, read and
compared by math-verify behind its guards); programs by running them on tests in a box. In a
response that the length cut, the last number is where the writing happened to stop, so there a box
or an announced answer counts and nothing else.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from step_saliency.benchmark.sandbox.outcome import Sandbox
from step_saliency.benchmark.suites.item import Item
from step_saliency.benchmark.suites.livecodebench.judge import judge
from step_saliency.benchmark.suites.livecodebench.programs import program_in
from step_saliency.benchmark.suites.livecodebench.tests import tests_of
from step_saliency.tasks.announced import announces
from step_saliency.tasks.answers import final_answer, is_correct
from step_saliency.tasks.graded_part import graded_part, marked_part


@dataclass(frozen=True)
class Graded:
    """A judgement.

    Attributes:
        is_correct: True or False; None where there is no answer, or none that can be compared.
        answer: The answer that was read.
        facts: Anything else, in JSON types.
    """

    is_correct: bool | None
    answer: str | None
    facts: Mapping[str, Any] = field(default_factory=dict)


def grade_answer(response: str, item: Item, *, is_cut: bool = False) -> Graded:
    """Judge an expression or a letter.

    Args:
        response: The whole response.
        item: Its problem.
        is_cut: Whether the length ended the response.
    """
    if not response.strip() or (is_cut and not announces(marked_part(response))):
        return Graded(None, None)
    return Graded(is_correct(response, item.target), final_answer(response))


async def grade_program(response: str, item: Item, sandbox: Sandbox) -> Graded:
    """Judge a program by the tests of its problem.

    Raises:
        ValueError: the tests cannot be read.
        SandboxError: a box could not be made.
    """
    program = program_in(graded_part(response)) if response.strip() else None
    if program is None:
        return Graded(None, None)
    verdict = await judge(program, tests_of(item.hidden), sandbox)
    facts = {
        "passed": dict(verdict.passed),
        "failures": dict(verdict.failures),
        "is_correct_as_script": verdict.is_correct_as_script,
    }
    return Graded(verdict.is_correct, program, facts)
