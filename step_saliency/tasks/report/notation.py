"""How a report is written: question, thinking steps, sentences of the summary; and read again.

Ned's figs are 35. Val's nuts are Ned's figs + 12. Find Ned's figs, Val's nuts. What are Val's
nuts - Ned's figs?
Ned's figs are 35.
Val's nuts are Ned's figs + 12 = 35 + 12 = 47.
</think>

Val's nuts are 47.
Ned's figs are 35: 47 - 35 = 12.
The answer is 12.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

from step_saliency.tasks.graph import Operator, Premise, apply
from step_saliency.tasks.notation import DIGITS, NAMES, SUMMARY, WrittenStep
from step_saliency.tasks.report.graph import THINGS, ReportGraph, Term

SEPARATOR = " "
_NAME = rf"((?:{'|'.join(NAMES)})'s (?:{'|'.join(THINGS)}))"
_NUMBER = rf"(-?{DIGITS})"
_TAIL = rf"{_NUMBER} ([+-]) {_NUMBER} = {_NUMBER}\."
_GIVEN = re.compile(rf"{_NAME} are {_NUMBER}\.")
_COMPUTED = re.compile(rf"{_NAME} are {_NAME} ([+-]) (?:{_NAME}|({DIGITS})) = {_TAIL}")
_ADDED = re.compile(rf"{_NAME} are {_NUMBER}: {_TAIL}")


@dataclass(frozen=True)
class Sentence:
    """A sentence of the summary: a value restated and, from the second on, the running total.

    Attributes:
        name: Whose value is restated.
        value: The value.
        added: Total so far, sign and value as written out; None in the first sentence.
        total: The total with this value in it.
    """

    name: str
    value: int
    added: tuple[int, Operator, int] | None
    total: int


def write_premise(premise: Premise) -> str:
    if premise.op is None:
        return f"{premise.name} are {premise.left}"
    return f"{premise.name} are {premise.left} {premise.op} {premise.right}"


def write_query(graph: ReportGraph) -> str:
    """What is to be found and what is asked."""
    total = "".join(f" {term.op} {term.name}" for term in graph.terms).removeprefix(" + ")
    names = graph.order if graph.planned else graph.found
    if graph.gathered:
        thing = graph.terms[0].name.split("'")[1]
        return f"Find {', '.join(names)}. What are everyone'{thing}?"
    return f"Find {', '.join(names)}. What are {total}?"


def write_step(written: WrittenStep) -> str:
    """A thinking step as a line."""
    if written.substituted is None:
        return f"{write_premise(written.premise)}."
    left, op, right = written.substituted
    return f"{write_premise(written.premise)} = {left} {op} {right} = {written.result}."


def read_step(line: str) -> WrittenStep | None:
    """A thinking step; None if the line is none."""
    if match := _GIVEN.fullmatch(line):
        given = int(match[2])
        return WrittenStep(Premise(match[1], given), None, given)
    if match := _COMPUTED.fullmatch(line):
        name, left, op, other, number, *tail = match.groups()
        premise = Premise(name, left, cast(Operator, op), other or int(number))
        substituted = (int(tail[0]), cast(Operator, tail[1]), int(tail[2]))
        return WrittenStep(premise, substituted, int(tail[3]))
    return None


def write_sentence(sentence: Sentence) -> str:
    """A sentence of the summary as a line."""
    start = f"{sentence.name} are {sentence.value}"
    if sentence.added is None:
        return f"{start}."
    left, op, right = sentence.added
    return f"{start}: {left} {op} {right} = {sentence.total}."


def read_sentence(line: str) -> Sentence | None:
    """A sentence of the summary; None if the line is none."""
    if match := _GIVEN.fullmatch(line):
        return Sentence(match[1], int(match[2]), None, int(match[2]))
    if match := _ADDED.fullmatch(line):
        name, value, left, op, right, total = match.groups()
        added = (int(left), cast(Operator, op), int(right))
        return Sentence(name, int(value), added, int(total))
    return None


def sentences(terms: Sequence[Term], numbers: Sequence[int]) -> Iterator[Sentence]:
    """The sentences that restate ``numbers``, one a term, and add them up rightly."""
    total = None
    for term, value in zip(terms, numbers, strict=True):
        added = None if total is None else (total, term.op, value)
        total = value if total is None else apply(term.op, total, value)
        yield Sentence(term.name, value, added, total)


def write_summary(graph: ReportGraph, numbers: Sequence[int]) -> str:
    """The summary that restates ``numbers``, one a term, and follows from them."""
    written = list(sentences(graph.terms, numbers))
    return "\n".join([*map(write_sentence, written), SUMMARY.format(written[-1].total)])


def write_question(graph: ReportGraph) -> tuple[str, list[tuple[int, int]]]:
    """The question and the character span of each premise in it (separator not included)."""
    text, spans = "", []
    for premise in graph.premises:
        start = len(text)
        text += write_premise(premise) + "."
        spans.append((start, len(text)))
        text += SEPARATOR
    return text + write_query(graph), spans
