"""What every reader of a format does: one character in, the region of the text to come out.

A reader knows marks and where they stand; what they mean in one format is the matter of `Rules`.
"""

from typing import Literal, Protocol, runtime_checkable

from step_saliency.segment.reading import Reading
from step_saliency.segment.regions import Region

Cue = Literal["", "mark", "step_cue", "line_cue"]


@runtime_checkable
class Format(Protocol):
    """A causal reader of one response."""

    @property
    def region(self) -> Region:
        """Region of the text to come."""

    @property
    def mark(self) -> str:
        """The mark that ``push`` found last."""

    def start(self, prompt: str) -> None:
        """Begin a response to this prompt (its end is enough)."""

    def begin_step(self) -> None:
        """The next character pushed is the first of a step."""

    def push(self, char: str) -> Cue:
        """Take the next character; tell what it completes.

        ``mark``: a mark of the template; ``step_cue`` and ``line_cue``: text that gives the whole
        current step, or the text from here on, another region.
        """

    def may_open_mark(self, char: str, at_line_start: bool) -> bool:
        """Whether a mark may begin here, so that a step must.

        Asked before ``push``.
        """


@runtime_checkable
class Rules(Protocol):
    """What the marks of one format mean."""

    name: str
    region: Region

    def start(self, prompt: str) -> None:
        """Begin a response to this prompt."""

    def begin_step(self) -> None:
        """The next character pushed is the first of a step."""

    def push(self, char: str) -> Cue:
        """Take a character."""

    def read(self, mark: str, reading: Reading) -> bool:
        """Whether this mark, just completed, is one of the format here; then it has acted."""

    def may_open(self, char: str, at_line_start: bool, reading: Reading) -> bool:
        """Whether a mark may begin with this character, which comes next."""
