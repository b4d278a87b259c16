"""A program judged by its tests: each is run in a box of its own, and compared outside of it.

Outputs are compared line by line without white space at their ends; lines that differ as texts are
equal if they are the same numbers, as exact decimals. Values of functions are compared as JSON.
Standard input is offered in two ways of running (`inside`): the benchmark's own, on which published
numbers rest, and as a main program; a verdict has both.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from step_saliency.benchmark.sandbox.limits import Limits
from step_saliency.benchmark.sandbox.outcome import Outcome, Sandbox
from step_saliency.benchmark.suites.livecodebench.programs import Way, boxed_program
from step_saliency.benchmark.suites.livecodebench.tests import CodeTest, CodeTests

LIMITS = Limits(seconds=6)
"""The benchmark's own runner gives a test six seconds."""


@dataclass(frozen=True)
class Verdict:
    """How a program did.

    Attributes:
        passed: Whether it passed all tests, by way of running: ``"wrapped"`` (or ``"function"``,
            where functions are called) and ``"script"``.
        failures: Of each way that did not pass: the number of the test and what went wrong.
    """

    passed: Mapping[str, bool]
    failures: Mapping[str, str]

    @property
    def is_correct(self) -> bool:
        """By the benchmark's own way of running."""
        return self.passed.get("wrapped", self.passed.get("function", False))

    @property
    def is_correct_as_script(self) -> bool:
        """As a main program; the same as `is_correct` where functions are called."""
        return self.passed.get("script", self.is_correct)


async def judge(
    program: str, tests: CodeTests, sandbox: Sandbox, limits: Limits = LIMITS
) -> Verdict:
    """Run a program on its tests, until one fails.

    Args:
        program: The program.
        tests: The tests.
        sandbox: The box.
        limits: Of each test.

    Raises:
        SandboxError: a box could not be made.
    """
    ways: list[Way] = ["function"] if tests.function else ["wrapped", "script"]
    passed: dict[str, bool] = {}
    failures: dict[str, str] = {}
    for way in ways:
        failure = await _first_failure(program, tests, way, sandbox, limits)
        passed[way] = failure is None
        if failure is not None:
            failures[way] = failure
    return Verdict(passed, failures)


async def _first_failure(
    program: str, tests: CodeTests, way: Way, sandbox: Sandbox, limits: Limits
) -> str | None:
    boxed = boxed_program(program, way, tests.function)
    for number, test in enumerate(tests.tests):
        outcome = await sandbox.run(boxed, stdin=test.input, limits=limits)
        problem = _problem(outcome, test)
        if problem is not None:
            return f"test {number}: {problem}"
    return None


def _problem(outcome: Outcome, test: CodeTest) -> str | None:
    if outcome.ending == "time":
        return "time limit"
    if outcome.ending == "failed":
        return f"error: {outcome.stderr.strip()[-200:] or outcome.status}"
    same = same_value if test.kind == "functional" else same_output
    return None if same(outcome.stdout, test.output) else "another output"


def same_output(written: str, expected: str) -> bool:
    """Whether two outputs are the same, line by line."""
    ours, theirs = (
        [line.strip() for line in text.strip().split("\n")] for text in (written, expected)
    )
    return len(ours) == len(theirs) and all(
        one == other or _same_numbers(one, other) for one, other in zip(ours, theirs, strict=True)
    )


def same_value(written: str, expected: str) -> bool:
    """Whether two values in JSON are the same; what cannot be compared is not."""
    if written.strip() == expected.strip():
        return True
    try:
        return bool(_value(written) == _value(expected))
    except (ValueError, RecursionError):
        return False


def _value(text: str) -> Any:
    return json.loads(text, parse_int=Decimal)  # of any length, unlike int


def _same_numbers(one: str, other: str) -> bool:
    try:
        ours, theirs = ([Decimal(word) for word in line.split()] for line in (one, other))
        return ours == theirs
    except InvalidOperation:  # no number, or one that compares with none (sNaN)
        return False
