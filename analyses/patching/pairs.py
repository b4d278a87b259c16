"""Pairs of sequences of one problem that lead to different tokens, and how they are matched."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from analyses.instruments.number_forks import TokenText
from analyses.instruments.patching import (
    Role,
)
from analyses.material.problems import (
    Item,
)
from step_saliency.tasks.numbers import read_number
from step_saliency.trace import Region, Step, Trace

Kind = Literal["premise", "computed", "planted", "own"]
_DIGITS = re.compile(
    r"\\[dt]?frac\{[^{}]*\}\{[^{}]*\}"
    r"|(?<![A-Za-z_0-9.])(?>[0-9]+(?:[.,:/][0-9]+)*(?: [0-9]+/[0-9]+)?)(?!\w*[0-9])"
)
"""Digits that belong together: 2.5, 1,234, 3/4, 2 1/2, but also 3:30, which is no number."""


@dataclass(frozen=True, eq=False)
class Pair:
    """Two sequences that differ in what they lead to.

    Attributes:
        problem: Name of the problem.
        kind: How the pair was made.
        clean: Trace up to and including the position that is read.
        corrupted: Trace of the same length and steps.
        correct: Token that the clean one leads to.
        wrong: Token that the corrupted one leads to.
        read_step: Step that the predicted token belongs to.
    """

    problem: str
    kind: Kind
    clean: Trace
    corrupted: Trace
    correct: int
    wrong: int
    read_step: int

    @property
    def position(self) -> int:
        """Where the prediction is made: the last position."""
        return len(self.clean.tokens) - 1

    @property
    def source_step(self) -> int:
        """Step in which the tokens first differ."""
        differ = (self.clean.tokens != self.corrupted.tokens).nonzero()
        return int(self.clean.step_ids[differ[0, 0]])

    def role(self, step: int) -> Role | None:
        """Part that a step of the sequences plays; None for template."""
        region = self.clean.steps[step].region
        if step == self.source_step:
            return "source"
        if region == Region.TEMPLATE:
            return None
        if step == self.read_step:
            return "read"
        if step < self.source_step:
            return "before"
        return "between_question" if region == Region.QUESTION else "between_thinking"


def make_pair(
    clean: Trace, corrupted: Trace, position: int, *, kind: Kind, problem: str
) -> Pair | None:
    """Cut two traces after a position, if they match there.

    Args:
        clean: Trace whose token after the position is the correct one.
        corrupted: Trace whose token there is the wrong one.
        position: Where the prediction is read.
        kind: How the pair was made.
        problem: Name of the problem.

    Returns:
        None if the steps do not lie alike up to there, no token before differs, or the next
        tokens do not differ.
    """
    end = position + 2
    if min(len(clean.tokens), len(corrupted.tokens)) < end:
        return None
    ids = clean.step_ids[:end], corrupted.step_ids[:end]
    differ = clean.tokens[:end] != corrupted.tokens[:end]
    if not torch.equal(*ids) or not differ[-1] or not differ[:-1].any():
        return None
    return Pair(
        problem=problem,
        kind=kind,
        clean=_until(clean, position),
        corrupted=_until(corrupted, position),
        correct=int(clean.tokens[position + 1]),
        wrong=int(corrupted.tokens[position + 1]),
        read_step=int(clean.step_ids[position + 1]),
    )


def _until(trace: Trace, position: int) -> Trace:
    """The trace up to and including a position."""
    steps = [
        Step(step.start, min(step.stop, position + 1), step.region, step.text)
        for step in trace.steps
        if step.start <= position
    ]
    tokens = trace.tokens[: position + 1]
    return replace(trace, tokens=tokens, steps=tuple(steps), question="", response="")


def premise_pair(tokenizer: Any, trace: Trace, *, seed: int) -> Pair | None:
    """Change one number of the question that the response writes again.

    Args:
        tokenizer: The model's.
        trace: A response of any model to any question.
        seed: Of the number and of its replacement.

    Returns:
        None if no whole number (2.5, 1,234 and 3/4 are one each) stands once in the question and
        again in the response, or none can be spelled with as many tokens.
    """
    rng = np.random.default_rng([seed, 7])
    texts = [tokenizer.decode([token]) for token in trace.tokens.tolist()]
    whole = TokenText(tokenizer, trace.tokens.tolist())
    asked = _numbers(trace, whole, (Region.QUESTION,))
    written = _numbers(trace, whole, (Region.THINKING, Region.SUMMARY))
    values = [tuple(texts[start:stop]) for start, stop in asked]
    eligible = [
        (start, stop, value)
        for (start, stop), value in zip(asked, values, strict=True)
        if values.count(value) == 1 and value in [tuple(texts[a:b]) for a, b in written]
    ]
    if not eligible:
        return None
    start, _, value = eligible[int(rng.integers(len(eligible)))]
    changed = _other_number(tokenizer, value, rng)
    if changed is None:
        return None
    place = next(a for a, b in written if tuple(texts[a:b]) == value)
    corrupted = trace.tokens.clone()
    for first in (start, place):
        corrupted[first : first + len(changed)] = torch.tensor(changed)
    other = replace(trace, tokens=corrupted, question="", response="")
    name = str(trace.meta.get("problem") or trace.id)
    return make_pair(trace, other, place - 1, kind="premise", problem=name)


def _numbers(trace: Trace, whole: TokenText, regions: Sequence[Region]) -> list[tuple[int, int]]:
    """Tokens of each whole number that begins and ends with a token, within steps of regions."""
    steps = [step for step in trace.steps if step.region in regions]
    words = [match for match in _DIGITS.finditer(whole.text) if read_number(match[0]) is not None]
    spans = [(whole.token_at(word.start()), whole.token_at(word.end() - 1) + 1) for word in words]
    return [
        (start, stop)
        for word, (start, stop) in zip(words, spans, strict=True)
        if word.span() == (whole.start_of(start), whole.start_of(stop))
        and any(step.start <= start and stop <= step.stop for step in steps)
    ]


def _other_number(
    tokenizer: Any, parts: Sequence[str], rng: np.random.Generator
) -> list[int] | None:
    """Tokens of a number that looks alike and differs from its first token on.

    Args:
        tokenizer: The model's.
        parts: Text of each token of the number; points, commas and bars between digits stay.
        rng: Draws the digits.
    """
    for _ in range(20):
        other = [_other_digits(part, rng) if part.isdecimal() else part for part in parts]
        ids = tokenizer("".join(other), add_special_tokens=False)["input_ids"]
        texts = [tokenizer.decode([token]) for token in ids]
        if texts == other and other[0] != parts[0]:
            return [int(token) for token in ids]
    return None


def _other_digits(digits: str, rng: np.random.Generator) -> str:
    low, high = 10 ** (len(digits) - 1), 10 ** len(digits)
    return str(rng.integers(low, high))


def answer_pair(clean: Trace, corrupted: Trace, *, kind: Kind, problem: str) -> Pair | None:
    """Read two traces where their summaries first differ; None if they do not match there."""
    if len(clean.tokens) != len(corrupted.tokens):
        return None
    in_summary = torch.tensor(
        [clean.regions[step] == Region.SUMMARY for step in clean.step_ids.tolist()]
    )
    differ = ((clean.tokens != corrupted.tokens) & in_summary).nonzero()
    if not len(differ):
        return None
    return make_pair(clean, corrupted, int(differ[0, 0]) - 1, kind=kind, problem=problem)


def planted_pair(tokenizer: Any, item: Item, *, seed: int) -> Pair | None:
    """The gold solution against one with a wrong value that leaves every length as it was."""
    if item.problem is None:
        raise ValueError("planted errors need problems of the bundled task (--data task)")
    clean = item.problem.trace(tokenizer, split_question=True)
    for attempt in range(20):
        for kind in ("recall", "arithmetic"):
            try:
                broken = item.problem.corrupt(kind, seed=seed + attempt)
            except ValueError:  # no step of this problem computes anything
                continue
            other = item.problem.trace(tokenizer, broken.response, split_question=True)
            pair = answer_pair(clean, other, kind="planted", problem=item.id)
            if pair is not None:
                return pair
    return None


def computed_pair(tokenizer: Any, item: Item, *, seed: int) -> Pair | None:
    """The gold solution against that of the problem with one given number changed.

    It is read at the first result that differs of a step that computes, so that the token that is
    read stands nowhere before: `premise_pair` reads a number that is copied.

    Returns:
        None if no other number leaves all lengths as they are.

    Raises:
        ValueError: the problem is not of the bundled task; of a row of a file, its response is
            read (`analyses.patching.expressions.expression_pair`).
    """
    if item.problem is None:
        raise ValueError(f"{item.id} is a row of a file, whose response is read (expression_pair)")
    problem, rng = item.problem, np.random.default_rng([seed, 11])
    graph = problem.graph
    clean = problem.trace(tokenizer, split_question=True)
    given = [name for name in graph.order if graph[name].op is None]
    for _ in range(20):
        name = given[int(rng.integers(len(given)))]
        digits = len(str(graph[name].left))
        number = int(rng.integers(10 ** (digits - 1), 10**digits))
        premises = [replace(p, left=number) if p.name == name else p for p in graph.premises]
        other = replace(problem, graph=replace(graph, premises=tuple(premises)))
        corrupted = other.trace(tokenizer, split_question=True)
        for position in _before_results(tokenizer, clean, [graph[n].op for n in graph.order]):
            pair = make_pair(clean, corrupted, position, kind="computed", problem=item.id)
            if pair is not None:
                return pair
    return None


def _before_results(tokenizer: Any, trace: Trace, operators: Sequence[Any]) -> list[int]:
    """Last equals sign of each thinking step that computes."""
    positions = []
    for step, operator in zip(trace.region_steps(Region.THINKING), operators, strict=True):
        span = range(trace.steps[step].start, trace.steps[step].stop)
        signs = [i for i in span if "=" in tokenizer.decode([int(trace.tokens[i])])]
        if operator is not None and signs:
            positions.append(signs[-1])
    return positions


def own_pair(traces: Sequence[Trace], *, problem: str) -> Pair | None:
    """The first correct and error trace that match."""
    for clean in traces:
        for other in traces:
            if clean.meta.get("is_correct") and other.meta.get("is_correct") is False:
                pair = answer_pair(clean, other, kind="own", problem=problem)
                if pair is not None:
                    return pair
    return None
