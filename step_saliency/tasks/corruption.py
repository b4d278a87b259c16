"""Solutions broken on purpose: one error of a given kind, from which later steps follow."""

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from step_saliency.options import check_option
from step_saliency.tasks.grading import ERROR_KINDS, ErrorKind, split_response
from step_saliency.tasks.graph import Graph, Premise, apply
from step_saliency.tasks.notation import WrittenStep, join_response, right_step

Summary = tuple[str, int]
"""A broken summary, and the number of the sentence that is wrong in it."""


@dataclass(frozen=True)
class Corruption:
    """A solution broken on purpose: its text, and where and how it was broken."""

    response: str
    first_wrong_step: int
    error_kind: ErrorKind


@dataclass(frozen=True)
class Style:
    """How a family writes a solution.

    Attributes:
        step: Writes a thinking step.
        summary: Writes the summary that follows from the values of the thinking.
        broken_summary: Writes a wrong one after a right thinking part.
    """

    step: Callable[[WrittenStep], str]
    summary: Callable[[Mapping[str, int]], str]
    broken_summary: Callable[[random.Random], Summary]


def corrupt_solution(graph: Graph, style: Style, kind: ErrorKind, rng: random.Random) -> Corruption:
    """The canonical solution with one error of ``kind``; later steps follow from the wrong values.

    Raises:
        ValueError: If there is no such kind, or the solution has no place for such an error
            (``recall`` or ``arithmetic`` where every needed premise is a given number).
    """
    check_option("kind", kind, ERROR_KINDS)
    if kind == "order":
        return _disorder(graph, style, rng)
    if kind in ("summary", "format"):
        return _break_end(graph, style, kind, rng)
    given = [name for name in graph.order if graph[name].op is None and name in _used(graph)]
    if kind == "premise" and given and rng.random() < 0.25:
        return _leave_out(graph, style, rng.choice(given), kind)
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
    return Corruption(_write(steps, style, values), place, kind)


def _used(graph: Graph) -> set[str]:
    """Names that another needed premise uses."""
    return {name for user in graph.order for name in graph[user].variables}


def _write(steps: Iterable[WrittenStep], style: Style, values: Mapping[str, int]) -> str:
    return join_response([style.step(step) for step in steps], style.summary(values))


def other_number(number: int, rng: random.Random) -> int:
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
        return replace(step, result=other_number(step.result, rng))
    if rng.random() < 0.5 or isinstance(step.premise.right, int):
        left = other_number(left, rng)
    else:
        right = other_number(right, rng)
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


def _disorder(graph: Graph, style: Style, rng: random.Random) -> Corruption:
    """Leave out a step that computes something, or put any step after the first that uses it."""
    name = rng.choice(graph.order)
    if name not in _used(graph) or (graph[name].op is not None and rng.random() < 0.5):
        return _leave_out(graph, style, name, "order")
    order = [other for other in graph.order if other != name]
    use = next(i for i, user in enumerate(order) if name in graph[user].variables)
    order.insert(use + 1, name)
    steps = [right_step(graph[other], graph.values) for other in order]
    return Corruption(_write(steps, style, graph.values), use, "order")


def _leave_out(graph: Graph, style: Style, name: str, kind: ErrorKind) -> Corruption:
    """The canonical solution without one step; its value is used all the same."""
    order = [other for other in graph.order if other != name]
    users = (i for i, user in enumerate(order) if name in graph[user].variables)
    steps = [right_step(graph[other], graph.values) for other in order]
    text = _write(steps, style, graph.values)
    return Corruption(text, next(users, len(order)), kind)


def _break_end(graph: Graph, style: Style, kind: ErrorKind, rng: random.Random) -> Corruption:
    steps = [right_step(graph[name], graph.values) for name in graph.order]
    if kind == "summary":
        summary, place = style.broken_summary(rng)
        text = join_response([style.step(step) for step in steps], summary)
        return Corruption(text, len(steps) + place, kind)
    text = _write(steps, style, graph.values)
    if rng.random() < 0.5:
        return Corruption(_unclosed(text), len(steps), kind)
    place = rng.randrange(len(steps))
    lines, _ = split_response(text)
    sign = next(sign for sign in ("=", " has", " are") if sign in lines[place])
    lines[place] = lines[place].replace(sign, " ", 1)
    return Corruption(join_response(lines, style.summary(graph.values)), place, kind)


def _unclosed(text: str) -> str:
    """Without the end of the thinking, and without a summary that would read as thinking."""
    thinking, mark, summary = text.partition("</think>")
    return thinking if "\n" in summary.strip() else text.replace(mark, "")
