"""Problems with a known step graph: the question, its gold solution, and what each step rests on.

Ground truth for step-level attribution. A thinking step of the bundled task can only be written
right by reading two kinds of earlier text: the *premise* that it restates, and the earlier *steps*
whose values it substitutes. Which these are is known for every step of every response, so a
step-saliency map can be held against the truth.

The graph says which contents a step needs, not all that a model may rightly look at: choosing which
step comes next depends on the query and on premises of steps still to come. Edges of that kind are
not in the graph, so a map that shows them is charged with false positives.
"""

import random
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool
from torch import Tensor

from step_saliency.tasks.grading import (
    Corruption,
    ErrorKind,
    Grade,
    corrupt_solution,
    grade_response,
    split_response,
)
from step_saliency.tasks.graph import Difficulty, Graph, Split, draw_graph
from step_saliency.tasks.notation import (
    NOTATIONS,
    SUMMARY,
    Family,
    join_response,
    write_question,
    write_steps,
)
from step_saliency.trace import Region, Step, Trace

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
class GoldStep:
    """What one thinking step rests on.

    Attributes:
        text: The step as written.
        name: Variable that it computes; None if the step cannot be read.
        premise: Index of the premise, in order of the question, that the step needs; None if the
            question has no premise for its name.
        needs: Earlier thinking steps whose values it needs, in order.
    """

    text: str
    name: str | None
    premise: int | None
    needs: tuple[int, ...]


@dataclass(frozen=True)
class GoldGraph:
    """True dependencies of a response, step by step.

    Attributes:
        premise_spans: Characters (start, stop) of each premise in the question.
        steps: The thinking steps.
        summary: Thinking steps that the summary needs: the last one that computes the target.
    """

    premise_spans: tuple[tuple[int, int], ...]
    steps: tuple[GoldStep, ...]
    summary: tuple[int, ...]


