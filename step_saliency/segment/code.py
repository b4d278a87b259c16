"""Steps of text with code in it: sentences, and the statements of code blocks.

The splitter ``code`` cuts prose as ``sentence`` does. In a fenced block a step begins with each
statement, see :mod:`step_saliency.segment.statements`; the first one joins the line of the fence,
unless that stands in a step with prose before it. The closing fence joins the last statement. As
everywhere, a fragment under ``min_chars`` characters joins the step after it.
"""

from step_saliency.segment.gaps import MIN_CHARS
from step_saliency.segment.sentences import SentenceSplitter
from step_saliency.segment.statements import Statements


class CodeSplitter(SentenceSplitter):
    """Sentences, and statements of code.

    Args:
        min_chars: A step shorter than this does not close.
    """

    def __init__(self, min_chars: int = MIN_CHARS) -> None:
        super().__init__(min_chars)

    def reset(self) -> None:
        super().reset()
        self._statements = Statements()
        self._alone = True
        self._blank = True

    def push(self, char: str) -> bool:
        was_open = self._fence.open
        begins = super().push(char)
        if begins or self._blank:
            self._alone = char == "`"
        self._blank = self._blank and char.isspace()
        if self._fence.open and not was_open:
            self._enter(char)
        elif was_open:
            self._statements.push(char)
        return begins

    def _enter(self, char: str) -> None:
        """A block opens; one that opens within a line is known at the end of it."""
        self._statements.enter()
        for known in f"{self._fence.info}\n" if char == "\n" else "":
            self._statements.push(known)

    def _begins(self, char: str) -> bool:
        if not self._fence.open:
            return super()._begins(char)
        if not self._statements.begins(char):
            return self._newlines >= 2 and super()._begins(char)
        return not (self._alone and self._statements.is_first)
