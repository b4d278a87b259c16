"""Formats of the table: a mark before the thinking, a mark after it, marks around the answer.

The opening mark may stand in the prompt or be missing: a response begins as thinking. Without a
closing mark all is thinking. A mark of the answer counts in the summary.
"""

from step_saliency.segment.marks import FormatMarks
from step_saliency.segment.reader import Cue
from step_saliency.segment.reading import Reading, ends_sentence
from step_saliency.segment.regions import Region

_ENDS_ANSWER = frozenset(")]}|%$°*’”")
"""What an answer ends in that is no letter and no digit: a bracket, a unit, markup."""


class TagRules:
    """Marks of one row of the table."""

    def __init__(self, row: FormatMarks) -> None:
        self.name = row.name
        self.region = Region.THINKING
        self._row = row
        self._openers = frozenset(mark[0] for mark in row.marks if not mark[0].isalnum())
        self._answering = False

    def start(self, prompt: str) -> None:
        closed = prompt.rstrip().endswith(self._row.close)
        self.region = Region.SUMMARY if closed else Region.THINKING

    def begin_step(self) -> None:
        pass

    def push(self, char: str) -> Cue:  # noqa: ARG002
        return ""

    def read(self, mark: str, reading: Reading) -> bool:
        if mark == self._row.close:
            self._answering = self._row.open == ""
            self.region = Region.SUMMARY
        elif mark == self._row.open:
            self.region = Region.THINKING
        elif mark in self._row.answer and self._takes_answer(mark, reading):
            self._answering = True
            self.region = Region.SUMMARY
        else:
            return False
        return True

    def _takes_answer(self, mark: str, reading: Reading) -> bool:
        early = self._row.early and reading.at_line_start(mark)
        return self.region is Region.SUMMARY or early

    def may_open(self, char: str, at_line_start: bool, reading: Reading) -> bool:
        """A mark is looked for at the start of a line; inside a line, where it cannot be text.

        ``think`` looks inside a line only for the end of an answer: its steps are those of traces
        that were cut before other formats were known.
        """
        inside = self.name != "think" or self._answering
        if char in self._openers:
            return at_line_start or (inside and self._may_open_inside(char, reading))
        return inside and char in "/|" and reading.last in self._openers

    def _may_open_inside(self, char: str, reading: Reading) -> bool:
        last = reading.last
        closes_answer = self._answering and (last.isalnum() or last in _ENDS_ANSWER)
        return char == "◁" or closes_answer or ends_sentence(reading.tail)
