"""What a run did, and what failed in it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from step_saliency.runs.inputs import Row

FAILURE_COLUMNS = ("row", "trace", "line", "stage", "error", "message")
Stage = Literal["input", "generate", "map"]


@dataclass
class RunReport:
    """What a run did.

    Attributes:
        folder: The results folder.
        done: Traces mapped in this run.
        kept: Traces whose map was there already.
        redone: Of those done, traces whose file was cut short or out of date.
        failures: Input rows and traces that gave no map, columns ``FAILURE_COLUMNS``.
        summary: How the input was read, in one line.
        notes: What of it was left out or may not be as it seems, a line each.
        judgements: How the judgements that came with the rows agree with ours, and what is unknown,
            in one line; empty where nothing was judged.
    """

    folder: Path
    done: int = 0
    kept: int = 0
    redone: int = 0
    failures: list[Mapping[str, Any]] = field(default_factory=list)
    summary: str = ""
    notes: list[str] = field(default_factory=list)
    judgements: str = ""

    def add_failure(
        self, row: Row, stage: Stage, error: BaseException | str, *, trace: str | None = None
    ) -> None:
        """Note that a row, or a trace of it, gave no map.

        Args:
            row: The row.
            stage: Where it failed.
            error: Why.
            trace: Name of the trace, if there is one.
        """
        kind = type(error).__name__ if isinstance(error, BaseException) else "ValueError"
        values = (row.id, trace, row.line, stage, kind, str(error))
        self.failures.append(dict(zip(FAILURE_COLUMNS, values, strict=True)))

    def __str__(self) -> str:
        text = f"{self.done} traces mapped, {self.kept} kept from before"
        if self.redone:
            text += f", {self.redone} of them again: their file was cut short or out of date"
        if self.failures:
            text += f"; {len(self.failures)} failed (failures.parquet)"
        return f"{text}; results in {self.folder}"
