"""Answers of several parts: lists, sets, tuples, intervals, unions; cut at their top level."""

import re
from dataclasses import dataclass
from typing import Literal

Kind = Literal["list", "set", "tuple", "union"]

_OPENING = {"(": ")", "[": "]"}
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_AND = re.compile(r"\s*,?\s+(?:and|or|und|oder|et|ou|y|o)\s+|\s*[;；、]\s*")
_NAMED = re.compile(r"([a-zA-Z](?:_\{?\w+\}?)?)\s*(?:=|\\approx|\\in(?![a-z]))\s*(.+)", re.DOTALL)


@dataclass(frozen=True)
class Several:
    """An answer of several parts.

    Attributes:
        kind: ``list`` (no brackets) and ``set`` have no order, ``tuple`` (intervals too) has one.
        parts: The parts.
        brackets: The brackets of a tuple.
    """

    kind: Kind
    parts: tuple[str, ...]
    brackets: str = ""


def read_several(text: str) -> Several | None:
    """The parts of a tidy answer; None if it has one only."""
    if "\\begin" in text:
        return None
    unions = _split(text, re.compile(r"\\cup(?![a-z])|(?<=[\])])\s*U\s*(?=[\[(])"))
    if len(unions) > 1:
        return Several("union", unions)
    inside, brackets = unwrapped(text)
    if brackets:
        parts = _expanded(_split(inside, re.compile(",")))
        if len(parts) < 2:
            return None
        return Several("set" if brackets == "{}" else "tuple", parts, brackets)
    commas = re.compile(r",\s+|,(?!\d{3}(?!\d))|(?<!\d),")
    parts = tuple(
        part for piece in _split(text, _AND) for part in _split(piece, commas) if part.strip()
    )
    parts = _expanded(parts)
    return Several("list", parts) if len(parts) > 1 else None


def unwrapped(text: str) -> tuple[str, str]:
    """What stands in the brackets that span a whole text, and these; no brackets if none do."""
    text = text.strip()
    if text.startswith("\\{") and text.endswith("\\}"):
        return text[2:-2].strip(), "{}"
    if text.startswith("{") and _closes_at_end(text):
        return text[1:-1].strip(), "{}"
    if text[:1] in _OPENING and text[-1:] in (")", "]") and _closes_at_end(text):
        return text[1:-1].strip(), text[0] + text[-1]
    return text, ""


def named(text: str) -> tuple[str, str]:
    """The variable that an answer is given for (``x = 5``) and the answer; no name if it has none.

    An equation in one variable on the left is taken as such.
    """
    match = _NAMED.fullmatch(text.strip())
    return (match[1], match[2].strip()) if match else ("", text.strip())


def _expanded(parts: tuple[str, ...]) -> tuple[str, ...]:
    """Each ``a \\pm b`` as its two values; in a list ``n = 1, 2`` the name belongs to all."""
    values: list[str] = []
    for part in parts:
        if part.count("\\pm") == 1:
            values += [part.replace("\\pm", "+"), part.replace("\\pm", "-")]
        else:
            values.append(part)
    names = [named(value)[0] for value in values]
    if len(values) > 1 and names[0] and not any(names[1:]):
        values[0] = named(values[0])[1]
    return tuple(value.strip().lstrip("+ ") for value in values)


def depth(text: str) -> int:
    """How deep brackets stand in brackets."""
    return max(_depths(text), default=0)


def _depths(text: str) -> list[int]:
    """Depth of brackets before each character."""
    depths, depth = [], 0
    for char in text:
        if char in ")]}":
            depth -= 1
        depths.append(depth)
        if char in "([{":
            depth += 1
    return depths


def _closes_at_end(text: str) -> bool:
    depths = _depths(text)
    return depths[-1] == 0 and all(depth > 0 for depth in depths[1:-1])


def _split(text: str, separator: re.Pattern[str]) -> tuple[str, ...]:
    depths = _depths(text)
    parts, start = [], 0
    for match in separator.finditer(text):
        if depths[match.start()] == 0:
            parts.append(text[start : match.start()].strip())
            start = match.end()
    parts.append(text[start:].strip())
    return tuple(part for part in parts if part)
