"""Where a written report first goes wrong, and why; its thinking is graded as any other.

The summary is read sentence by sentence and held against what the question asks for and against
what *the trace itself* wrote before: the values of the thinking and the running total. What is
wrong with the first wrong sentence is its ``summary_error``:

    reading     it is about another name, or has another sign, than the question asks for here
    recall      it states another value than the thinking last wrote for the name, or goes on from
                another total, or adds another value, than the summary wrote
    arithmetic  the total is not what the numbers written give
    answer      the answer is not the last total

The tests are made in that order. A line that cannot be read is an error of ``format``, a thinking
part that ends without all that is to be found one of ``order``.
"""

from dataclasses import dataclass, field

from step_saliency.segment.regions import Region
from step_saliency.tasks.grading import (
    ErrorKind,
    Grade,
    SummaryError,
    split_response,
    step_error,
)
from step_saliency.tasks.graph import apply
from step_saliency.tasks.notation import read_summary
from step_saliency.tasks.report.graph import ReportGraph, Term
from step_saliency.tasks.report.notation import Sentence, read_sentence, read_step


@dataclass
class _Reading:
    """What a response has said so far, and what is wrong with it."""

    graph: ReportGraph
    values: dict[str, int] = field(default_factory=dict)
    errors: list[tuple[int, ErrorKind, Region, SummaryError | None]] = field(default_factory=list)
    superfluous: list[int] = field(default_factory=list)
    total: int | None = None
    answer: int | None = None

    def note(
        self, place: int, kind: ErrorKind, region: Region, detail: SummaryError | None = None
    ) -> None:
        self.errors.append((place, kind, region, detail))

    def read_thinking(self, lines: list[str]) -> None:
        steps = [read_step(line) for line in lines]
        stated = {step.premise.name for step in steps if step is not None}
        for i, written in enumerate(steps):
            if error := step_error(written, self.graph, self.values, stated):
                self.note(i, error, Region.THINKING)
            if written is None:
                continue
            name = written.premise.name
            if name not in self.graph.order or name in self.values:
                self.superfluous.append(i)
            self.values[name] = written.result
        if any(name not in self.values for name in self.graph.found):
            self.note(len(lines), "order", Region.THINKING)

    def read_summary(self, lines: list[str], first: int) -> None:
        """Read the sentences, of which the first is step number ``first``."""
        terms = iter(self.graph.terms)
        for i, line in enumerate(lines, start=first):
            sentence, answer = read_sentence(line), read_summary(line)
            if answer is not None and i == first + len(lines) - 1:
                self.answer = answer
                if next(terms, None) is not None:
                    self.note(i, "summary", Region.SUMMARY, "reading")
                elif answer != self.total:
                    self.note(i, "summary", Region.SUMMARY, "answer")
            elif sentence is None:
                self.note(i, "format", Region.SUMMARY)
            else:
                error = self.sentence_error(sentence, next(terms, None))
                if error is not None:
                    self.note(i, "summary", Region.SUMMARY, error)
                self.total = sentence.total
        if self.answer is None:
            self.note(first + len(lines), "format", Region.SUMMARY)

    def sentence_error(self, sentence: Sentence, term: Term | None) -> SummaryError | None:
        is_first = self.total is None
        if term is None or sentence.name != term.name or (sentence.added is None) != is_first:
            return "reading"
        if sentence.added is not None and sentence.added[1] != term.op:
            return "reading"
        if sentence.value != self.values.get(term.name):
            return "recall"
        if sentence.added is None:
            return None
        left, op, right = sentence.added
        if (left, right) != (self.total, sentence.value):
            return "recall"
        return None if apply(op, left, right) == sentence.total else "arithmetic"


def grade_report(response: str, graph: ReportGraph) -> Grade:
    """Read ``response`` step by step; see the module docstring for what can be wrong."""
    lines, summary = split_response(response)
    reading = _Reading(graph)
    reading.read_thinking(lines)
    if summary is None:
        reading.note(len(lines), "format", Region.THINKING)
    else:
        sentences = [line for line in summary.split("\n") if line.strip()]
        reading.read_summary(sentences, len(lines))
    place, kind, region, detail = reading.errors[0] if reading.errors else (None,) * 4
    return Grade(
        is_correct=reading.answer == graph.values[graph.target],
        answer=None if reading.answer is None else str(reading.answer),
        first_wrong_step=place,
        error_kind=kind,
        superfluous=tuple(reading.superfluous),
        region=region,
        summary_error=detail,
    )
