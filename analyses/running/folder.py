"""Results of an analysis on disk: finished units, tables and a manifest, each whole or not there.

    manifest.json        settings, model, versions, command, seconds
    values.parquet       what the units gave, in the order of the units
    NAME.parquet         tables that the analysis made of it; summary.csv for reading
    parts/UNIT.parquet   finished units of a run that has not ended; removed at its end

A part is written beside its place and moved there, so a kill loses no more than the units in work.
"""

import json
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from step_saliency.storage.files import replacing
from step_saliency.storage.manifest import read_manifest, refuse_changes, save_manifest
from step_saliency.storage.tables import write_frame

FORMAT = "step-saliency-analysis/1"
NOTE = b"unit"


@dataclass(frozen=True)
class Done:
    """A finished unit.

    Attributes:
        unit: Its name.
        frame: What it gave.
        seconds: How long it took.
        model: Identity of the model that it ran on; None for an analysis without a model.
    """

    unit: str
    frame: pd.DataFrame
    seconds: float
    model: Mapping[str, Any] | None


@dataclass(frozen=True)
class Part:
    """A finished unit as it was read back."""

    table: pa.Table
    seconds: float
    model: Mapping[str, Any] | None


@dataclass(frozen=True)
class ResultFolder:
    """Paths of a results folder, and reading what is whole in it."""

    path: Path
    name: str

    @classmethod
    def open(cls, path: Path, name: str, settings: Mapping[str, Any]) -> "ResultFolder":
        """Make the folder, or take up an earlier run in it.

        Raises:
            ValueError: the folder holds something else, or a run with other settings.
        """
        folder = cls(path, name)
        if path.exists() and not path.is_dir():
            raise ValueError(f"{path} is a file; a results folder is needed")
        if path.is_dir() and any(path.iterdir()):
            before = folder.manifest()
            refuse_changes(path, {"analysis": before["analysis"]}, {"analysis": name})
            refuse_changes(path, before["settings"], settings)
            gone = set(before["settings"]) - set(settings)
            refuse_changes(path, before["settings"], dict.fromkeys(sorted(gone)))
        path.mkdir(parents=True, exist_ok=True)
        return folder

    def manifest(self) -> dict[str, Any]:
        """What the manifest says.

        Raises:
            ValueError: there is none, or it is cut short or of something else.
        """
        return read_manifest(self.path, kind=FORMAT, writer=f"python -m analyses.{self.name}")

    @property
    def is_finished(self) -> bool:
        """Whether a run ended here and all that it wrote is still there."""
        if not (self.path / "manifest.json").is_file():
            return False
        manifest = self.manifest()
        return manifest["finished"] and all(
            self.table(name).is_file() for name in manifest["tables"]
        )

    def table(self, name: str) -> Path:
        """File of a table."""
        return self.path / f"{name}.parquet"

    def part(self, unit: str) -> Path:
        """File of a finished unit."""
        return self.path / "parts" / f"{unit}.parquet"

    def write_part(self, done: Done) -> None:
        """Keep a finished unit."""
        table = pa.Table.from_pandas(done.frame, preserve_index=False)
        note = json.dumps({"seconds": done.seconds, "model": done.model}).encode()
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), NOTE: note})
        file = self.part(done.unit)
        file.parent.mkdir(exist_ok=True)
        with replacing(file) as place:
            pq.write_table(table, place)

    def read_part(self, unit: str) -> Part | None:
        """A finished unit, or None if it is not there or cut short."""
        try:
            table = pq.read_table(self.part(unit))
            metadata = dict(table.schema.metadata or {})
            note = json.loads(metadata.pop(NOTE))
        except (OSError, pa.ArrowInvalid, KeyError):
            return None
        return Part(table.replace_schema_metadata(metadata), note["seconds"], note["model"])

    def write_values(self, parts: Sequence[Part]) -> pd.DataFrame:
        """Join the parts in their order into ``values.parquet``."""
        tables = [part.table for part in parts if part.table.num_columns]
        joined = pa.table({})
        if tables:
            joined = pa.concat_tables(tables, promote_options="permissive").combine_chunks()
        with replacing(self.table("values")) as place:
            pq.write_table(joined, place)
        return joined.to_pandas()

    def write_tables(self, tables: Mapping[str, pd.DataFrame]) -> None:
        """Write the tables of an analysis; ``summary`` as text too."""
        for name, frame in tables.items():
            write_frame(self.table(name), frame)
        if "summary" in tables:
            with replacing(self.path / "summary.csv") as place:
                tables["summary"].to_csv(place, index=False, float_format="%.6g")

    def read_tables(self, names: Iterable[str]) -> dict[str, pd.DataFrame]:
        """Tables as they were written."""
        return {name: pd.read_parquet(self.table(name)) for name in names}

    def write_manifest(self, facts: Mapping[str, Any], started: float | None = None) -> None:
        """Say what this folder holds, with the versions of what made it."""
        began = time.time() if started is None else started
        save_manifest(self.path, {"analysis": self.name, **facts}, began, kind=FORMAT)

    def clear_parts(self, *, values: bool) -> None:
        """Remove the parts, which the tables hold by now, and ``values.parquet`` if told so."""
        shutil.rmtree(self.path / "parts", ignore_errors=True)
        if values:
            self.table("values").unlink(missing_ok=True)
