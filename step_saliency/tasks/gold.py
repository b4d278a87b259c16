"""Problems with a known step graph: the question, its gold solution, and what each step rests on.

Ground truth for step-level attribution. A thinking step of the bundled task can only be written
right by reading two kinds of earlier text: the *premise* that it restates, and the earlier *steps*
whose values it substitutes. Which these are is known for every step of every response, so a
step-saliency map can be held against the truth.

The graph says which contents a step needs, not all that a model may rightly look at: choosing which
step comes next depends on the query and on premises of steps still to come. Edges of that kind are
not in the graph, so a map that shows them is charged with false positives.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from step_saliency.tasks.grading import split_response
from step_saliency.tasks.graph import Graph
from step_saliency.tasks.notation import NOTATIONS, Family, WrittenStep
from step_saliency.trace import Region, Trace


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
class GoldSentence:
    """What one sentence of a summary rests on.

    Attributes:
        text: The sentence as written.
        name: Variable that it restates; None for the answer, or if it cannot be read.
        thinking: Thinking steps whose values it restates.
        summary: Earlier sentences whose totals it goes on from.
    """

    text: str
    name: str | None
    thinking: tuple[int, ...]
    summary: tuple[int, ...]


@dataclass(frozen=True)
class GoldGraph:
    """True dependencies of a response, step by step.

    Attributes:
        premise_spans: Characters (start, stop) of each premise in the question.
        steps: The thinking steps.
        summary: Thinking steps that the summary needs: the last one that computes the target, or,
            of a report, each value to be restated.
        sentences: Those of a report's summary; empty for summaries of one sentence.
    """

    premise_spans: tuple[tuple[int, int], ...]
    steps: tuple[GoldStep, ...]
    summary: tuple[int, ...]
    sentences: tuple[GoldSentence, ...] = ()


class EdgeMatrices(NamedTuple):
    """True edges between the steps of a trace, row: the step that needs, column: what it needs.

    Attributes:
        premise: Thinking step to premise.
        step: Thinking step or summary to thinking step; sentence of a summary to an earlier one.
        candidate: Pairs that could have been edges: a thinking step and any premise or earlier
            thinking step; the summary and any thinking step; a sentence of a summary of several
            and any earlier one.
    """

    premise: Bool[Tensor, "query_step key_step"]
    step: Bool[Tensor, "query_step key_step"]
    candidate: Bool[Tensor, "query_step key_step"]


def graph_of_response(
    response: str, graph: Graph, family: Family, premise_spans: Sequence[tuple[int, int]]
) -> GoldGraph:
    """True dependencies of a response, right or wrong.

    A step needs the premise of the name that it computes, and of every name in that premise the
    last earlier step that computes it. What a wrong step needed is read from the question, not from
    what it wrote.

    Args:
        response: What the model wrote.
        graph: What the question says.
        family: Notation.
        premise_spans: Characters of each premise in the question.
    """
    lines, _ = split_response(response)
    steps, last = gold_steps(lines, [NOTATIONS[family].read(line) for line in lines], graph)
    summary = (last[graph.target],) if graph.target in last else ()
    return GoldGraph(tuple(premise_spans), tuple(steps), summary)


def gold_steps(
    lines: Sequence[str], written: Sequence[WrittenStep | None], graph: Graph
) -> tuple[list[GoldStep], dict[str, int]]:
    """What each thinking step rests on, and the last step that computes each name."""
    last: dict[str, int] = {}
    steps = []
    for i, (line, step) in enumerate(zip(lines, written, strict=True)):
        name = None if step is None else step.premise.name
        premise = None if name is None else graph.index.get(name)
        operands = () if premise is None else graph.premises[premise].variables
        needs = tuple(sorted(last[operand] for operand in operands if operand in last))
        steps.append(GoldStep(line, name, premise, needs))
        if name is not None:
            last[name] = i
    return steps, last


def edges_of_trace(gold: GoldGraph, trace: Trace) -> EdgeMatrices:
    """True edges between the steps of a trace whose question is split into premises and query.

    Raises:
        ValueError: If it is not, or the thinking steps are not the lines of the response.
    """
    at = {region: trace.region_steps(region) for region in Region}
    premises, thinking = at[Region.QUESTION][:-1], at[Region.THINKING]
    n_sentences = len(gold.sentences) or len(at[Region.SUMMARY])
    lengths = len(premises), len(thinking), len(at[Region.SUMMARY])
    if lengths != (len(gold.premise_spans), len(gold.steps), n_sentences):
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
    for i, (row, needs) in enumerate(_summary_rows(gold, at[Region.SUMMARY], thinking)):
        candidate[row, thinking] = True
        step[row, needs] = True
        if gold.sentences:
            candidate[row, at[Region.SUMMARY][:i]] = True
    return EdgeMatrices(premise, step, candidate)


def _summary_rows(
    gold: GoldGraph, summary: Sequence[int], thinking: Sequence[int]
) -> list[tuple[int, list[int]]]:
    """(step of the trace, steps that it needs) of the summary."""
    if not gold.sentences:
        return [(row, [thinking[j] for j in gold.summary]) for row in summary]
    return [
        (row, [thinking[j] for j in needed.thinking] + [summary[j] for j in needed.summary])
        for row, needed in zip(summary, gold.sentences, strict=True)
    ]
