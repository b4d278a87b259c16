"""What every reader of a format does: one character in, the region of the text to come out."""

from typing import Literal, Protocol, runtime_checkable

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

        Asked of ``<`` and ``|`` before ``push``.
        """
