"""A results folder on disk: whole files only, and what is whole in it.

Every file is written beside its place and moved there, so that a kill leaves the old file or the
new one and never a part; what was cut short by other means is told apart when it is read.
"""

import json
import os
import platform
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from step_saliency.lines import append_line, read_lines
from step_saliency.saliency.result import StepSaliency
from step_saliency.trace import Trace

FORMAT = "step-saliency-run/1"
FREE_SETTINGS = ("figures", "batch_size")
"""Settings that may change from run to run, since no map depends on them."""
PACKAGES = (
    "step-saliency",
    "transformer-lens",
    "transformers",
    "torch",
    "numpy",
    "pandas",
    "scipy",
    "matplotlib",
)
PNG_END = b"IEND\xaeB`\x82"


@dataclass(frozen=True)
class RunFolder:
    """Paths of a results folder, and reading what is whole in it."""

    path: Path

    @classmethod
    def open(cls, path: Path, settings: Mapping[str, Any]) -> "RunFolder":
        """Make the folder, or take up an earlier run in it.

        Raises:
            ValueError: the folder holds something else, or a run with other settings.
        """
        folder = cls(path)
        if path.exists() and not path.is_dir():
            raise ValueError(f"{path} is a file; a results folder is needed")
        if path.is_dir() and any(path.iterdir()):
            folder._check_settings(settings)
        (path / "maps").mkdir(parents=True, exist_ok=True)
        return folder

    @classmethod
    def existing(cls, path: Path) -> "RunFolder":
        """A folder that a finished or broken-off run left.

        Raises:
            ValueError: it is none.
        """
        folder = cls(path)
        folder.manifest()
        return folder

    def map(self, name: str) -> Path:
        """File of a map."""
        return self.path / "maps" / f"{name}.safetensors"

    def figure(self, name: str) -> Path:
        """File of a figure."""
        return self.path / "figures" / f"{name}.png"

    def table(self, name: str) -> Path:
        """File of a table."""
        return self.path / f"{name}.parquet"

    @property
    def has_manifest(self) -> bool:
        """Whether a run began here."""
        return (self.path / "manifest.json").is_file()

    def manifest(self) -> dict[str, Any]:
        """What the manifest says.

        Raises:
            ValueError: there is none, or it is cut short or of something else.
        """
        return read_manifest(self.path, kind=FORMAT, writer="step-saliency map")

    def read_map(self, name: str) -> StepSaliency | None:
        """A map, or None if it is not there or cut short."""
        try:
            return StepSaliency.load(self.map(name))
        except (FileNotFoundError, ValueError):
            return None

    def map_files(self) -> list[Path]:
        """Files of the maps, by name."""
        return sorted((self.path / "maps").glob("*.safetensors"))

    def all_maps(self) -> list[StepSaliency]:
        """Every map in the folder, by file name.

        Raises:
            ValueError: there is none, or some are cut short.
        """
        files = self.map_files()
        broken = [file.stem for file in files if self.read_map(file.stem) is None]
        if broken:
            raise ValueError(
                f"{len(broken)} of {len(files)} maps in {self.path} are cut short "
                f"({', '.join(broken[:3])}); run the same `step-saliency map` again to redo them"
            )
        if not files:
            raise ValueError(f"{self.path} holds no map yet; run `step-saliency map` first")
        return [StepSaliency.load(file) for file in files]

    def read_generated(self, digests: Mapping[str, str]) -> dict[str, Trace]:
        """Traces written for rows that are as they were; a line cut short is left out."""
        traces: dict[str, Trace] = {}
        for entry in read_lines(self.path / "generated.jsonl"):
            name = str(entry.get("name", ""))
            known = digests.get(name.rpartition("#")[0])
            if known is not None and known == entry.get("row_digest"):
                traces[name] = Trace.from_dict(entry["trace"])
        return traces

    def append_generated(self, name: str, digest: str, trace: Trace) -> None:
        """Keep a trace that the model wrote."""
        entry = {"name": name, "row_digest": digest, "trace": trace.to_dict()}
        append_line(self.path / "generated.jsonl", entry)

    def write_manifest(self, facts: Mapping[str, Any], started: float) -> None:
        """Say what this folder holds, with the versions of what made it.

        Args:
            facts: JSON values: settings, input, model, counts.
            started: When the run began, in seconds of `time.time`.
        """
        save_manifest(self.path, facts, started, kind=FORMAT)

    def _check_settings(self, settings: Mapping[str, Any]) -> None:
        before = self.manifest()["settings"]
        refuse_changes(self.path, before, settings, free=FREE_SETTINGS)


