"""Channels of GPT-OSS, with their marks and as they look once special tokens are lost.

``harmony``
    ``<|channel|>NAME<|message|>`` text ``<|end|>``.
``harmony_text``
    ``analysis`` text ``assistantfinal`` text: the words of the headers alone.

``analysis`` and ``commentary`` are thinking, ``final`` is summary; headers are template.
"""

import re

from step_saliency.segment.reader import Cue
from step_saliency.segment.reading import Reading, ends_sentence
from step_saliency.segment.regions import Region

HARMONY_MARKS = frozenset(
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
HEADER_WORDS = {
    "assistantanalysis": Region.THINKING,
    "assistantcommentary": Region.THINKING,
    "assistantfinal": Region.SUMMARY,
}
FIRST_WORDS = {
    "analysis": Region.THINKING,
    "commentary": Region.THINKING,
    "final": Region.SUMMARY,
}
_BEGINS_WITH_HEADER = re.compile(r"\s*(?:analysis|final)(?:[^\W_a-z]|[(\[\\$*“\"])")


def begins_with_header(response: str) -> bool:
    """Whether a response begins with a channel's name and, without a space, the text."""
    return _BEGINS_WITH_HEADER.match(response) is not None


class HarmonyRules:
    """Marks between channels."""

    name = "harmony"

    def __init__(self) -> None:
        self.region = Region.THINKING
        self._header = ""
        self._channel: str | None = None

    def start(self, prompt: str) -> None:
        """A header that the prompt has begun is read from there."""
        begun = prompt.rfind("<|start|>")
        reading = Reading(HARMONY_MARKS)
        for char in prompt[begun:] if begun >= 0 else "":
            mark = reading.push(char)
            self.push(char)
            if mark:
                self.read(mark, reading)
                reading.begin()

    def begin_step(self) -> None:
        pass

    def push(self, char: str) -> Cue:
        if self.region is Region.TEMPLATE:
            self._header += char
        return ""

    def read(self, mark: str, reading: Reading) -> bool:  # noqa: ARG002
        if mark not in HARMONY_MARKS:
            return False
        if mark == "<|message|>":
            self._read_channel(self._header.removesuffix(mark))
            final = self._channel in (None, "final")
            self.region = Region.SUMMARY if final else Region.THINKING
        else:
            self._enter_header(mark)
        return True

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

    def may_open(self, char: str, at_line_start: bool, reading: Reading) -> bool:
        return (at_line_start and char == "<") or (char == "|" and reading.last == "<")


class HeaderRules:
    """The words of the headers, run together with the text."""

    name = "harmony_text"

    def __init__(self) -> None:
        self.region = Region.THINKING

    def start(self, prompt: str) -> None:
        pass

    def begin_step(self) -> None:
        pass

    def push(self, char: str) -> Cue:  # noqa: ARG002
        return ""

    def read(self, mark: str, reading: Reading) -> bool:
        if mark in HEADER_WORDS:
            self.region = HEADER_WORDS[mark]
            return True
        if mark in FIRST_WORDS and reading.is_first(mark):
            self.region = FIRST_WORDS[mark]
            return True
        return False

    def may_open(self, char: str, at_line_start: bool, reading: Reading) -> bool:
        after = at_line_start or ends_sentence(reading.tail) or reading.last in ("}", ")", "]", "$")
        return char == "a" and after
