"""Where a written solution first goes wrong, and why.

Steps are read in the order written. A step is held against the question and against the values that
*the trace itself* wrote before, so that an error is charged once, where it arises:

    premise     the restated premise is not in the question (miscopied or invented), or the step
                uses a given number that no step ever states (forgotten)
    order       it uses another value that no earlier step computed, or one that is stated too
                late, or the trace ends without the target
    recall      the substituted numbers or sign differ from the premise and the values so far
    arithmetic  the result is not what the substituted numbers give (a missed carry among others)
    summary     the answer is not the value last written for the target
    format      a line, or the whole response, does not follow the notation

The tests are made in that order from ``premise`` to ``arithmetic``, and the first that fails names
the error; a step that lacks several values is charged with the first of them. A step that is right
but not needed is no error (it is listed as superfluous). An answer can be right by luck after a
wrong step, so ``is_correct`` and ``error_kind`` are separate findings.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from step_saliency.segment.regions import Region
from step_saliency.tasks.graph import Graph, apply
from step_saliency.tasks.notation import (
    NOTATIONS,
    Family,
    WrittenStep,
    read_summary,
    right_step,
)

ErrorKind = Literal["premise", "order", "recall", "arithmetic", "summary", "format"]
ERROR_KINDS: tuple[ErrorKind, ...] = (
    "premise",
    "order",
    "recall",
    "arithmetic",
    "summary",
    "format",
)
SummaryError = Literal["reading", "recall", "arithmetic", "answer"]
"""What is wrong with a sentence of a report's summary, see `step_saliency.tasks.report.grading`."""
SUMMARY_ERRORS: tuple[SummaryError, ...] = ("reading", "recall", "arithmetic", "answer")


@dataclass(frozen=True)
class Grade:
    """Finding about one response; true where the answer is right (``if problem.grade(trace):``).

    Attributes:
        is_correct: Whether the answer given is the gold answer.
        answer: The answer given; None if there is none to be read.
        first_wrong_step: Index of the first wrong thinking step (0 first), or the number of
            thinking steps if the summary is the first (and the number of its sentence, 0 first,
            where it has several); None if nothing is wrong.
        error_kind: Why that step is wrong; None if nothing is wrong.
        superfluous: Thinking steps that the answer does not rest on, or that are repeated.
        region: Where the response first goes wrong: thinking (also one that ends too early) or
            summary; None if nothing is wrong.
        summary_error: For ``error_kind`` ``"summary"`` of a report: which kind it is of.
    """

    is_correct: bool
    answer: str | None
    first_wrong_step: int | None
    error_kind: ErrorKind | None
    superfluous: tuple[int, ...] = ()
    region: Region | None = None
    summary_error: SummaryError | None = None

    def __bool__(self) -> bool:
        return self.is_correct


def split_response(response: str) -> tuple[list[str], str | None]:
    """Thinking lines and summary of a response, with or without its opening ``<think>``.

    Blank lines are left out, and so is what follows an end-of-text mark (``<|eos|>``). The summary
    is None where the thinking was never closed.
    """
    text = response.split("<|eos|>")[0].removeprefix("<think>")
    thinking, closed, summary = text.partition("</think>")
    lines = [line for line in thinking.split("\n") if line.strip()]
    return lines, summary.strip() if closed else None


def step_error(
    written: WrittenStep | None, graph: Graph, values: Mapping[str, int], stated: Collection[str]
) -> ErrorKind | None:
    """What is wrong with one step.

    Args:
        written: The step; None if it could not be read.
        graph: What the question says.
        values: What earlier steps wrote, by name.
        stated: Names that any step of the trace computes, earlier or later.
    """
    if written is None:
        return "format"
    premise = written.premise
    if premise.name not in graph.index or graph[premise.name] != premise:
        return "premise"
    missing = next((name for name in premise.variables if name not in values), None)
    if missing is not None:
        forgotten = graph[missing].op is None and missing not in stated
        return "premise" if forgotten else "order"
    if written.substituted != right_step(premise, values).substituted:
        return "recall"
    if written.substituted is not None:
        left, op, right = written.substituted
        if apply(op, left, right) != written.result:
            return "arithmetic"
    return None


def grade_response(response: str, graph: Graph, family: Family) -> Grade:
    """Read ``response`` step by step; see the module docstring for the kinds of error."""
    lines, summary = split_response(response)
    answer = None if summary is None else read_summary(summary)
    steps = [NOTATIONS[family].read(line) for line in lines]
    stated = {step.premise.name for step in steps if step is not None}
    values: dict[str, int] = {}
    errors: list[tuple[int, ErrorKind]] = []
    superfluous = []
    for i, written in enumerate(steps):
        if error := step_error(written, graph, values, stated):
            errors.append((i, error))
        if written is None:
            continue
        if written.premise.name not in graph.order or written.premise.name in values:
            superfluous.append(i)
        values[written.premise.name] = written.result
    if answer is None:
        errors.append((len(lines), "format"))
    elif graph.target not in values:
        errors.append((len(lines), "order"))
    elif values[graph.target] != answer:
        errors.append((len(lines), "summary"))
    first = errors[0] if errors else (None, None)
    in_summary = first[0] == len(lines) and summary is not None and first[1] != "order"
    return Grade(
        is_correct=answer == graph.values[graph.target],
        answer=None if answer is None else str(answer),
        first_wrong_step=first[0],
        error_kind=first[1],
        superfluous=tuple(superfluous),
        region=(Region.SUMMARY if in_summary else Region.THINKING) if errors else None,
    )
