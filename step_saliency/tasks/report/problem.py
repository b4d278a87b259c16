"""A report as a problem: the same interface as the other families have."""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from step_saliency.tasks.gold import GoldGraph, GoldSentence, gold_steps
from step_saliency.tasks.grading import Grade, split_response
from step_saliency.tasks.lines import response_pieces
from step_saliency.tasks.notation import WrittenStep, join_response, right_step
from step_saliency.tasks.problem import Problem, response_text
from step_saliency.tasks.report.corruption import broken_summary
from step_saliency.tasks.report.grading import grade_report
from step_saliency.tasks.report.graph import ReportGraph
from step_saliency.tasks.report.notation import (
    SEPARATOR,
    read_sentence,
    read_step,
    write_question,
    write_step,
    write_summary,
)
from step_saliency.trace import Region, Trace


@dataclass(frozen=True)
class ReportProblem(Problem):
    """One question with its gold answer, solution and graph; its summary has several sentences."""

    graph: ReportGraph

    @property
    def separator(self) -> str:
        """What stands between the sentences of the question."""
        return SEPARATOR

    @cached_property
    def _written_question(self) -> tuple[str, list[tuple[int, int]]]:
        return write_question(self.graph)

    @property
    def solution(self) -> str:
        """Canonical response: what the model should write after ``<think>`` and a line feed."""
        graph = self.graph
        lines = [write_step(right_step(graph[name], graph.values)) for name in graph.order]
        return join_response(lines, self.write_summary(graph.values))

    def read_step(self, line: str) -> WrittenStep | None:
        """A thinking step read from its line; None if the line is none."""
        return read_step(line)

    def write_step(self, written: WrittenStep) -> str:
        """A thinking step as a line."""
        return write_step(written)

    def write_summary(self, values: Mapping[str, int]) -> str:
        """The summary that follows from the values of a thinking part, right or wrong."""
        return write_summary(self.graph, [values[term.name] for term in self.graph.terms])

    def graph_of(self, response: str | Trace) -> GoldGraph:
        """True dependencies of any response, right or wrong, each sentence of its summary too.

        A sentence needs the last thinking step that computes the name it restates, and the sentence
        before it, whose total it goes on from; the answer needs the last sentence.
        """
        lines, summary = split_response(response_text(response))
        steps, last = gold_steps(lines, [read_step(line) for line in lines], self.graph)
        values = {last[term.name] for term in self.graph.terms if term.name in last}
        return GoldGraph(
            tuple(self._written_question[1]),
            tuple(steps),
            tuple(sorted(values)),
            tuple(_gold_sentences(summary or "", last)),
        )

    def grade(self, response: str | Trace) -> Grade:
        """Whether the answer is right, and where and why the response first goes wrong."""
        return grade_report(response_text(response), self.graph)

    def _broken_summary(self, rng: random.Random) -> tuple[str, int]:
        return broken_summary(self.graph, rng)

    def _response_pieces(self, response: str) -> Iterator[tuple[str, Region]]:
        return response_pieces(response, cut_summary=True)


def _gold_sentences(summary: str, last: dict[str, int]) -> Iterator[GoldSentence]:
    lines = [line for line in summary.split("\n") if line.strip()]
    for i, line in enumerate(lines):
        sentence = read_sentence(line)
        name = None if sentence is None else sentence.name
        thinking = (last[name],) if name in last else ()
        yield GoldSentence(line, name, thinking, (i - 1,) if i else ())