def read_manifest(folder: Path, *, kind: str, writer: str) -> dict[str, Any]:
    """What the manifest of a results folder says.

    Args:
        folder: The folder.
        kind: Format that the manifest has to have.
        writer: Command that writes such folders, for messages.

    Raises:
        ValueError: there is none, or it is cut short or of something else.
    """
    file = folder / "manifest.json"
    if not file.is_file():
        raise ValueError(
            f"{folder} holds no manifest.json, so it is no results folder of `{writer}`"
        )
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{file} is cut short or damaged ({error}); remove it together with the folder, or "
            "choose another folder"
        ) from error
    if not isinstance(manifest, dict) or manifest.get("format") != kind:
        raise ValueError(f"{file} is no manifest of `{writer}` ({kind})")
    return manifest


def save_manifest(folder: Path, facts: Mapping[str, Any], started: float, *, kind: str) -> None:
    """Write a manifest, whole or not at all, with the versions of what made the folder.

    Args:
        folder: The folder.
        facts: JSON values.
        started: When the run began, in seconds of `time.time`.
        kind: Format of the folder.
    """
    manifest = {
        "format": kind,
        **facts,
        "versions": {name: _version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "machine": platform.machine(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "seconds": round(time.time() - started, 1),
    }
    with replacing(folder / "manifest.json") as part:
        part.write_text(json.dumps(manifest, indent=2), encoding="utf-8")


def refuse_changes(
    folder: Path,
    before: Mapping[str, Any],
    settings: Mapping[str, Any],
    *,
    free: Collection[str] = (),
) -> None:
    """Raise ValueError for settings that differ from those of an earlier run in a folder.

    Args:
        folder: The folder.
        before: Settings of the earlier run.
        settings: Settings now.
        free: Settings that may change.
    """
    names = [name for name in settings if name not in free]
    changed = [name for name in names if before.get(name) != settings[name]]
    if changed:
        told = (f"{n}: {before.get(n)!r} then, {settings[n]!r} now" for n in changed)
        raise ValueError(
            f"{folder} holds a run with other settings ({', '.join(told)}); choose another place"
        )


class FrameWriter:
    """A parquet file that grows trace by trace."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.writer: pq.ParquetWriter | None = None

    def __enter__(self) -> "FrameWriter":
        return self

    def write(self, frame: pd.DataFrame) -> None:
        table = pa.Table.from_pandas(frame, preserve_index=False)
        if self.writer is None:
            self.writer = pq.ParquetWriter(self.path, table.schema)
        self.writer.write_table(table.cast(self.writer.schema))

    def __exit__(self, *_: object) -> None:
        if self.writer is None:
            pd.DataFrame().to_parquet(self.path)
        else:
            self.writer.close()


def write_frame(path: Path, frame: pd.DataFrame) -> None:
    """Write a table as parquet, whole or not at all."""
    with replacing(path) as part:
        frame.to_parquet(part, index=False)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A place to write to, moved onto the path when all is written."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def is_whole_png(path: Path) -> bool:
    """Whether a picture is there with its end."""
    return path.is_file() and path.read_bytes()[-len(PNG_END) :] == PNG_END


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
