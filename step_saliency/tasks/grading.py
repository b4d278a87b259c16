"""Where a written solution first goes wrong, and why; and solutions broken on purpose.

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

import random
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from step_saliency.tasks.graph import Graph, Premise, apply
from step_saliency.tasks.notation import (
    NOTATIONS,
    SUMMARY,
    Family,
    WrittenStep,
    join_response,
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


@dataclass(frozen=True)
class Grade:
    """Finding about one response.

    Attributes:
        is_correct: Whether the answer given is the gold answer.
        answer: The answer given; None if there is none to be read.
        first_wrong_step: Index of the first wrong thinking step (0 first), or the number of
            thinking steps if the summary is the first; None if nothing is wrong.
        error_kind: Why that step is wrong; None if nothing is wrong.
        superfluous: Thinking steps that the answer does not rest on, or that are repeated.
    """

    is_correct: bool
    answer: str | None
    first_wrong_step: int | None
    error_kind: ErrorKind | None
    superfluous: tuple[int, ...] = ()


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
    found: list[tuple[int, ErrorKind]] = []
    superfluous = []
    for i, written in enumerate(steps):
        if error := step_error(written, graph, values, stated):
            found.append((i, error))
        if written is None:
            continue
        if written.premise.name not in graph.order or written.premise.name in values:
            superfluous.append(i)
        values[written.premise.name] = written.result
    if answer is None:
        found.append((len(lines), "format"))
    elif graph.target not in values:
        found.append((len(lines), "order"))
    elif values[graph.target] != answer:
        found.append((len(lines), "summary"))
    first = found[0] if found else (None, None)
    return Grade(
        is_correct=answer == graph.values[graph.target],
        answer=None if answer is None else str(answer),
        first_wrong_step=first[0],
        error_kind=first[1],
        superfluous=tuple(superfluous),
    )


@dataclass(frozen=True)
class Corruption:
    """A solution broken on purpose: its text, and where and how it was broken."""

    response: str
    first_wrong_step: int
    error_kind: ErrorKind


def corrupt_solution(
    graph: Graph, family: Family, kind: ErrorKind, rng: random.Random
) -> Corruption:
    """The canonical solution with one error of ``kind``; later steps follow from the wrong values.

    Raises:
        ValueError: If the solution has no place for such an error (``recall`` or ``arithmetic``
            where every needed premise is a given number).
    """
    if kind == "order":
        return _disorder(graph, family, rng)
    if kind in ("summary", "format"):
        return _break_end(graph, family, kind, rng)
    given = [name for name in graph.order if graph[name].op is None and name != graph.target]
    if kind == "premise" and given and rng.random() < 0.25:
        return _leave_out(graph, family, rng.choice(given), kind)
    places = [
        i for i, name in enumerate(graph.order) if kind == "premise" or graph[name].op is not None
    ]
    if not places:
        raise ValueError(f"kind={kind!r}: no step of this problem computes anything")
    place = rng.choice(places)
    values: dict[str, int] = {}
    steps = []
    for i, name in enumerate(graph.order):
        step = right_step(graph[name], values)
        if i == place:
            step = _break_step(step, kind, values, rng)
        values[name] = step.result
        steps.append(step)
    return Corruption(_write(steps, family, values[graph.target]), place, kind)


def _write(steps: Iterable[WrittenStep], family: Family, answer: int) -> str:
    lines = [NOTATIONS[family].step(step) for step in steps]
    return join_response(lines, SUMMARY.format(answer))


def _other_number(number: int, rng: random.Random) -> int:
    """A number that is easily mistaken for ``number``: a digit off, a carry missed, a sign lost."""
    shift = rng.choice([1, 2, 5, 10, 100])
    return rng.choice([n for n in (number + shift, number - shift, -number) if n != number])


def _break_step(
    step: WrittenStep,
    kind: ErrorKind,
    values: Mapping[str, int],
    rng: random.Random,
) -> WrittenStep:
    if kind == "premise":
        wrong = _break_premise(step.premise, values, rng)
        return right_step(wrong, values)
    if step.substituted is None:
        raise AssertionError("only steps that compute something are broken in this way")
    left, op, right = step.substituted
    if kind == "arithmetic":
        return replace(step, result=_other_number(step.result, rng))
    if rng.random() < 0.5 or isinstance(step.premise.right, int):
        left = _other_number(left, rng)
    else:
        right = _other_number(right, rng)
    return WrittenStep(step.premise, (left, op, right), apply(op, left, right))


def _break_premise(premise: Premise, values: Mapping[str, int], rng: random.Random) -> Premise:
    """The same name with a wrong number, operand or sign."""
    if premise.op is None:
        return replace(premise, left=int(premise.left) + rng.choice([1, 2, 10, 100]))
    ways = ["op", "left"] + ["right"] * 2
    way = rng.choice(ways)
    others = [name for name in values if name not in premise.variables]
    if way == "left" and others:
        return replace(premise, left=rng.choice(others))
    if way == "right" and isinstance(premise.right, int):
        return replace(premise, right=premise.right + rng.randint(1, 9))
    if way == "right" and others:
        return replace(premise, right=rng.choice(others))
    return replace(premise, op="-" if premise.op == "+" else "+")


def _disorder(graph: Graph, family: Family, rng: random.Random) -> Corruption:
    """Leave out a step that computes something, or put any step after the first that uses it."""
    name = rng.choice(graph.order)
    if name == graph.target or (graph[name].op is not None and rng.random() < 0.5):
        return _leave_out(graph, family, name, "order")
    order = [other for other in graph.order if other != name]
    use = next(i for i, user in enumerate(order) if name in graph[user].variables)
    order.insert(use + 1, name)
    steps = [right_step(graph[other], graph.values) for other in order]
    return Corruption(_write(steps, family, graph.values[graph.target]), use, "order")


def _leave_out(graph: Graph, family: Family, name: str, kind: ErrorKind) -> Corruption:
    """The canonical solution without one step; its value is used all the same."""
    order = [other for other in graph.order if other != name]
    users = (i for i, user in enumerate(order) if name in graph[user].variables)
    steps = [right_step(graph[other], graph.values) for other in order]
    text = _write(steps, family, graph.values[graph.target])
    return Corruption(text, next(users, len(order)), kind)


def _break_end(graph: Graph, family: Family, kind: ErrorKind, rng: random.Random) -> Corruption:
    steps = [right_step(graph[name], graph.values) for name in graph.order]
    gold = graph.values[graph.target]
    if kind == "summary":
        return Corruption(_write(steps, family, _other_number(gold, rng)), len(steps), kind)
    text = _write(steps, family, gold)
    if rng.random() < 0.5:
        return Corruption(text.replace("</think>", ""), len(steps), kind)
    place = rng.randrange(len(steps))
    lines, _ = split_response(text)
    lines[place] = lines[place].replace("=" if "=" in lines[place] else " has", " ", 1)
    return Corruption(join_response(lines, SUMMARY.format(gold)), place, kind)
