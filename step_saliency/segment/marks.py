"""Which marks stand around the thinking? The table of formats, which users extend.

A row of the table names the mark that opens the thinking, the mark that closes it, and marks around
the answer that may follow. Harmony and its form without special tokens have readers of their own,
see :mod:`step_saliency.segment.harmony`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from step_saliency.options import FORMATS


@dataclass(frozen=True)
class FormatMarks:
    """A row of the table.

    Attributes:
        name: Name of the format.
        open: Opens the thinking; empty where nothing does.
        close: Closes it.
        answer: Marks in the summary.
        early: Whether a mark of the answer closes the thinking too, at the start of a line.
        wraps: Whether models write the answer between the first two of its marks.
    """

    name: str
    open: str
    close: str
    answer: tuple[str, ...] = ()
    early: bool = False
    wraps: bool = False

    @property
    def marks(self) -> tuple[str, ...]:
        """All of them."""
        return tuple(mark for mark in (self.open, self.close, *self.answer) if mark)


_ANSWER = ("<answer>", "</answer>")
_RESPONSE = ("<response>", "</response>")
_TABLE: dict[str, FormatMarks] = {
    row.name: row
    for row in (
        FormatMarks("think", "<think>", "</think>", (*_ANSWER, *_RESPONSE)),
        FormatMarks(
            "openthoughts",
            "<|begin_of_thought|>",
            "<|end_of_thought|>",
            ("<|begin_of_solution|>", "<|end_of_solution|>"),
            early=True,
            wraps=True,
        ),
        FormatMarks("mistral", "[THINK]", "[/THINK]"),
        FormatMarks("kimi", "◁think▷", "◁/think▷"),
        FormatMarks("thought", "<thought>", "</thought>", _ANSWER),
        FormatMarks("seed", "<seed:think>", "</seed:think>"),
        FormatMarks(
            "cohere",
            "<|START_THINKING|>",
            "<|END_THINKING|>",
            ("<|START_RESPONSE|>", "<|END_RESPONSE|>"),
            wraps=True,
        ),
        FormatMarks("s1", "<|im_start|>think", "<|im_start|>answer"),
        FormatMarks("thinking", "<thinking>", "</thinking>", (*_ANSWER, *_RESPONSE)),
        FormatMarks("reasoning", "<reasoning>", "</reasoning>", _ANSWER, early=True, wraps=True),
        FormatMarks("answer", "", "<answer>", ("</answer>",)),
    )
}

END_MARKS = frozenset(
    {
        "<|im_end|>",
        "<|eot_id|>",
        "<|eom_id|>",
        "<|end|>",
        "<|return|>",
        "<|endoftext|>",
        "<|end_of_text|>",
        "<|end_of_turn|>",
        "<|eos|>",
        "<end_of_turn>",
        "<turn|>",
        "<eos>",
        "</s>",
        "[EOS]",
        "[/s]",
        "<｜end▁of▁sentence｜>",
        "[|endofturn|]",
        "[e~[",
        "<|END_OF_TURN_TOKEN|>",
    }
)
"""What other tokenizers write at the end of a response: template, wherever it stands unquoted."""


def rows() -> tuple[FormatMarks, ...]:
    """The table as it stands."""
    return tuple(_TABLE.values())


def row_of(name: str) -> FormatMarks | None:
    """The row of a name."""
    return _TABLE.get(name)


def register_format(
    open: str,  # noqa: A002
    close: str,
    *,
    name: str | None = None,
    answer: Sequence[str] = (),
) -> str:
    """Teach a format: thinking stands between two marks, summary follows.

    It is known from then on in this process, by its name and to ``format="auto"``. The same format
    may be registered again.

    Args:
        open: Mark that opens the thinking, such as ``<scratchpad>``.
        close: Mark that closes it.
        name: Name to give as ``format=``; by default the letters of ``open``.
        answer: Marks in the summary, which are template: ``["<result>", "</result>"]``.

    Returns:
        The name.

    Raises:
        ValueError: Marks that are no text, too short to be told from words, equal, or taken by
            another format; a name that is taken.
    """
    if isinstance(answer, str):
        raise ValueError(f"answer={answer!r} must be a list of marks: [{answer!r}]")
    marks = (open, close, *answer)
    for mark in marks:
        _check_mark(mark)
    if len(set(marks)) < len(marks):
        raise ValueError(f"the marks {list(marks)} must differ from each other")
    row = FormatMarks(_checked_name(name, open), open, close, tuple(answer))
    if _TABLE.get(row.name) != row:
        _check_free(row)
        _TABLE[row.name] = row
    return row.name


def _check_mark(mark: object) -> None:
    if not isinstance(mark, str) or len(mark) < 3 or mark.isalnum() or mark != mark.strip():
        raise ValueError(
            f"{mark!r} is no mark; take a text of three characters or more that is no plain word "
            "and neither begins nor ends with white space, such as '<scratchpad>'"
        )


def _checked_name(name: object, opening: str) -> str:
    letters = re.sub(r"\W+", "_", opening).strip("_").lower()
    name = letters if name is None else name
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.:-]*", name):
        raise ValueError(f"name={name!r} is no name for a format; take letters and digits")
    return name


def _check_free(row: FormatMarks) -> None:
    if row.name in _TABLE or row.name in FORMATS:
        raise ValueError(f"the format {row.name!r} is known already; give another name=...")
    for other in _TABLE.values():
        taken = {row.open, row.close} & set(other.marks)
        if taken:
            raise ValueError(f"{sorted(taken)} are marks of the format {other.name!r} already")
    if {row.open, row.close} & END_MARKS:
        raise ValueError(f"{row.open!r}, {row.close!r}: an end mark of a tokenizer is no format")
