"""Which part of a response is thinking, which is summary, which are marks?

A reader is fed the response character by character and keeps ``region``, that of the text to come.

``think`` and the other rows of the table
    ``<think>`` thinking ``</think>`` summary (R1, QwQ, Qwen3), and the same with other marks, see
    :mod:`step_saliency.segment.marks`. Without a closing mark all is thinking.
``harmony``, ``harmony_text``
    Channels of GPT-OSS, with and without their special tokens, see
    :mod:`step_saliency.segment.harmony`.
``plain``
    No marks. The summary is opened by the step that announces the final answer, see
    :mod:`step_saliency.segment.plain`.

A quoted mark does nothing, see :mod:`step_saliency.segment.quotes`. End marks of any tokenizer
(``<|im_end|>``) are template in every format.

The *boundary* of a step is known at its first token. The *region* of a step is known there too, but
for two cases in which it is known a few tokens later, in the same step: the announcing step of
``plain`` (known when the announcement is complete) and a mark that the tokenizer spells in several
tokens at the start of a line. A mark in the middle of a line that is spelled in several tokens
becomes template from the token that completes it, or from its second character where what stands
before it is the end of a sentence.
"""

from step_saliency.options import FORMATS
from step_saliency.segment.choice import deciding_format, format_of_prompt
from step_saliency.segment.harmony import (
    FIRST_WORDS,
    HARMONY_MARKS,
    HEADER_WORDS,
    HarmonyRules,
    HeaderRules,
)
from step_saliency.segment.marks import END_MARKS, row_of, rows
from step_saliency.segment.plain import PlainRules
from step_saliency.segment.reader import Cue, Format, Rules
from step_saliency.segment.reading import Reading, ends_sentence
from step_saliency.segment.regions import Region
from step_saliency.segment.tags import TagRules


class FormatReader:
    """Reader of a format by its name.

    ``auto`` reads as the prompt says, else as plain, until the first mark that decides for another
    format; then that format.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self.start("")

    def start(self, prompt: str) -> None:
        self._reading = Reading(known_marks())
        self._opened = format_of_prompt(prompt) if self._name == "auto" else None
        self._undecided = self._name == "auto"
        plain = "plain" if self._undecided else self._name
        self._rules = make_rules(self._opened or plain)
        self._rules.start(prompt)
        self.mark = ""

    @property
    def region(self) -> Region:
        """Region of the text to come."""
        return self._rules.region

    def begin_step(self) -> None:
        self._rules.begin_step()

    def push(self, char: str) -> Cue:
        mark = self._reading.push(char)
        cue = self._rules.push(char)
        if not mark or not self._takes(mark):
            return cue
        self._reading.begin()
        self.mark = mark
        return "mark"

    def _takes(self, mark: str) -> bool:
        if self._undecided:
            self._decide(mark)
        return self._rules.read(mark, self._reading) or self._ends(mark)

    def _decide(self, mark: str) -> None:
        name = deciding_format(mark, self._reading, prompted=self._opened)
        if name is None:
            return
        self._undecided = False
        if name != self._rules.name:
            self._rules = make_rules(name)

    def _ends(self, mark: str) -> bool:
        struck_through = mark == "</s>" and "<s>" in self._reading.tail
        return mark in END_MARKS and not struck_through

    def may_open_mark(self, char: str, at_line_start: bool) -> bool:
        if self._undecided and self._opened is None:
            return HarmonyRules().may_open(char, at_line_start, self._reading)
        if self._rules.may_open(char, at_line_start, self._reading):
            return True
        return self._may_open_end(char)

    def _may_open_end(self, char: str) -> bool:
        """An end mark shows at its second character after a sentence, else at its third."""
        tail = self._reading.tail
        if tail[-1:] in ("<", "["):
            return char == "｜" or (char in "|e" and ends_sentence(tail[:-1]))
        if tail[-2:] == "</":
            return char == "s" and ends_sentence(tail[:-2])
        if tail[-2:] != "<|" or not _begins_end_mark(f"<|{char}"):
            return False
        before = tail[-3:-2]
        return before.isalnum() or before in (")", "]", "}", "$", "%")


def _begins_end_mark(head: str) -> bool:
    return any(mark.startswith(head) for mark in END_MARKS)


def known_marks() -> frozenset[str]:
    """All marks of all formats."""
    marks = {mark for row in rows() for mark in row.marks}
    return frozenset(marks | HARMONY_MARKS | END_MARKS | set(HEADER_WORDS) | set(FIRST_WORDS))


def make_rules(name: str) -> Rules:
    """Rules of a format other than ``auto``."""
    row = row_of(name)
    if row is not None:
        return TagRules(row)
    if name == "harmony":
        return HarmonyRules()
    return HeaderRules() if name == "harmony_text" else PlainRules()


def make_format(name: str) -> Format:
    """Reader of a format.

    Raises:
        ValueError: An unknown format.
    """
    check_format(name)
    return FormatReader(name)


def check_format(name: str) -> None:
    """Raise ``ValueError`` for a format that is not known."""
    known = list(dict.fromkeys((*FORMATS, *(row.name for row in rows()))))
    if name not in known:
        raise ValueError(
            f"unknown format {name!r}; take one of {', '.join(map(repr, known))}, or teach its "
            "marks with step_saliency.segment.register_format(open, close)"
        )
