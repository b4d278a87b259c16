"""Results folder of `step-saliency map`: maps and figures by trace, tables, answers of the model.

What all results folders have in common stands in `step_saliency.storage.folder`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from step_saliency.saliency.result import StepSaliency
from step_saliency.storage.folder import ResultFolder
from step_saliency.storage.trace_log import TraceLog
from step_saliency.trace import Trace


@dataclass(frozen=True)
class RunFolder(ResultFolder):
    """Paths of a results folder, and reading what is whole in it."""

    FORMAT = "step-saliency-run/1"
    FREE_SETTINGS = ("figures", "batch_size")

    @classmethod
    def open(cls, path: Path, settings: Mapping[str, Any]) -> "RunFolder":
        """Make the folder, or take up an earlier run in it.

        Raises:
            ValueError: the folder holds something else, or a run with other settings.
        """
        folder = cls(path)
        folder.take_up(settings)
        (path / "maps").mkdir(exist_ok=True)
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

    @property
    def writer(self) -> str:
        return "step-saliency map"

    def map(self, name: str) -> Path:
        """File of a map."""
        return self.path / "maps" / f"{name}.safetensors"

    def figure(self, name: str) -> Path:
        """File of a figure."""
        return self.path / "figures" / f"{name}.png"

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

    @cached_property
    def generated(self) -> TraceLog:
        """The model's own answers."""
        return TraceLog(self.path / "generated.jsonl")

    def read_generated(self, digests: Mapping[str, str]) -> dict[str, Trace]:
        """Answers to rows that are as they were, by row and sample.

        Args:
            digests: Digest of each row by its id.
        """
        traces: dict[str, Trace] = {}
        for label, trace in self.generated.labelled():
            name = str(label.get("name", ""))
            digest = digests.get(name.rpartition("#")[0])
            if digest is not None and digest == label.get("row_digest"):
                traces[name] = trace
        return traces

    def append_generated(self, name: str, digest: str, trace: Trace) -> None:
        """Keep an answer.

        Args:
            name: Row and sample.
            digest: Digest of the row.
            trace: What the model wrote.
        """
        self.generated.append(trace, name=name, row_digest=digest)
