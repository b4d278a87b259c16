"""A results folder: made or taken up, refused where its settings differ, whole files only.

    manifest.json        what made the folder: settings, model, versions, whether the run ended
    NAME.parquet         tables
    parts/UNIT.parquet   finished units of a run that has not ended

Every file is written beside its place and moved there, so that a kill leaves the old file or the
new one and never a part; what was cut short by other means is told apart when it is read. What else
a folder holds (maps, figures, pages) is for those to say who make such folders.
"""

import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd

from step_saliency.storage.manifest import read_manifest, refuse_changes, save_manifest
from step_saliency.storage.tables import write_frame


@dataclass(frozen=True)
class ResultFolder(ABC):
    """Paths of a results folder, and reading what is whole in it.

    Attributes:
        path: The folder.
    """

    FORMAT: ClassVar[str]
    """Format, as the manifest states it."""
    FREE_SETTINGS: ClassVar[tuple[str, ...]] = ()
    """Settings that may change from run to run, since no result depends on them."""

    path: Path

    @property
    @abstractmethod
    def writer(self) -> str:
        """Command that makes such folders, for messages."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """Facts of the manifest in which two runs into one folder must agree, as in settings."""
        return {}

    def take_up(self, settings: Mapping[str, Any]) -> None:
        """Make the folder, or go on with an earlier run in it.

        Raises:
            ValueError: the folder holds something else, or a run with other settings.
        """
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"{self.path} is a file; a results folder is needed")
        if self.path.is_dir() and any(self.path.iterdir()):
            before = self.manifest()
            earlier = {name: before[name] for name in self.identity}
            refuse_changes(self.path, earlier, self.identity)
            refuse_changes(self.path, before["settings"], settings, free=self.FREE_SETTINGS)
        self.path.mkdir(parents=True, exist_ok=True)

    @property
    def has_manifest(self) -> bool:
        """Whether a run began here."""
        return (self.path / "manifest.json").is_file()

    def manifest(self) -> dict[str, Any]:
        """What the manifest says.

        Raises:
            ValueError: there is none, or it is cut short or of something else.
        """
        return read_manifest(self.path, kind=self.FORMAT, writer=self.writer)

    def write_manifest(self, facts: Mapping[str, Any], started: float | None = None) -> None:
        """Say what this folder holds, with the versions of what made it.

        Args:
            facts: JSON values, ``settings`` among them.
            started: When the run began, in seconds of `time.time`; now by default.
        """
        began = time.time() if started is None else started
        save_manifest(self.path, {**self.identity, **facts}, began, kind=self.FORMAT)

    def table(self, name: str) -> Path:
        """File of a table."""
        return self.path / f"{name}.parquet"

    def write_tables(self, tables: Mapping[str, pd.DataFrame]) -> None:
        """Write tables by name."""
        for name, frame in tables.items():
            write_frame(self.table(name), frame)

    def read_tables(self, names: Iterable[str]) -> dict[str, pd.DataFrame]:
        """Tables as they were written."""
        return {name: pd.read_parquet(self.table(name)) for name in names}

    def part(self, unit: str) -> Path:
        """File of a finished unit."""
        return self.path / "parts" / f"{unit}.parquet"

    def clear_parts(self) -> None:
        """Remove the parts, which the tables hold by now."""
        shutil.rmtree(self.path / "parts", ignore_errors=True)
