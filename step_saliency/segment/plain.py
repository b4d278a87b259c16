r"""Responses without marks: which step announces the final answer, and which takes it back?

The summary is opened by the step that gives the final answer: one that begins with an announcement
("The answer is", "Final answer:", "**Answer**", with "So," and its like before), a line
``#### 42``, or a step with ``\boxed{`` in it. A later step that takes the answer back ("Wait",
"Actually", "Let me check") is thinking again; so where several answers are given, the summary is
what follows the last one that is not questioned. Without an announcement all is thinking.

When it misleads: an announcement is taken at its word, also where a problem is restated.
"""

import re

from step_saliency.segment.reader import Cue
from step_saliency.segment.reading import Reading
from step_saliency.segment.regions import Region

_MARKUP = r"[\s>*_#$\\\[({\"'“-]*"
_LINK = (
    r"(?:(?:so|thus|therefore|hence|finally|consequently|accordingly|and|then|in conclusion|"
    r"to conclude|in summary|as a result|putting it all together)[,:]?\s+)*"
)
_ANNOUNCEMENT = re.compile(
    _MARKUP
    + _LINK
    + r"(?:"
    + r"(?:(?:the|my|our|your)\s+)?(?:(?:(?:final|correct|right)\s+)?(?:answer|choice|option)|"
    + r"final\s+result)(?:\s+(?:to|for)\s+[\w\s]{1,40}?)?"
    + r"\s*(?:is|are|:|=|(?:would|should|must|will)\s+be)[\W\d_]"
    + r"|(?:final\s+answer|answer\s*(?=[:*_\n]))(?:\W|__)"
    + r"|(?:所以|因此|综上)?[，,]?(?:最终|最后)?答案\s*(?:是|为|：|:)"
    + r")",
    re.IGNORECASE,
)
_GSM8K = re.compile(r"\s*####\s*[-+$\\(]*[\d.]")
_RETRACTION = re.compile(
    r"\s*(?:but\s+|oh\s*,?\s+|no\s*,\s+)?(?:wait|hmm+|hold on|actually|alternatively|"
    r"let(?:'s|’s| me| us)\s+(?:just\s+)?(?:double[\s-]?check|check|verify|re-?\w+))\W",
    re.IGNORECASE,
)
_BOXED = ("\\boxed{", "\\fbox{")
_HEAD = 96
_CJK = "\u2e80"


class PlainRules:
    """No marks; announcements of the final answer."""

    name = "plain"

    def __init__(self) -> None:
        self.start("")

    def start(self, prompt: str) -> None:  # noqa: ARG002
        self.region = Region.THINKING
        self._line_head = ""
        self._recent = ""
        self.begin_step()

    def begin_step(self) -> None:
        self._step_head: str | None = ""
        self._line_head = ""

    def push(self, char: str) -> Cue:
        self._recent = (self._recent + char)[-7:]
        self._grow(char)
        if char.isalpha() and char < _CJK:
            return ""
        if self.region is Region.SUMMARY:
            return self._retracted()
        if char == "{" and self._recent.endswith(_BOXED):
            self.region = Region.SUMMARY
            return "step_cue"
        return self._announced()

    def _grow(self, char: str) -> None:
        if self._step_head is not None:
            self._step_head = self._step_head + char if len(self._step_head) < _HEAD else None
        self._line_head = "" if char == "\n" else (self._line_head + char)[: _HEAD + 1]

    def _announced(self) -> Cue:
        if self._step_head and _announces(self._step_head):
            self.region = Region.SUMMARY
            return "step_cue"
        if len(self._line_head) <= _HEAD and _announces(self._line_head):
            self.region = Region.SUMMARY
            return "line_cue"
        return ""

    def _retracted(self) -> Cue:
        if not self._step_head or not _RETRACTION.fullmatch(self._step_head):
            return ""
        self.region = Region.THINKING
        return "step_cue"

    def read(self, mark: str, reading: Reading) -> bool:  # noqa: ARG002
        return False

    def may_open(self, char: str, at_line_start: bool, reading: Reading) -> bool:  # noqa: ARG002
        return False


def _announces(head: str) -> bool:
    return bool(_ANNOUNCEMENT.fullmatch(head) or _GSM8K.fullmatch(head))
