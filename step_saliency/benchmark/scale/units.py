"""Pieces of a run, each under a key, and which of them are done.

    key = hash of what the responses depend on: settings but for the machine, suite (of a local file
          its hash), condition, ids

A worker notes a key when its unit is done, as a line of a file that it alone writes to. Keys that
are done are read at the start; a key that stands in two files is one unit.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from step_saliency.benchmark.command.settings import MACHINE, BenchmarkSettings
from step_saliency.benchmark.suites.suites import items_of
from step_saliency.storage.files import make_folder
from step_saliency.storage.lines import append_line, read_lines

UNITS = "units"
ROUNDS = 8
"""Batches that a unit is worth, so that few rows stand idle at its end."""


@dataclass(frozen=True)
class Unit:
    """A piece of a run.

    Attributes:
        suite: Name of the suite.
        condition: Name of the condition.
        ids: Ids of its problems; all samples of each belong to it.
        key: What it is known by.
    """

    suite: str
    condition: str
    ids: tuple[str, ...]
    key: str


def units_of(settings: BenchmarkSettings) -> list[Unit]:
    """Units of a run, the same in every process."""
    units, digests = [], settings.digests
    for suite, condition in settings.runs:
        ids = [item.id for item in items_of(suite, settings.selection(suite))]
        each = max(1, ROUNDS * settings.batch_size // settings.samples_of(suite))
        for start in range(0, len(ids), each):
            part = tuple(ids[start : start + each])
            file = digests.get(suite, settings.data.get(suite))
            key = _key(settings, suite, condition, file, part)
            units.append(Unit(suite, condition, part, key))
    return units


def done_keys(out: Path) -> set[str]:
    """Keys of units that any worker has done."""
    folder = out / UNITS
    files = sorted(folder.glob("*.jsonl")) if folder.is_dir() else []
    return {str(line["key"]) for file in files for line in read_lines(file) if "key" in line}


def note_done(out: Path, writer: str, unit: Unit) -> None:
    """Note that a unit is done, in the writer's own file."""
    make_folder(out / UNITS)
    append_line(out / UNITS / f"{writer}.jsonl", {"key": unit.key})


def open_units(out: Path, settings: BenchmarkSettings) -> list[Unit]:
    """Units that are not done."""
    done = done_keys(out)
    return [unit for unit in units_of(settings) if unit.key not in done]


def _key(
    settings: BenchmarkSettings, suite: str, condition: str, file: str | None, ids: Sequence[str]
) -> str:
    protocol = {
        name: value
        for name, value in settings.to_dict().items()
        if name not in (*MACHINE, "suites", "conditions", "data", "problems")
    }
    text = json.dumps([protocol, suite, condition, file, list(ids)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]
