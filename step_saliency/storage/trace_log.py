"""Generations that survive a kill: a file that grows trace by trace.

A second run with the same settings goes on where the first was broken off; with other settings it
is refused, and told which. The settings lie beside the file, or in the manifest of the results
folder that the file is part of.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from step_saliency.storage.files import is_file, make_folder, write_text
from step_saliency.storage.lines import append_line, count_lines, mend, read_lines
from step_saliency.storage.manifest import read_facts, refuse_changes
from step_saliency.storage.traces import read_trace
from step_saliency.trace import Trace

FORMAT = "step-saliency-generation/1"
SINCE = frozenset({"all_weights"})
"""Settings that files of earlier versions lack, and are not asked for."""
DIGEST = "sha256"
"""Key of the digest in a labelled line; lines without one, of an earlier form, are read."""


class TraceLog:
    """A JSONL file of traces that grows by one line a trace.

    A line is a trace as `save_jsonl` writes it, or ``{LABEL: ..., "trace": TRACE, "sha256": ...}``
    for a trace that is kept under a label. Lines that are damaged are left out, with a warning.

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
        if label:
            entry = {**label, "trace": entry}
            entry[DIGEST] = _digest(entry)
        append_line(self.path, entry)

    def __iter__(self) -> Iterator[Trace]:
        """The traces kept so far."""
        for _, trace in self.labelled():
            yield trace

    def labelled(self) -> Iterator[tuple[dict[str, Any], Trace]]:
        """Labels and traces kept so far; a line that is damaged is left out.

        Raises:
            ValueError: something that is no file is in its place.
        """
        entries = [entry for entry in map(_read, read_lines(self.path)) if entry is not None]
        n_damaged = count_lines(self.path) - len(entries)
        if n_damaged:
            warnings.warn(
                f"{self.path}: {n_damaged} damaged lines are left out and made again",
                stacklevel=2,
            )
        yield from entries

    def _keep_settings(self, settings: Mapping[str, Any]) -> None:
        beside = self.path.with_name(self.path.name + ".settings.json")
        if is_file(beside):
            facts = read_facts(beside, kind=FORMAT, writer="step_saliency.generate")
            if count_lines(self.path):
                before = facts["settings"]
                refuse_changes(self.path, before, settings, free=SINCE - before.keys())
            elif facts["settings"] != settings:  # of a call that was refused, or kept nothing
                self._write_settings(beside, settings)
        elif self.path.exists():
            raise ValueError(
                f"{self.path} exists, but {beside.name} does not, so it is not known what the file "
                "was made with; choose another file"
            )
        else:
            make_folder(self.path.parent)
            self._write_settings(beside, settings)

    @staticmethod
    def _write_settings(beside: Path, settings: Mapping[str, Any]) -> None:
        write_text(beside, json.dumps({"format": FORMAT, "settings": settings}, indent=2))


def _read(entry: dict[str, Any]) -> tuple[dict[str, Any], Trace] | None:
    """Label and trace of a line; None for one that is damaged."""
    digest = entry.pop(DIGEST, None)
    if digest is not None and digest != _digest(entry):
        return None
    fields = entry.pop("trace") if "trace" in entry else entry
    label = {} if fields is entry else entry
    try:
        return label, read_trace(fields)
    except ValueError:
        return None


def _digest(entry: Mapping[str, Any]) -> str:
    """Hash of a line without its digest, the same for the line as it was read back."""
    return hashlib.sha256(json.dumps(entry, sort_keys=True).encode()).hexdigest()
