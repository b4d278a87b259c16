"""Where does a new step begin? Causal splitters: one character in, one decision out.

A splitter is fed the text of one region character by character. ``push(char)`` returns True where
``char`` is the first character of a new step. The decision uses the text up to and including
``char`` and nothing after it, so that an intervention can act on the first token of a step while
that token is processed, and so that any chunking of the text gives the same steps.
"""

from itertools import pairwise
from operator import index
from typing import Any

from step_saliency.options import SPLITTERS, SplitFunction, Splitter, SplitterLike
from step_saliency.segment.code import CodeSplitter
from step_saliency.segment.gaps import GapSplitter
from step_saliency.segment.sentences import SentenceSplitter


def make_splitter(splitter: SplitterLike) -> Splitter | SplitFunction:
    """Splitter of a name; splitters and functions pass through.

    Raises:
        ValueError: An unknown name, or neither a name, a splitter nor a function.
    """
    if splitter == "sentence":
        return SentenceSplitter()
    if splitter == "paragraph":
        return GapSplitter(2)
    if splitter == "line":
        return GapSplitter(1)
    if splitter == "code":
        return CodeSplitter()
    if isinstance(splitter, Splitter) or callable(splitter):
        return splitter
    known = ", ".join(map(repr, SPLITTERS))
    raise ValueError(f"unknown splitter {splitter!r}; take {known}, or a function of the text")


def split_text(text: str, splitter: SplitterLike = "sentence") -> list[int]:
    """Offset of the first character of each step; the first is 0 unless the text is empty.

    White space between two steps belongs to the first of them.

    Raises:
        ValueError: An unknown splitter, or starts from a function that are no whole numbers, out
            of order or range.
    """
    split = make_splitter(splitter)
    if not text:
        return []
    if not isinstance(split, Splitter):
        return _checked_starts(split(text), len(text))
    split.reset()
    return [0, *(i for i, char in enumerate(text) if split.push(char) and i)]


def _checked_starts(cuts: Any, n_chars: int) -> list[int]:
    try:
        starts = [_start(cut[0] if isinstance(cut, (tuple, list)) else cut) for cut in cuts]
    except (TypeError, IndexError):
        raise ValueError(
            f"the splitter returned {cuts!r:.80}; it takes a list of starts, or of starts and "
            "stops, as whole numbers"
        ) from None
    if not starts or starts[0] != 0:
        starts = [0, *starts]
    for before, after in pairwise(starts):
        if not before < after < n_chars:
            raise ValueError(
                f"the splitter returned start {after} after {before} in a text of {n_chars} "
                "characters; starts must strictly increase and lie inside the text"
            )
    return starts


def _start(value: Any) -> int:
    """A whole number, of numpy and torch too.

    Raises:
        TypeError: it is none.
    """
    if isinstance(value, bool):
        raise TypeError
    return index(value)
