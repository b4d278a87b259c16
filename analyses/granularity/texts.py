"""Texts about a problem with others around it, and which of their parts the response is about."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal, get_args

import numpy as np

import step_saliency as ss
from analyses.material.problems import Item
from step_saliency.segment.pieces import TokenPieces
from step_saliency.tasks.answers import gold_answer
from step_saliency.trace import Region, Trace

TextName = Literal["single", "dialogue", "document"]
TEXTS: tuple[TextName, ...] = get_args(TextName)
SplitterName = Literal["sentence", "line", "paragraph"]
SPLITTERS: tuple[SplitterName, ...] = ("sentence", "line", "paragraph")
ASK = "Answer the question of problem {number} only."


@dataclass(frozen=True, eq=False)
class Text:
    """A trace, and which of its context steps its response is about.

    Attributes:
        trace: The trace; its context parts are steps of region question.
        parts: Indices of these steps.
        relevant: Index among them; None where there is only one.
    """

    trace: Trace
    parts: tuple[int, ...]
    relevant: int | None


def solution_of(item: Item) -> str:
    """Worked solution of a problem.

    Raises:
        ValueError: a row without one.
    """
    if item.problem is not None:
        return item.problem.solution
    if item.row is None or item.row.gold is None:
        raise ValueError(f"{item.id} has no worked solution")
    solution = item.row.gold
    return solution if "####" not in solution else plain_solution(solution)


def plain_solution(solution: str) -> str:
    """A GSM8K solution without its calculator marks, its answer as a sentence."""
    body = solution.rsplit("####", 1)[0].strip()
    while "<<" in body and ">>" in body:
        body = body[: body.index("<<")] + body[body.index(">>") + 2 :]
    return f"{body}\n\nThe answer is {gold_answer(solution)}."


def make_text(
    tokenizer: Any,
    kind: str,
    item: Item,
    others: Sequence[Item],
    *,
    splitter: SplitterName = "sentence",
    seed: int = 0,
) -> Text:
    """A text about one problem, with others around it.

    Args:
        tokenizer: Tokenizer with a chat template.
        kind: One of `TEXTS`.
        item: The problem that the response answers.
        others: Problems of earlier turns, or of other passages.
        splitter: How the response is cut.
        seed: Of the place of the relevant passage.

    Raises:
        ValueError: an unknown kind.
    """
    last = {"role": "assistant", "content": _reply(item)}
    if kind == "document":
        return _document(tokenizer, item, others, last, splitter, seed)
    if kind not in TEXTS:
        raise ValueError(f"text {kind!r} is unknown; choose one of {TEXTS}")
    messages: list[dict[str, str]] = []
    for other in others if kind == "dialogue" else ():
        messages.append({"role": "user", "content": other.question})
        messages.append({"role": "assistant", "content": _reply(other)})
    messages.append({"role": "user", "content": item.question})
    trace = ss.Trace.from_messages(tokenizer, [*messages, last], splitter=splitter)
    parts = tuple(trace.region_steps(Region.QUESTION))
    return Text(trace, parts, len(parts) - 1 if len(parts) > 1 else None)


def _reply(item: Item) -> str:
    solution = solution_of(item)
    return f"<think>\n{solution}" if item.problem is not None else solution


def _document(
    tokenizer: Any,
    item: Item,
    others: Sequence[Item],
    last: Mapping[str, str],
    splitter: SplitterName,
    seed: int,
) -> Text:
    place = int(np.random.default_rng([seed, item.number]).integers(len(others) + 1))
    passages = [other.question for other in others]
    passages.insert(place, item.question)
    written = [f"Problem {i + 1}. {' '.join(p.split())}\n\n" for i, p in enumerate(passages)]
    content = "".join(written) + ASK.format(number=place + 1)
    messages = [{"role": "user", "content": content}, dict(last)]
    trace = ss.Trace.from_messages(tokenizer, messages, splitter=splitter)
    cut = _cut_question(tokenizer, trace, content, [len(text) for text in written])
    return Text(cut, tuple(cut.region_steps(Region.QUESTION)[: len(written)]), place)


def _cut_question(tokenizer: Any, trace: Trace, content: str, lengths: Sequence[int]) -> Trace:
    """The question's step cut where its passages begin."""
    pieces = TokenPieces(tokenizer).pieces(trace.tokens.tolist())
    offsets = np.cumsum([0, *(len(piece) for piece in pieces)])
    begin = "".join(pieces).index(content)
    question = trace.region_steps(Region.QUESTION)
    first, stop = trace.steps[question[0]].start, trace.steps[question[-1]].stop
    inner = [begin + offset for offset in accumulate(lengths)]
    cuts = {int(np.searchsorted(offsets, at, side="left")) for at in inner}
    starts = sorted({*trace.starts, *(at for at in cuts if first < at < stop)})
    return trace.with_steps(starts=starts, tokenizer=tokenizer)
