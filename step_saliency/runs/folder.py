"""A results folder on disk: whole files only, and what is whole in it.

Every file is written beside its place and moved there, so that a kill leaves the old file or the
new one and never a part; what was cut short by other means is told apart when it is read.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from step_saliency.storage.lines import append_line, read_lines
from step_saliency.storage.manifest import read_manifest, refuse_changes, save_manifest
from step_saliency.saliency.result import StepSaliency
from step_saliency.trace import Trace

FORMAT = "step-saliency-run/1"
FREE_SETTINGS = ("figures", "batch_size")
"""Settings that may change from run to run, since no map depends on them."""


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
