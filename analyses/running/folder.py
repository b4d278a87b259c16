"""Results of an analysis on disk: finished units, tables and a manifest, each whole or not there.

    manifest.json        settings, model, versions, command, seconds, passes
    values.parquet       what the units gave, in the order of the units
    NAME.parquet         tables that the analysis made of it; summary.csv for reading
    parts/UNIT.parquet   finished units of a run that has not ended; removed at its end

A part is written beside its place and moved there, so a kill loses no more than the units in work.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from analyses.running.cost import Cost
from step_saliency.storage.files import is_file, make_folder
from step_saliency.storage.folder import ResultFolder
from step_saliency.storage.tables import read_noted, write_csv, write_table


@dataclass(frozen=True)
class Done:
    """A finished unit.

    Attributes:
        unit: Its name.
        frame: What it gave.
        seconds: How long it took.
        model: Identity of the model that it ran on; None for an analysis without a model.
        cost: Its forward passes.
    """

    unit: str
    frame: pd.DataFrame
    seconds: float
    model: Mapping[str, Any] | None
    cost: Cost = field(default_factory=Cost)


@dataclass(frozen=True)
class Part:
    """A finished unit as it was read back; an older one has no cost."""

    table: pa.Table
    seconds: float
    model: Mapping[str, Any] | None
    cost: Cost | None = None


@dataclass(frozen=True)
class AnalysisFolder(ResultFolder):
    """Results folder of one analysis.

    Attributes:
        name: Name of the analysis.
    """

    FORMAT = "step-saliency-analysis/1"

    name: str

    @classmethod
    def open(cls, path: Path, name: str, settings: Mapping[str, Any]) -> "AnalysisFolder":
        """Make the folder, or take up an earlier run in it; locked until it is left.

        Raises:
            ValueError: the folder holds something else, or a run with other settings, or another
                run writes into it.
            WriteError: it cannot be written.
        """
        folder = cls(path, name)
        folder.take_up(settings)
        return folder

    @property
    def writer(self) -> str:
        return f"python -m analyses.{self.name}"

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"analysis": self.name}

    @property
    def is_finished(self) -> bool:
        """Whether a run ended here and all that it wrote is still there."""
        if not self.has_manifest:
            return False
        manifest = self.manifest()
        tables = manifest.get("tables")
        return (
            manifest.get("finished") is True
            and isinstance(tables, list)
            and all(isinstance(name, str) and is_file(self.table(name)) for name in tables)
        )

    def write_part(self, done: Done) -> None:
        """Keep a finished unit."""
        file = self.part(done.unit)
        make_folder(self.check_within("parts"))
        table = pa.Table.from_pandas(done.frame, preserve_index=False)
        note = {"seconds": done.seconds, "model": done.model, "cost": asdict(done.cost)}
        write_table(file, table, note=note)

    def read_part(self, unit: str) -> Part | None:
        """A finished unit, or None if it is not there, cut short or damaged."""
        noted = read_noted(self.part(unit))
        if noted is None:
            return None
        table, note = noted
        seconds, model = note.get("seconds"), note.get("model")
        if not isinstance(seconds, int | float) or not isinstance(model, Mapping | None):
            return None
        cost = note.get("cost")
        return Part(table, seconds, model, Cost(**cost) if isinstance(cost, Mapping) else None)

    def write_values(self, parts: Sequence[Part]) -> pd.DataFrame:
        """Join the parts in their order into ``values.parquet``."""
        tables = [part.table for part in parts if part.table.num_columns]
        joined = pa.table({})
        if tables:
            joined = pa.concat_tables(tables, promote_options="permissive").combine_chunks()
        write_table(self.table("values"), joined)
        return joined.to_pandas()

    def write_tables(self, tables: Mapping[str, pd.DataFrame]) -> None:
        """Write the tables of an analysis; ``summary`` as text too."""
        super().write_tables(tables)
        if "summary" in tables:
            write_csv(self.path / "summary.csv", tables["summary"])

    def remove_values(self) -> None:
        """Remove ``values.parquet``, for an analysis that does not keep it."""
        self.table("values").unlink(missing_ok=True)
