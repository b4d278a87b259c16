"""Answers that are written anew from a place inside of them.

    prompt | beginning of an answer | new tokens

The beginning is given by its tokens, as the first ones of the response
(`step_saliency.decoding.Continuation`): an edit takes its steps for thinking and acts on them as if
it had been on when they were written. Continuation s of problem i draws the random numbers of
(seed, i, s) at the places of the response where they are due, so that continuations of one
beginning under several edits share them. All continuations are one call of `ss.generate`.

An answer that is cut off is not right, whatever stands in it (`ends_right`).

Places are thinking steps: before each, and behind the last one, which is before the mark that ends
the thinking, so that a model may also go on thinking there.

When it misleads: under an edit the beginning has words that were written without it. A place late
in an answer leaves few tokens: beginning and continuation together have ``max_new_tokens``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import step_saliency as ss
from analyses.material.answers import AnswerSettings
from analyses.material.problems import Item, asked, is_right, opened
from analyses.running.settings import option
from step_saliency.decoding import Continuation
from step_saliency.trace import Region, Trace

Tokens = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class ForkSettings(AnswerSettings):
    """Of an analysis that goes on from places inside of greedy answers."""

    fork_temperature: float = option(0.7, "of what is written anew")


@dataclass(frozen=True)
class Fork:
    """A place of an answer.

    Attributes:
        item: The problem.
        beginning: Tokens of the response before the place.
        first: Number of the first continuation among the samples of the problem.
    """

    item: Item
    beginning: Tokens
    first: int = 0


def check_greedy(settings: ForkSettings) -> None:
    """Raise ValueError for options of answers that greedy ones do not read.

    Args:
        settings: Of the run.
    """
    if settings.temperature or settings.samples != 1:
        raise ValueError(
            f"temperature={settings.temperature}, samples={settings.samples}: the answers that are "
            "gone on from are greedy, one a problem; continuations have --fork-temperature"
        )


def beginnings(trace: Trace) -> list[Tokens]:
    """Tokens of a response before each of its thinking steps, and up to the end of the last.

    Args:
        trace: From `ss.generate`, begun by the model.

    Returns:
        One more than there are thinking steps; none where there is no thinking.
    """
    steps = [trace.steps[i] for i in trace.region_steps(Region.THINKING)]
    first = len(trace) - int(trace.meta["response_tokens"])
    stops = [*(step.start for step in steps), *(step.stop for step in steps[-1:])]
    return [tuple(trace.tokens[first:stop].tolist()) for stop in stops]


def ends_right(item: Item, trace: Trace) -> bool:
    """Whether an answer came to its end and is right."""
    return bool(trace.meta["finished"]) and is_right(item, trace.response)


def continuations(
    model: Any, forks: Sequence[Fork], flow: Any, settings: ForkSettings, *, n: int
) -> list[list[Trace]]:
    """What the model writes from places on, under an intervention.

    Args:
        model: The model.
        forks: Places; those of one problem have samples of their own.
        flow: Intervention, or None.
        settings: How answers are written.
        n: Continuations of each place.

    Returns:
        Traces of whole responses, ``n`` for each place.
    """
    if not forks:
        return []
    written = ss.generate(
        model,
        [asked(fork.item, settings.instruction) for fork in forks],
        flow=flow,
        tokenizer=opened(model.tokenizer, settings.opening),
        decoding=replace(settings.decoding, n=n, temperature=settings.fork_temperature),
        question_numbers=[fork.item.number for fork in forks],
        samples=[fork.first for fork in forks],
        continued=[_continuation(fork, settings.max_new_tokens) for fork in forks],
        progress=False,
    )
    return [written[start : start + n] for start in range(0, len(written), n)]


def _continuation(fork: Fork, most: int) -> Continuation:
    left = max(1, most - len(fork.beginning))
    return Continuation(written=fork.beginning, max_new_tokens=left)
