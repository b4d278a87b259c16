"""What a line of an input was read as."""

from dataclasses import dataclass

from step_saliency.runs.inputs.rows import Row


@dataclass(frozen=True)
class Line:
    """Rows of one line, and what they were read as.

    Attributes:
        rows: One for each response, or one with an error.
        form: Name of the form; empty if the line could not be read.
        unread: Fields that may hold a trace and were not read.
        notes: What was left out.
    """

    rows: list[Row]
    form: str = ""
    unread: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
