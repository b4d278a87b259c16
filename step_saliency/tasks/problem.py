"""The bundled task: a problem with question, gold answer, solution and graph."""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any, Literal

import torch

from step_saliency.tasks.corruption import Corruption, Style, corrupt_solution, other_number
from step_saliency.tasks.gold import EdgeMatrices, GoldGraph, edges_of_trace, graph_of_response
from step_saliency.tasks.grading import ErrorKind, Grade, grade_response
from step_saliency.tasks.graph import Difficulty, Graph
from step_saliency.tasks.lines import response_pieces, steps_of_pieces
from step_saliency.tasks.notation import (
    NOTATIONS,
    SUMMARY,
    Family,
    WrittenStep,
    join_response,
    write_question,
    write_steps,
)
from step_saliency.trace import Region, Trace

Level = Literal["easy", "medium", "hard"]

LEVELS: Mapping[Level, Difficulty] = MappingProxyType(
    {
        "easy": Difficulty(n_steps=3, n_distractors=1, digits=1),
        "medium": Difficulty(n_steps=6, n_distractors=3, digits=2),
        "hard": Difficulty(n_steps=6, n_distractors=5, digits=3),
    }
)
"""Dials of the named levels, set by what the bundled reasoner can do (see its model card)."""


@dataclass(frozen=True)
class Problem:
    """One question with its gold answer, solution and graph.

    Attributes:
        graph: Premises and target.
        family: Notation.
        id: Name in tables.
        difficulty: The dials that it was made with.
        level: Name of the level, if it was made by name.
    """

    graph: Graph
    family: Family
    id: str
    difficulty: Difficulty
    level: Level | None = None

    @property
    def separator(self) -> str:
        """What stands between the sentences of the question."""
        return NOTATIONS[self.family].separator

    @cached_property
    def _written_question(self) -> tuple[str, list[tuple[int, int]]]:
        return write_question(self.graph, self.family)

    @property
    def question(self) -> str:
        """Text of the question."""
        return self._written_question[0]

    @property
    def answer(self) -> str:
        """Gold answer, a number in digits."""
        return str(self.graph.values[self.graph.target])

    @property
    def solution(self) -> str:
        """Canonical response: what the model should write after ``<think>`` and a line feed."""
        lines = write_steps(self.graph, self.family)
        return join_response(lines, self.write_summary(self.graph.values))

    def read_step(self, line: str) -> WrittenStep | None:
        """A thinking step read from its line; None if the line is none."""
        return NOTATIONS[self.family].read(line)

    def write_step(self, written: WrittenStep) -> str:
        """A thinking step as a line."""
        return NOTATIONS[self.family].step(written)

    def write_summary(self, values: Mapping[str, int]) -> str:
        """The summary that follows from the values of a thinking part, right or wrong."""
        return SUMMARY.format(values[self.graph.target])

    @property
    def gold_graph(self) -> GoldGraph:
        """True dependencies of the canonical solution."""
        return self.graph_of(self.solution)

    def graph_of(self, response: str | Trace) -> GoldGraph:
        """True dependencies of any response, right or wrong; see `graph_of_response`."""
        _, spans = self._written_question
        return graph_of_response(response_text(response), self.graph, self.family, spans)

    def grade(self, response: str | Trace) -> Grade:
        """Whether the answer is right, and where and why the response first goes wrong.

        Args:
            response: Text that the model wrote, or a trace with its ``response``.

        Raises:
            ValueError: it is neither.
        """
        return grade_response(response_text(response), self.graph, self.family)

    def corrupt(self, kind: ErrorKind, *, seed: int = 0) -> Corruption:
        """The canonical solution with one error of ``kind`` put in; see `corrupt_solution`."""
        rng = random.Random(f"{seed}/{self.id}/{kind}")
        style = Style(self.write_step, self.write_summary, self._broken_summary)
        return corrupt_solution(self.graph, style, kind, rng)

    def _broken_summary(self, rng: random.Random) -> tuple[str, int]:
        """A summary that the thinking contradicts, and the number of its wrong sentence."""
        return SUMMARY.format(other_number(self.graph.values[self.graph.target], rng)), 0

    def prompt(self, tokenizer: Any) -> str:
        """The question in the tokenizer's chat format, up to and including ``<think>``.

        Raises:
            ValueError: it is no tokenizer with a chat format.
        """
        if not hasattr(tokenizer, "apply_chat_template"):
            raise ValueError(
                f"a {type(tokenizer).__name__} has no chat template; give a tokenizer, such as "
                "model.tokenizer"
            )
        text: str = tokenizer.apply_chat_template(
            [{"role": "user", "content": self.question}], tokenize=False, add_generation_prompt=True
        )
        return text if text.rstrip().endswith("<think>") else text + "<think>\n"

    def trace(
        self, tokenizer: Any, response: str | Trace | None = None, *, split_question: bool = False
    ) -> Trace:
        """A trace of a response, cut where the task says: one step a line.

        Args:
            tokenizer: Fast tokenizer with a chat template.
            response: What the model wrote after the prompt, or a trace with its ``response``; the
                canonical solution by default.
            split_question: Give every premise, and last the query, a step of its own. By default
                the question is one step.

        Returns:
            Trace with ``id`` of the problem; a token belongs to the step that its first character
            is in.

        Raises:
            ValueError: ``tokenizer`` has no chat template, or the response is no text.
        """
        response = self.solution if response is None else response_text(response)
        prompt = self.prompt(tokenizer)
        pieces = [
            *self._prompt_pieces(prompt, split_question),
            *self._response_pieces(response),
        ]
        encoded = tokenizer(
            prompt + response, add_special_tokens=False, return_offsets_mapping=True
        )
        return Trace(
            tokens=torch.tensor(encoded["input_ids"]),
            steps=steps_of_pieces(pieces, [start for start, _ in encoded["offset_mapping"]]),
            id=self.id,
            question=self.question,
            response=response,
            meta={"answer": self.answer},
        )

    def _prompt_pieces(self, prompt: str, split_question: bool) -> Iterator[tuple[str, Region]]:
        before, after = prompt.split(self.question)
        yield before, Region.TEMPLATE
        starts = [0]
        if split_question:
            starts = [start for start, _ in self._written_question[1]]
            starts.append(self._written_question[1][-1][1] + len(self.separator))
        for start, stop in zip(starts, [*starts[1:], len(self.question)], strict=True):
            yield self.question[start:stop], Region.QUESTION
        yield after, Region.TEMPLATE

    def _response_pieces(self, response: str) -> Iterator[tuple[str, Region]]:
        return response_pieces(response)

    def edges(self, trace: Trace) -> EdgeMatrices:
        """True edges between the steps of a trace made by `trace` with ``split_question=True``.

        Raises:
            ValueError: If the question of the trace is not split into premises and query, or its
                thinking steps are not the lines of its response.
        """
        return edges_of_trace(self.graph_of(trace), trace)


def response_text(response: str | Trace) -> str:
    """Text of a response.

    Raises:
        ValueError: it is neither text nor a trace.
    """
    text = response.response if isinstance(response, Trace) else response
    if not isinstance(text, str):
        raise ValueError(f"a response is text or a Trace, got {type(response).__name__}")
    return text
