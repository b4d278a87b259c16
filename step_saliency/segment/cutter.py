"""Characters of a response become cuts: format and splitter together, before any token is known."""

from dataclasses import dataclass

from step_saliency.options import Splitter
from step_saliency.segment.reader import Cue, Format
from step_saliency.segment.regions import Region


@dataclass
class Cut:
    """A step begins at character ``char``. A cue inside the step may change its region."""

    char: int
    region: Region


class Cutter:
    """Characters of one response to cuts.

    Args:
        format: Reader of the format, started.
        splitter: Splitter inside regions; None cuts between regions only.
    """

    def __init__(self, format: Format, splitter: Splitter | None) -> None:  # noqa: A002
        self.format = format
        self.splitter = splitter
        self.cuts: list[Cut] = []
        self.chars = 0
        self._region = format.region
        self._at_region_start = True
        self._at_line_start = True
        self._only_marks = False

    @property
    def region(self) -> Region:
        """Region of the text to come."""
        return self._region

    def feed(self, text: str) -> None:
        """Take text that is no special token."""
        for char in text:
            self._push(char)

    def feed_special(self, text: str) -> None:
        """Take the text of one special token, which is template."""
        self._cut(self.chars, Region.TEMPLATE)
        for char in text:
            self.format.push(char)
        self.chars += len(text)
        self._enter_region()

    def _push(self, char: str) -> None:
        if self._begins(char):
            self._cut(self.chars, self._region)
            self.format.begin_step()
            self._only_marks = True
        self._only_marks = self._only_marks and not (char.isalnum() or char.isspace())
        self.chars += 1
        self._at_line_start = char == "\n" or (self._at_line_start and char.isspace())
        cue = self.format.push(char)
        if cue:
            self._apply(cue, char)

    def _begins(self, char: str) -> bool:
        if self._at_region_start:
            if char.isspace():
                return False
            self._at_region_start = False
            self._restart_splitter(char)
            return True
        if self._region is Region.TEMPLATE:
            return False
        if self.splitter is not None and self.splitter.push(char):
            return True
        if char.isspace() or not self._may_open_mark(char):
            return False
        self._restart_splitter(char)
        return True

    def _may_open_mark(self, char: str) -> bool:
        if getattr(self.splitter, "in_code", False):
            return False
        return not self._only_marks and self.format.may_open_mark(char, self._at_line_start)

    def _restart_splitter(self, char: str) -> None:
        if self.splitter is not None:
            self.splitter.reset()
            self.splitter.push(char)

    def _apply(self, cue: Cue, char: str) -> None:
        if cue == "mark":
            self._close_mark(self.chars - len(self.format.mark))
        elif cue == "step_cue" and self.cuts:
            self.cuts[-1].region = self._region = self.format.region
        elif cue:
            self._region = self.format.region
            self._cut(self.chars - 1, self._region)
            self.format.begin_step()
            self._only_marks = not char.isalnum()

    def _close_mark(self, start: int) -> None:
        if self.cuts and self.cuts[-1].char >= start:
            self.cuts[-1].region = Region.TEMPLATE
        else:
            self._cut(start, Region.TEMPLATE)
        self._enter_region()

    def _enter_region(self) -> None:
        self._region = self.format.region
        self._at_region_start = True
        self._at_line_start = True

    def _cut(self, char: int, region: Region) -> None:
        if self.cuts and self.cuts[-1].region is region is Region.TEMPLATE:
            return
        self.cuts.append(Cut(char, region))