class EdgeMatrices(NamedTuple):
    """True edges between the steps of a trace, row: the step that needs, column: what it needs.

    Attributes:
        premise: Thinking step to premise.
        step: Thinking step or summary to thinking step.
        candidate: Pairs that could have been edges: a thinking step and any premise or earlier
            thinking step; the summary and any thinking step.
    """

    premise: Bool[Tensor, "query_step key_step"]
    step: Bool[Tensor, "query_step key_step"]
    candidate: Bool[Tensor, "query_step key_step"]


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
        return join_response(write_steps(self.graph, self.family), SUMMARY.format(self.answer))

    @property
    def gold_graph(self) -> GoldGraph:
        """True dependencies of the canonical solution."""
        return self.graph_of(self.solution)

    def graph_of(self, response: str | Trace) -> GoldGraph:
        """True dependencies of any response, right or wrong.

        A step needs the premise of the name that it computes, and of every name in that premise the
        last earlier step that computes it. What a wrong step needed is read from the question, not
        from what it wrote.
        """
        lines, _ = split_response(_response_text(response))
        last: dict[str, int] = {}
        steps = []
        for i, line in enumerate(lines):
            written = NOTATIONS[self.family].read(line)
            name = None if written is None else written.premise.name
            premise = None if name is None else self.graph.index.get(name)
            wanted = () if premise is None else self.graph.premises[premise].variables
            needs = tuple(sorted(last[other] for other in wanted if other in last))
            steps.append(GoldStep(line, name, premise, needs))
            if name is not None:
                last[name] = i
        summary = (last[self.graph.target],) if self.graph.target in last else ()
        return GoldGraph(tuple(self._written_question[1]), tuple(steps), summary)

    def grade(self, response: str | Trace) -> Grade:
        """Whether the answer is right, and where and why the response first goes wrong.

        Args:
            response: Text that the model wrote, or a trace with its ``response``.
        """
        return grade_response(_response_text(response), self.graph, self.family)

    def corrupt(self, kind: ErrorKind, *, seed: int = 0) -> Corruption:
        """The canonical solution with one error of ``kind`` put in; see `corrupt_solution`."""
        rng = random.Random(f"{seed}/{self.id}/{kind}")
        return corrupt_solution(self.graph, self.family, kind, rng)

    def prompt(self, tokenizer: Any) -> str:
        """The question in the tokenizer's chat format, up to and including ``<think>``."""
        text: str = tokenizer.apply_chat_template(
            [{"role": "user", "content": self.question}], tokenize=False, add_generation_prompt=True
        )
        return text if text.rstrip().endswith("<think>") else text + "<think>\n"

    def trace(
        self, tokenizer: Any, response: str | None = None, *, split_question: bool = False
    ) -> Trace:
        """A trace of a response, cut where the task says: one step a line.

        Args:
            tokenizer: Fast tokenizer with a chat template.
            response: What the model wrote after the prompt; the canonical solution by default.
            split_question: Give every premise, and last the query, a step of its own. By default
                the question is one step.

        Returns:
            Trace with ``id`` of the problem; a token belongs to the step that its first character
            is in.
        """
        response = self.solution if response is None else response
        prompt = self.prompt(tokenizer)
        pieces = [*self._prompt_pieces(prompt, split_question), *_response_pieces(response)]
        encoded = tokenizer(
            prompt + response, add_special_tokens=False, return_offsets_mapping=True
        )
        return Trace(
            tokens=torch.tensor(encoded["input_ids"]),
            steps=_cut(pieces, [start for start, _ in encoded["offset_mapping"]]),
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
            starts.append(self._written_question[1][-1][1] + len(NOTATIONS[self.family].separator))
        for start, stop in zip(starts, [*starts[1:], len(self.question)], strict=True):
            yield self.question[start:stop], Region.QUESTION
        yield after, Region.TEMPLATE

    def edges(self, trace: Trace) -> EdgeMatrices:
        """True edges between the steps of a trace made by `trace` with ``split_question=True``.

        Raises:
            ValueError: If the question of the trace is not split into premises and query, or its
                thinking steps are not the lines of its response.
        """
        gold = self.graph_of(trace)
        at = {
            region: [i for i, step in enumerate(trace.steps) if step.region == region]
            for region in Region
        }
        premises, thinking = at[Region.QUESTION][:-1], at[Region.THINKING]
        if len(premises) != len(gold.premise_spans) or len(thinking) != len(gold.steps):
            raise ValueError(
                f"the trace has {len(at[Region.QUESTION])} question and {len(thinking)} thinking "
                f"steps where {len(gold.premise_spans) + 1} and {len(gold.steps)} are needed; make "
                "it with Problem.trace(..., split_question=True)"
            )
        shape = (len(trace.steps), len(trace.steps))
        premise, step, candidate = (torch.zeros(shape, dtype=torch.bool) for _ in range(3))
        for i, (row, needed) in enumerate(zip(thinking, gold.steps, strict=True)):
            candidate[row, premises + thinking[:i]] = True
            step[row, [thinking[j] for j in needed.needs]] = True
            if needed.premise is not None:
                premise[row, premises[needed.premise]] = True
        for row in at[Region.SUMMARY]:
            candidate[row, thinking] = True
            step[row, [thinking[j] for j in gold.summary]] = True
        return EdgeMatrices(premise, step, candidate)


def _response_text(response: str | Trace) -> str:
    return response.response if isinstance(response, Trace) else response


def _response_pieces(response: str) -> Iterator[tuple[str, Region]]:
    """Pieces of a response that join to it again."""
    text, end, rest = response.partition("<|eos|>")
    thinking, closed, summary = text.partition("</think>")
    opening = thinking.removeprefix("<think>")
    yield thinking[: len(thinking) - len(opening)], Region.TEMPLATE
    for line in re.findall(r"[^\n]*\n|[^\n]+", opening):
        yield line, Region.THINKING if line.strip() else Region.TEMPLATE
    body = summary.lstrip("\n")
    yield closed + summary[: len(summary) - len(body)], Region.TEMPLATE
    yield body, Region.SUMMARY
    yield end + rest, Region.TEMPLATE


def _cut(pieces: list[tuple[str, Region]], token_starts: list[int]) -> tuple[Step, ...]:
    """Steps of tokens from pieces of text; template pieces that follow each other are joined."""
    joined: list[tuple[str, Region]] = []
    for text, region in pieces:
        if text and joined and region == joined[-1][1] == Region.TEMPLATE:
            joined[-1] = (joined[-1][0] + text, region)
        elif text:
            joined.append((text, region))
    steps = []
    first, end_of_text = 0, 0
    for text, region in joined:
        end_of_text += len(text)
        stop = first
        while stop < len(token_starts) and token_starts[stop] < end_of_text:
            stop += 1
        if stop > first:
            steps.append(Step(first, stop, region, text))
        elif steps:
            # One token began in the piece before and covers all of this one.
            steps[-1] = replace(steps[-1], text=steps[-1].text + text)
        first = stop
    return tuple(steps)


def make_problems(
    n: int = 100,
    level: Level | Difficulty = "medium",
    seed: int = 0,
    *,
    family: Family = "symbols",
    split: Split = "test",
) -> list[Problem]:
    """Fresh problems from a seed, as many as wanted.

    Args:
        n: How many.
        level: ``"easy"``, ``"medium"``, ``"hard"``, or dials of your own.
        seed: The same seed gives the same problems; the first n do not depend on n.
        family: ``"symbols"`` (``p=q+12; ...``) or ``"words"`` (short English sentences). The same
            seed gives the same graphs in both.
        split: ``"test"`` problems never occur in the reasoner's training, in either family.

    Returns:
        Problems; two of them may coincide only by chance.

    Raises:
        ValueError: For unknown names, or dials that allow no problem.
    """
    _check_choice("split", split, Split)
    _check_choice("family", family, Family)
    if not isinstance(level, Difficulty):
        _check_choice("level", level, Level)
    if n < 0:
        raise ValueError(f"n={n}: must be 0 or more")
    named = None if isinstance(level, Difficulty) else level
    difficulty = level if isinstance(level, Difficulty) else LEVELS[level]
    rng = random.Random(f"{seed}/{split}/{difficulty}")
    return [
        Problem(
            graph=draw_graph(rng, difficulty, split),
            family=family,
            id=f"{family}-{named or 'custom'}-{split}-{seed}-{i}",
            difficulty=difficulty,
            level=named,
        )
        for i in range(n)
    ]


def _check_choice(name: str, value: str, choices: Callable[..., Any] | Any) -> None:
    if value not in get_args(choices):
        raise ValueError(f"{name}={value!r} is unknown; choose one of {get_args(choices)}")
