"""A row of an input file: its name, what it says, and why it cannot be used if it cannot."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from step_saliency.runs.inputs.names import gold_of, verdict_of
from step_saliency.runs.inputs.objects import read_object
from step_saliency.runs.inputs.reading import Kind, Reading
from step_saliency.runs.inputs.shapes import checked_text
from step_saliency.storage.names import file_name
from step_saliency.tasks.verdicts import verdict


@dataclass(frozen=True)
class Row:
    """One response, conversation, saved trace or open question of an input.

    Attributes:
        id: Name in tables, unique in the input.
        line: Line or element number, from 1.
        data: What the line holds.
        error: Why the line cannot be used, if it cannot.
        reading: What it says; read from ``data`` where it is not given.
        form: Name of the form that it was read as.
        sample: Which of several responses of the line it is.
    """

    id: str
    line: int
    data: Mapping[str, Any]
    error: str | None = None
    reading: Reading | None = None
    form: str = ""
    sample: int = 0

    @cached_property
    def says(self) -> Reading:
        """What the row says."""
        if self.reading is not None:
            return self.reading
        return Reading(kind="problem") if self.error else read_object(self.data)[1][0]

    @property
    def kind(self) -> Kind:
        """What has to be done to get a trace."""
        return self.says.kind

    @property
    def question(self) -> str:
        """Text of the question, empty if the row has none."""
        return self.says.question or self.says.prompt or ""

    @property
    def gold(self) -> str | None:
        """Gold answer, if there is one."""
        return self.says.gold or None if self.says.gold is not None else gold_of(self.data)

    @property
    def stated(self) -> Any:
        """A judgement that came with the row, as it was written; None if there is none."""
        if self.says.unjudged:
            return None
        return self.says.stated if self.says.stated is not None else verdict_of(self.data)

    @property
    def stated_correct(self) -> bool | None:
        """The judgement that came with the row, read strictly; None where it says neither."""
        return verdict(self.stated)

    @property
    def problem(self) -> str:
        """Name of the problem, by which samples are grouped, or a digest of the question.

        A saved trace names it in its meta. A line without a question is a problem of its own.
        """
        saved = (self.says.trace or {}).get("meta", {}).get("problem")
        for name in (self.data.get("problem_id"), saved):
            if name not in (None, "") and name == name:  # NaN is none
                return checked_text(str(name), "problem_id")
        turns = [turn.content for turn in self.says.turns[:-1] if turn.role != "system"]
        asked = "\n".join(turns) if len(turns) > 1 else self.question
        asked = asked or json.dumps(self.data, sort_keys=True, default=str)
        return hashlib.sha256(asked.encode(errors="replace")).hexdigest()[:12]

    @property
    def digest(self) -> str:
        """Changes when the row, or the form that it is read as, changes."""
        text = json.dumps(self.data, sort_keys=True, default=str)
        return hashlib.sha256(f"{text}{self.form}".encode()).hexdigest()[:16]

    @property
    def file_name(self) -> str:
        """The id as a file name, without extension."""
        return file_name(self.id)
