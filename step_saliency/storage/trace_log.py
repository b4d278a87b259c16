"""Generations that survive a kill: a file that grows trace by trace.

A second run with the same settings goes on where the first was broken off; with other settings it
is refused, and told which. The settings lie beside the file, or in the manifest of the results
folder that the file is part of.
"""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from step_saliency.storage.files import write_text
from step_saliency.storage.lines import append_line, mend, read_lines
from step_saliency.storage.manifest import read_facts, refuse_changes
from step_saliency.trace import Trace

FORMAT = "step-saliency-generation/1"


class TraceLog:
    """A JSONL file of traces that grows by one line a trace.

    A line is a trace as `save_jsonl` writes it, or ``{LABEL: ..., "trace": TRACE}`` for a trace
    that is kept under a label.

    Args:
        path: The file.
        settings: What the traces depend on, in JSON types; kept in ``<path>.settings.json``. None
            where the manifest of a results folder has them.

    Raises:
        ValueError: the file was made with other settings, or by something else.
    """

    def __init__(
        self, path: str | os.PathLike[str], settings: Mapping[str, Any] | None = None
    ) -> None:
        self.path = Path(path)
        if settings is not None:
            self._keep_settings(settings)
        mend(self.path)

    def append(self, trace: Trace, **label: str) -> None:
        """Keep a trace, under a label if one is given."""
        entry = trace.to_dict()
        append_line(self.path, {**label, "trace": entry} if label else entry)

    def __iter__(self) -> Iterator[Trace]:
        """The traces kept so far."""
        for _, trace in self.labelled():
            yield trace

    def labelled(self) -> Iterator[tuple[dict[str, Any], Trace]]:
        """Labels and traces kept so far; a line that was cut short is left out."""
        for entry in read_lines(self.path):
            trace = entry.pop("trace", None)
            label, fields = ({}, entry) if trace is None else (entry, trace)
            yield label, Trace.from_dict(fields)

    def _keep_settings(self, settings: Mapping[str, Any]) -> None:
        beside = self.path.with_name(self.path.name + ".settings.json")
        if beside.is_file():
            facts = read_facts(beside, kind=FORMAT, writer="step_saliency.generate")
            refuse_changes(self.path, facts["settings"], settings)
        elif self.path.exists():
            raise ValueError(
                f"{self.path} exists, but {beside.name} does not, so it is not known what the file "
                "was made with; choose another file"
            )
        else:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_text(beside, json.dumps({"format": FORMAT, "settings": settings}, indent=2))
