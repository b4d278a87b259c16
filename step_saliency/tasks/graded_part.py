"""Which part of a response is graded? What follows the thinking.

    marks found             final channel, or all that follows the closing mark of the thinking
    no marks                the whole response
    thinking never closed   nothing, but for a box that the response ends in

The marks are those of :mod:`step_saliency.segment.formats`; a trace has been cut already, and its
own regions say it. Marks are template and no part of it; `marked_part` keeps those that set the
answer apart (``<answer>``). A box at the very end of thinking that was never closed is an answer
all the same (some models leave the mark out); anything earlier may have been taken back.

When it misleads: a response cut off right behind a box that its next sentence would have taken
back.
"""

import re
from collections.abc import Iterable, Iterator
from itertools import groupby

from step_saliency.segment import Cutter, Region, detect_format, make_format
from step_saliency.segment.formats import known_marks
from step_saliency.segment.quotes import STRING_LIMIT
from step_saliency.trace import Trace

MAX_CHARACTERS = 4_000_000
"""Longest response that is read: about a million tokens."""

_END_OF_TEXT = re.compile(
    r"<\|(?:eos|im_end|endoftext|end_of_text|eot_id|end|return|call)\|>|</s>|<eos>|<end_of_turn>"
    r"|<｜end▁of▁sentence｜>"
)
_LAST_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{[^\n]*\}[\s$.\\)\]*]*\Z")
_TAIL = 2000
_ANSWER_MARK = re.compile(r"</?answer>")
"""A mark around an answer."""
_OPENING = re.compile(r"<answer>[^\w<>]{0,3}\Z")
"""The mark that opens an answer, with what else its last token holds."""


def graded_part(response: str | Trace) -> str:
    """Text in which the answer is looked for; empty where the thinking never ended.

    Args:
        response: Text of a response with its marks, or a trace.

    Raises:
        ValueError: neither of these, or a response of more than `MAX_CHARACTERS`.
    """
    return _part(response, marked=False)


def marked_part(response: str | Trace) -> str:
    """As `graded_part`, with the marks that stand around the answer."""
    return _part(response, marked=True)


def _part(response: str | Trace, *, marked: bool) -> str:
    if isinstance(response, Trace):
        return _part_of_trace(response, marked=marked)
    if not isinstance(response, str):
        raise ValueError(f"a response is text or a Trace, got {type(response).__name__}")
    check_length(response)
    name = detect_format(response=response)
    if name == "plain":
        return _without_end(response)
    return _without_end(_part_of_text(response, name, marked=marked))


def check_length(response: str) -> None:
    """Raise ``ValueError`` for a response that is too long to be read."""
    if len(response) > MAX_CHARACTERS:
        raise ValueError(
            f"the response has {len(response):,} characters; at most {MAX_CHARACTERS:,} are graded"
        )


def _part_of_text(response: str, name: str, *, marked: bool) -> str:
    reader = make_format(name)
    reader.start("")
    cutter = Cutter(reader, None)
    cutter.feed(response)
    stops = [*(cut.char for cut in cutter.cuts[1:]), len(response)]
    steps = [
        (cut.region, response[cut.char : stop])
        for cut, stop in zip(cutter.cuts, stops, strict=True)
    ]
    if not _text_in(steps, Region.SUMMARY).strip():
        return _box_at_end(response, name)
    return _summary(steps, marked=marked)


def _part_of_trace(trace: Trace, *, marked: bool) -> str:
    check_length(trace.response)
    steps = [(Region(step.region), step.text) for step in trace.steps]
    text = {region: _text_in(steps, region) for region in (Region.SUMMARY, Region.THINKING)}
    if not any(text.values()):
        return _part(trace.response, marked=marked)
    if text[Region.SUMMARY].strip():
        return _without_end(_summary(steps, marked=marked))
    response = trace.response or text[Region.THINKING]
    name = detect_format(prompt=_prompt_of(trace), response=response)
    return _without_end(response if name == "plain" else _box_at_end(response, name))


def _text_in(steps: Iterable[tuple[Region, str]], region: Region) -> str:
    return "".join(text for other, text in steps if other is region)


def _summary(steps: Iterable[tuple[Region, str]], *, marked: bool) -> str:
    """The summary; with the mark directly before it and those inside it, if they are to be kept."""
    summary, opening = "", ""
    for region, text in _joined(steps):
        if region is Region.SUMMARY:
            summary, opening = summary + opening + text, ""
        elif region is Region.TEMPLATE:
            begun = _begun_mark(summary, text)
            summary, text = summary[: len(summary) - len(begun)], begun + text
            opened = _OPENING.search(text)
            marks = "".join(match[0] for match in _ANSWER_MARK.finditer(text))
            if not marked:
                continue
            if not summary:
                opening = opened[0] if opened else ""
            elif marks:
                summary += marks.removesuffix("<answer>") + (opened[0] if opened else "\n")
        else:
            opening = ""
    return summary


def _joined(steps: Iterable[tuple[Region, str]]) -> Iterator[tuple[Region, str]]:
    """Neighbours of one region as one."""
    for region, group in groupby(steps, key=lambda step: step[0]):
        yield region, "".join(text for _, text in group)


def _begun_mark(before: str, template: str) -> str:
    """What stands of a mark at the end of a text, where the template behind it goes on with it.

    A mark inside a line is known at its second character, or its first lies in one token with text.
    """
    for mark in known_marks():
        for stop in range(len(mark) - 1, 0, -1):
            if before.endswith(mark[:stop]) and template.startswith(mark[stop:]):
                return "" if mark[0].isalnum() else mark[:stop]
    return ""


def _prompt_of(trace: Trace) -> str:
    texts = []
    for step in trace.steps:
        if step.region in (Region.THINKING, Region.SUMMARY):
            break
        texts.append(step.text)
    return "".join(texts)


def _box_at_end(response: str, name: str) -> str:
    """The box that unclosed thinking ends in; channels other than the final one are no answer."""
    if name == "harmony":
        return ""
    tail = _without_end(response[-_TAIL:]).rstrip()
    last_line = tail.rpartition("\n")[2]
    return last_line if _LAST_BOX.search(last_line) else ""


def _without_end(text: str) -> str:
    ends = (match for match in _END_OF_TEXT.finditer(text) if not _is_spoken_of(text, match))
    end = next(ends, None)
    return text if end is None else text[: end.start()]


def _is_spoken_of(text: str, mark: re.Match[str]) -> bool:
    """Whether an end mark stands in backticks or closes struck-through text (``<s>10</s>``).

    ``<s>`` at the very start is a tokenizer's mark, and so is the ``</s>`` that follows.
    """
    before = text[max(0, mark.start() - STRING_LIMIT) : mark.start()]
    line = before.rpartition("\n")[2]
    opening = line.rfind("<s>")
    struck_through = mark[0] == "</s>" and opening > line.rfind("</s>")
    begins_text = mark.start() - len(line) + opening == 0
    return (struck_through and not begins_text) or line.count("`") % 2 == 1
