"""Two notations for the same graphs: ``symbols`` (``q=i-70``) and ``words`` (short sentences).

Each notation writes a question, the steps of a solution and the summary, and reads a step back into
its parts. A step is a sentence on a line of its own, so that every way of cutting text into steps
cuts it alike: it restates the premise, substitutes and computes.

    symbols   Then q=i-70=35-70=-35.
    words     Quin has 70 fewer than Ivy: 35-70=-35.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from step_saliency.tasks.graph import ALPHABET, Graph, Operator, Premise, evaluate

Family = Literal["symbols", "words", "report"]

# fmt: off
NAMES = (
    "Ann", "Bob", "Cid", "Dan", "Eve", "Fay", "Gus", "Hal", "Ivy", "Jon", "Kim", "Leo", "Mia",
    "Ned", "Oda", "Pam", "Quin", "Ray", "Sue", "Tom", "Una", "Val", "Wes", "Xia", "Yan", "Zoe",
)
# fmt: on
PERSON = dict(zip(ALPHABET, NAMES, strict=True))
LETTER = {person: letter for letter, person in PERSON.items()}

SUMMARY = "The answer is {}."
DIGITS = r"\d{1,1000}"
"""A number in a step; longer ones, which a model may write without end, are none."""
_NUMBER = rf"(-?{DIGITS})"
_SUMMARY = re.compile(rf"The answer is {_NUMBER}\.")
_OPENING = r"(?:Given: |Then )"
_TAIL = rf"{_NUMBER}([+-]){_NUMBER}={_NUMBER}"


@dataclass(frozen=True)
class WrittenStep:
    """A thinking step as it was written: the premise restated, what was put in, what came out."""

    premise: Premise
    substituted: tuple[int, Operator, int] | None
    result: int


def _operand(text: str) -> str | int:
    return int(text) if text.isdigit() else text


class Symbols:
    """``p=q+q; q=i-70; i=35; ?p``

    Steps open with ``Given:`` or ``Then``; which of the two is read as a manner of speaking, since
    a wrong opening says nothing wrong.
    """

    separator = "; "

    _given = re.compile(rf"{_OPENING}([a-z])={_NUMBER}\.")
    _computed = re.compile(rf"{_OPENING}([a-z])=([a-z])([+-])([a-z]|{DIGITS})={_TAIL}\.")

    def premise(self, premise: Premise) -> str:
        if premise.op is None:
            return f"{premise.name}={premise.left}"
        return f"{premise.name}={premise.left}{premise.op}{premise.right}"

    def query(self, name: str) -> str:
        return f"?{name}"

    def step(self, written: WrittenStep) -> str:
        if written.substituted is None:
            return f"Given: {self.premise(written.premise)}."
        left, op, right = written.substituted
        return f"Then {self.premise(written.premise)}={left}{op}{right}={written.result}."

    def read(self, line: str) -> WrittenStep | None:
        if match := self._given.fullmatch(line):
            number = int(match[2])
            return WrittenStep(Premise(match[1], number), None, number)
        if match := self._computed.fullmatch(line):
            premise = Premise(match[1], match[2], _operator(match[3]), _operand(match[4]))
            return _computed(premise, match.groups()[4:])
        return None


class Words:
    """``Quin has 70 fewer points than Ivy. Ivy has 35 points. How many points does Quin have?``"""

    separator = " "

    _given = re.compile(rf"(\w+) has {_NUMBER} points\.")
    _number = re.compile(rf"(\w+) has ({DIGITS}) (more|fewer) than (\w+): {_TAIL}\.")
    _sum = re.compile(rf"(\w+) has as many as (\w+) and (\w+) together: {_TAIL}\.")
    _difference = re.compile(rf"(\w+) has as many as (\w+) has more than (\w+): {_TAIL}\.")

    def premise(self, premise: Premise) -> str:
        return self._restate(premise, points=" points") + "."

    def _restate(self, premise: Premise, *, points: str) -> str:
        name, left, right = (
            PERSON.get(str(part), part) for part in (premise.name, premise.left, premise.right)
        )
        if premise.op is None:
            return f"{name} has {left} points"
        if isinstance(premise.right, int):
            more = "more" if premise.op == "+" else "fewer"
            return f"{name} has {right} {more}{points} than {left}"
        if premise.op == "+":
            return f"{name} has as many{points} as {left} and {right} together"
        return f"{name} has as many{points} as {left} has more than {right}"

    def query(self, name: str) -> str:
        return f"How many points does {PERSON[name]} have?"

    def step(self, written: WrittenStep) -> str:
        if written.substituted is None:
            return self.premise(written.premise)
        left, op, right = written.substituted
        return f"{self._restate(written.premise, points='')}: {left}{op}{right}={written.result}."

    def read(self, line: str) -> WrittenStep | None:
        try:
            return self._read(line)
        except KeyError:
            return None

    def _read(self, line: str) -> WrittenStep | None:
        if match := self._given.fullmatch(line):
            number = int(match[2])
            return WrittenStep(Premise(LETTER[match[1]], number), None, number)
        if match := self._number.fullmatch(line):
            op: Operator = "+" if match[3] == "more" else "-"
            premise = Premise(LETTER[match[1]], LETTER[match[4]], op, int(match[2]))
            return _computed(premise, match.groups()[4:])
        for op, pattern in (("+", self._sum), ("-", self._difference)):
            if match := pattern.fullmatch(line):
                premise = Premise(LETTER[match[1]], LETTER[match[2]], op, LETTER[match[3]])
                return _computed(premise, match.groups()[3:])
        return None


def _operator(text: str) -> Operator:
    return "+" if text == "+" else "-"


def _computed(premise: Premise, tail: tuple[str, ...]) -> WrittenStep:
    left, op, right, result = tail
    return WrittenStep(premise, (int(left), _operator(op), int(right)), int(result))


NOTATIONS: dict[Family, Symbols | Words] = {"symbols": Symbols(), "words": Words()}


def right_step(premise: Premise, values: Mapping[str, int]) -> WrittenStep:
    """The step that restates ``premise``, substitutes ``values`` and computes, all correctly."""
    result = evaluate(premise, values)
    if premise.op is None or premise.right is None:
        return WrittenStep(premise, None, result)
    left, right = (
        values[operand] if isinstance(operand, str) else operand
        for operand in (premise.left, premise.right)
    )
    return WrittenStep(premise, (left, premise.op, right), result)


def write_question(graph: Graph, family: Family) -> tuple[str, list[tuple[int, int]]]:
    """The question and the character span of each premise in it (separator not included)."""
    notation = NOTATIONS[family]
    text, spans = "", []
    for premise in graph.premises:
        start = len(text)
        text += notation.premise(premise)
        spans.append((start, len(text)))
        text += notation.separator
    return text + notation.query(graph.target), spans


def write_steps(graph: Graph, family: Family) -> list[str]:
    """The lines of the canonical solution."""
    notation = NOTATIONS[family]
    return [notation.step(right_step(graph[name], graph.values)) for name in graph.order]


def join_response(lines: list[str], summary: str) -> str:
    """What the model writes after ``<think>`` and a line feed."""
    return "\n".join(lines) + "\n</think>\n\n" + summary


def read_summary(text: str) -> int | None:
    match = _SUMMARY.fullmatch(text.strip())
    return int(match[1]) if match else None
