"""A known form of rows: told by its field names, read by a function."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from step_saliency.runs.inputs.reading import Reading


@dataclass(frozen=True)
class Form:
    """A form of rows.

    Attributes:
        name: What it is called in the output ("1,000 rows read as ...").
        matches: Whether a row is of this form, by the names of its fields.
        read: What the row says; a row may hold several responses. Raises ValueError for a row that
            has the names of the form and something else in them.
        fields: Names of the fields that it reads, beside those of questions and gold answers.
    """

    name: str
    matches: Callable[[Mapping[str, Any]], bool]
    read: Callable[[Mapping[str, Any]], list[Reading]]
    fields: str = ""

    def reads(self, data: Mapping[str, Any]) -> set[str]:
        """Names of the fields of a row that were read."""
        return {name for name in data if re.fullmatch(self.fields, name)}

    def silent(self, data: Mapping[str, Any]) -> tuple[str, ...]:  # noqa: ARG002
        """Notes on responses of a row that say nothing, where others in it do."""
        return ()


def has(*names: str) -> Callable[[Mapping[str, Any]], bool]:
    """Test for rows that have all of these fields."""
    return lambda data: all(name in data for name in names)
