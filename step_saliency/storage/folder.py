"""A results folder: made or taken up, refused where its settings differ, whole files only.

    manifest.json        what made the folder: settings, model, versions, whether the run ended
    NAME.parquet         tables
    parts/UNIT.parquet   finished units of a run that has not ended
    .lock                who writes here now

Every file is written beside its place and moved there, so that a kill leaves the old file or the
new one and never a part; what was cut short by other means is told apart when it is read. One run
writes at a time, and nothing is written through a link out of the folder. What else a folder holds
(maps, figures, pages) is for those to say who make such folders.
"""

import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, TypeVar

import pandas as pd

from step_saliency.storage.files import is_file, is_part, make_folder, remove_old_parts
from step_saliency.storage.lock import NAME as LOCK
from step_saliency.storage.lock import FolderLock
from step_saliency.storage.manifest import read_manifest, refuse_changes, save_manifest
from step_saliency.storage.tables import write_frame

F = TypeVar("F", bound="ResultFolder")


@dataclass(frozen=True)
class ResultFolder(ABC):
    """Paths of a results folder, and reading what is whole in it.

    A folder that was taken up is locked until it is left (``with``), or is no longer used.

    Attributes:
        path: The folder.
        lock: Held while a run writes here.
    """

    FORMAT: ClassVar[str]
    """Format, as the manifest states it."""
    FREE_SETTINGS: ClassVar[tuple[str, ...]] = ()
    """Settings that may change from run to run, since no result depends on them."""
    FOLDERS: ClassVar[tuple[str, ...]] = ("parts",)
    """Folders within, that runs write into."""
    BEFORE_MANIFEST: ClassVar[tuple[str, ...]] = ()
    """Files that a run writes before the manifest."""

    path: Path
    lock: FolderLock | None = field(default=None, init=False, repr=False, compare=False)

    @property
    @abstractmethod
    def writer(self) -> str:
        """Command that makes such folders, for messages."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """Facts of the manifest in which two runs into one folder must agree, as in settings."""
        return {}

    def take_up(self, settings: Mapping[str, Any]) -> None:
        """Make the folder, or go on with an earlier run in it, and lock it.

        Raises:
            ValueError: the folder holds something else, or a run with other settings, or another
                run writes into it.
            WriteError: it cannot be written.
        """
        self.check(settings)
        make_folder(self.path)
        lock = FolderLock(self.path)
        try:
            self.check(settings)
            for place in (self.path, *(self.path / name for name in self.FOLDERS)):
                remove_old_parts(place)
        except BaseException:
            lock.release()
            raise
        object.__setattr__(self, "lock", lock)

    def check(self, settings: Mapping[str, Any]) -> None:
        """Refuse a folder that a run with these settings cannot write into; change nothing.

        Raises:
            ValueError: as for `take_up`.
        """
        if self.path.is_symlink() and not self.path.exists():
            raise ValueError(f"{self.path} is a link to nowhere; a results folder is needed")
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"{self.path} is a file; a results folder is needed")
        if not self.is_new:
            before = self.manifest()
            earlier = {name: before.get(name) for name in self.identity}
            refuse_changes(self.path, earlier, self.identity)
            refuse_changes(self.path, before["settings"], settings, free=self.FREE_SETTINGS)
        for name in self.FOLDERS:
            self.check_within(name)

    @property
    def is_new(self) -> bool:
        """Whether nothing is there, or only what a run leaves that was killed at its start."""
        return not self.path.is_dir() or all(map(self._is_early, self.path.iterdir()))

    def _is_early(self, file: Path) -> bool:
        if file.is_symlink():
            return False
        if file.is_dir():
            return file.name in self.FOLDERS and not any(file.iterdir())
        return file.name in (LOCK, *self.BEFORE_MANIFEST) or is_part(file.name)

    def check_within(self, name: str) -> Path:
        """A folder within this one that may be written into, whether it is there yet or not.

        Raises:
            ValueError: it is a link to another place, or no folder.
        """
        folder = self.path / name
        if folder.is_symlink():
            raise ValueError(f"{folder} is a link to another place; nothing is written through it")
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"{folder} is a file; a folder is needed there")
        return folder

    def close(self) -> None:
        """Let other runs write."""
        if self.lock is not None:
            self.lock.release()

    def __enter__(self: F) -> F:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def has_manifest(self) -> bool:
        """Whether a run began here."""
        return is_file(self.path / "manifest.json")

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

    def remove_manifest(self) -> None:
        """Forget a run that left nothing."""
        (self.path / "manifest.json").unlink()

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
        shutil.rmtree(self.check_within("parts"), ignore_errors=True)
