"""Text of the task cut where the task says: one step a line, marks and blank lines template."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from step_saliency.trace import Region, Step


def response_pieces(response: str, *, cut_summary: bool = False) -> Iterator[tuple[str, Region]]:
    """Pieces of a response that join to it again; lines of the summary too, if it is cut."""
    text, end, rest = response.partition("<|eos|>")
    thinking, closed, summary = text.partition("</think>")
    opening = thinking.removeprefix("<think>")
    yield thinking[: len(thinking) - len(opening)], Region.TEMPLATE
    for line in _lines(opening):
        yield line, Region.THINKING if line.strip() else Region.TEMPLATE
    body = summary.lstrip("\n")
    yield closed + summary[: len(summary) - len(body)], Region.TEMPLATE
    if not cut_summary:
        yield body, Region.SUMMARY
    for line in _lines(body) if cut_summary else ():
        yield line, Region.SUMMARY if line.strip() else Region.TEMPLATE
    yield end + rest, Region.TEMPLATE


def _lines(text: str) -> list[str]:
    """The lines of a text, each with its line feed."""
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def steps_of_pieces(
    pieces: Sequence[tuple[str, Region]], token_starts: Sequence[int]
) -> tuple[Step, ...]:
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
