"""Which part of a response is thinking, which is summary, which are marks?

A reader is fed the response character by character and keeps ``region``, that of the text to come.

``think``
    ``<think>`` thinking ``</think>`` summary (R1, QwQ, Qwen3). The opening mark may stand in the
    prompt or be missing: a response begins as thinking. Without a closing mark all is thinking.
``harmony``
    Channels of GPT-OSS: ``<|channel|>NAME<|message|>`` text ``<|end|>``. ``analysis`` and
    ``commentary`` are thinking, ``final`` is summary; headers are template.
``plain``
    No marks. The summary is opened by the step that announces the final answer, see
    :mod:`step_saliency.segment.plain`.

The *boundary* of a step is known at its first token. The *region* of a step is known there too, but
for two cases in which it is known a few tokens later, in the same step: the announcing step of
``plain`` (known when the announcement is complete) and a mark that the tokenizer spells in several
tokens at the start of a line. A mark in the middle of a line that is spelled in several tokens
becomes template from the token that completes it.
"""

import re

from step_saliency.options import FormatName
from step_saliency.segment.plain import PlainFormat
from step_saliency.segment.reader import Cue, Format
from step_saliency.segment.regions import Region


class _Marks:
    """Finds marks, ``<...>``, as their last character comes."""

    def __init__(self, marks: frozenset[str]) -> None:
        self._marks = marks
        self._longest = max(map(len, marks), default=0)
        self._open = ""

    @property
    def opened(self) -> bool:
        """Whether the last character was ``<``."""
        return self._open == "<"

    def push(self, char: str) -> str:
        if char == "<":
            self._open = char
        elif self._open:
            self._open += char
            if char == ">" and self._open in self._marks:
                mark, self._open = self._open, ""
                return mark
            if len(self._open) >= self._longest:
                self._open = ""
        return ""


class ThinkFormat:
    """``<think>`` ... ``</think>`` ..."""

    MARKS = frozenset({"<think>", "</think>"})

    def __init__(self) -> None:
        self.start("")

    def start(self, prompt: str) -> None:
        closed = prompt.rstrip().endswith("</think>")
        self.region = Region.SUMMARY if closed else Region.THINKING
        self.mark = ""
        self._marks = _Marks(self.MARKS)

    def begin_step(self) -> None:
        pass

    def push(self, char: str) -> Cue:
        mark = self._marks.push(char)
        if not mark:
            return ""
        self.mark = mark
        self.region = Region.THINKING if mark == "<think>" else Region.SUMMARY
        return "mark"

    def may_open_mark(self, char: str, at_line_start: bool) -> bool:
        return at_line_start and char == "<"


class HarmonyFormat:
    """Channels of GPT-OSS."""

    MARKS = frozenset(
        {
            "<|start|>",
            "<|channel|>",
            "<|constrain|>",
            "<|message|>",
            "<|end|>",
            "<|return|>",
            "<|call|>",
        }
    )

    def __init__(self) -> None:
        self.start("")

    def start(self, prompt: str) -> None:
        self.region = Region.THINKING
        self.mark = ""
        self._marks = _Marks(self.MARKS)
        self._header = ""
        self._channel: str | None = None
        begun = prompt.rfind("<|start|>")
        for char in prompt[begun:] if begun >= 0 else "":
            self.push(char)

    def begin_step(self) -> None:
        pass

    def push(self, char: str) -> Cue:
        if self.region is Region.TEMPLATE:
            self._header += char
        mark = self._marks.push(char)
        if not mark:
            return ""
        self.mark = mark
        if mark == "<|message|>":
            self._read_channel(self._header.removesuffix(mark))
            final = self._channel in (None, "final")
            self.region = Region.SUMMARY if final else Region.THINKING
        else:
            self._enter_header(mark)
        return "mark"

    def _enter_header(self, mark: str) -> None:
        if mark in ("<|start|>", "<|end|>", "<|return|>", "<|call|>"):
            self._channel = None
            self._header = ""
        elif mark == "<|channel|>":
            self._header = mark
        self.region = Region.TEMPLATE

    def _read_channel(self, header: str) -> None:
        _, mark, name = header.partition("<|channel|>")
        words = re.split(r"[\s<]+", name.strip())
        self._channel = words[0] if mark and words[0] else None

    def may_open_mark(self, char: str, at_line_start: bool) -> bool:
        return (at_line_start and char == "<") or (char == "|" and self._marks.opened)


class AutoFormat:
    """Plain until a mark of another format comes; then that format.

    For a tracker that has neither a name nor a prompt to go by.
    """

    def __init__(self) -> None:
        self.start("")

    def start(self, prompt: str) -> None:
        self._marked: tuple[Format, ...] = (ThinkFormat(), HarmonyFormat())
        self._now: Format = PlainFormat()
        for reader in (*self._marked, self._now):
            reader.start(prompt)
        self.mark = ""

    @property
    def region(self) -> Region:
        """Region of the text to come."""
        return self._now.region

    def begin_step(self) -> None:
        self._now.begin_step()

    def push(self, char: str) -> Cue:
        if self._now not in self._marked:
            for reader in self._marked:
                if reader.push(char):
                    self._now, self.mark = reader, reader.mark
                    return "mark"
        cue = self._now.push(char)
        self.mark = self._now.mark
        return cue

    def may_open_mark(self, char: str, at_line_start: bool) -> bool:
        return any(reader.may_open_mark(char, at_line_start) for reader in self._marked)


_FORMATS: dict[str, type[Format]] = {
    "auto": AutoFormat,
    "think": ThinkFormat,
    "harmony": HarmonyFormat,
    "plain": PlainFormat,
}


def make_format(name: str) -> Format:
    """Reader of a format.

    Raises:
        ValueError: An unknown format.
    """
    check_format(name)
    return _FORMATS[name]()


def check_format(name: str) -> None:
    """Raise ``ValueError`` for a format that is not known."""
    if name not in _FORMATS:
        known = ", ".join(map(repr, _FORMATS))
        raise ValueError(f"unknown format {name!r}; take one of {known}")


def detect_format(*, prompt: str = "", response: str | None = None) -> FormatName:
    """Format by the end of the prompt and, where it is known, the whole response.

    With the response unknown (while decoding) and a prompt that does not tell: ``"auto"``.
    """
    end = prompt.rstrip()
    if end.endswith(("<think>", "</think>")):
        return "think"
    if "<|start|>" in end or "<|channel|>" in (response or ""):
        return "harmony"
    if response is None:
        return "auto"
    return "think" if "</think>" in response or "<think>" in response else "plain"
