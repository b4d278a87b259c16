"""Results folder of `step-saliency map`: maps and figures by trace, tables, answers of the model.

What all results folders have in common stands in `step_saliency.storage.folder`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from step_saliency.saliency.result import StepSaliency
from step_saliency.storage.files import make_folder
from step_saliency.storage.folder import ResultFolder
from step_saliency.storage.names import earlier_file_name, file_name, names_of_id
from step_saliency.storage.trace_log import TraceLog
from step_saliency.trace import Trace

PROBLEMS = "problems.jsonl"
"""What `step-saliency demo` asks, in its own folder."""
GENERATED = "generated.jsonl"
"""The model's own answers."""
PLAIN_NAME = re.compile(r"[\w.~-]+")


@dataclass(frozen=True)
class RunFolder(ResultFolder):
    """Paths of a results folder, and reading what is whole in it."""

    FORMAT = "step-saliency-run/1"
    FREE_SETTINGS = ("figures", "batch_size")
    FOLDERS = ("maps", "figures")
    BEFORE_MANIFEST = (PROBLEMS,)

    @classmethod
    def open(cls, path: Path, settings: Mapping[str, Any]) -> "RunFolder":
        """Make the folder, or take up an earlier run in it; locked until it is left.

        Raises:
            ValueError: the folder holds something else, or a run with other settings, or another
                run writes into it.
            WriteError: it cannot be written.
        """
        folder = cls(path)
        folder.take_up(settings)
        if folder.is_void:
            folder.remove_manifest()
        make_folder(path / "maps")
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
    def is_new(self) -> bool:
        return super().is_new or self.is_void

    @property
    def is_void(self) -> bool:
        """Whether a run ended here without a map or an answer, as where no row could be read: one
        with other settings may begin."""
        kept = [*(self.path / "maps").glob("*"), *self.path.glob(GENERATED)]
        return self.has_manifest and not kept and self.manifest().get("finished") is True

    @property
    def writer(self) -> str:
        return "step-saliency map"

    def map(self, name: str) -> Path:
        """File of a map."""
        return self.path / "maps" / f"{name}.safetensors"

    def figure(self, name: str) -> Path:
        """File of a figure."""
        return self.path / "figures" / f"{name}.png"

    def figures(self, name: str) -> tuple[Path, Path]:
        """Files of the figures of a trace: step map and depth curves."""
        return self.figure(name), self.figure(f"{name}.depth")

    def name_of(self, row: str, sample: int | None = None) -> str:
        """File name, without ending, of what belongs to a row or to one sample of it.

        A map that lies here under the name of an earlier version keeps it.
        """
        name, earlier = file_name(row, sample), earlier_file_name(row, sample)
        if name == earlier or not earlier or self.map(name).exists():
            return name
        return name if self.read_map(earlier, row=row, sample=sample) is None else earlier

    def read_map(
        self, name: str, *, row: str | None = None, sample: int | None = None
    ) -> StepSaliency | None:
        """A map, or None if it is not there, cut short or damaged, or of another trace.

        Args:
            name: Its file name.
            row: Row that it has to be of, where that is known better than by the name.
            sample: Sample of the row.
        """
        try:
            sal = self.checked_map(name)
        except (FileNotFoundError, ValueError):
            return None
        trace = row if sample is None else f"{row}#{sample}"
        return None if row is not None and sal.trace.id != trace else sal

    def checked_map(self, name: str) -> StepSaliency:
        """A map of this run.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is cut short or damaged, of another trace than its name says, or made
                with other settings than those of this folder.
        """
        sal = StepSaliency.load(self.map(name))
        if sal.trace.id is not None and name not in names_of_id(sal.trace.id):
            raise ValueError(f"{self.map(name)} is a map of {sal.trace.id!r}")
        self._check_settings(name, sal)
        return sal

    def whole_map(self, name: str) -> StepSaliency:
        """A map of this run.

        Raises:
            ValueError: it is missing, cut short or damaged.
        """
        try:
            return self.checked_map(name)
        except (FileNotFoundError, ValueError) as error:
            raise ValueError(
                f"{error}; run the same `step-saliency map` again to redo what is missing"
            ) from error

    def find(self, trace: str) -> str:
        """File name of a trace, by its id or file name.

        Raises:
            ValueError: it is not of this run.
        """
        names = self.mapped_names()
        known = [name for name in (trace, *names_of_id(trace)) if name in names]
        if known:
            return known[0]
        raise ValueError(
            f"{self.path} has no trace {trace!r}; there are {len(names)}: {', '.join(names[:5])}"
            f"{', ...' if len(names) > 5 else ''}"
        )

    def _check_settings(self, name: str, sal: StepSaliency) -> None:
        settings = self._settings
        facts = {key: getattr(sal, key) for key in ("objective", "pool", "rows", "per_head")}
        if settings.get("layers") is not None:
            facts["layers"] = list(sal.layers)
        for key, value in facts.items():
            if settings.get(key, value) != value:
                raise ValueError(
                    f"{self.map(name)} was made with {key}={value!r}, this folder with "
                    f"{settings[key]!r}"
                )

    @cached_property
    def _settings(self) -> Mapping[str, Any]:
        settings: Mapping[str, Any] = self.manifest()["settings"] if self.has_manifest else {}
        return settings

    def map_names(self) -> list[str]:
        """File names, without ending, of the maps of the last run, by name.

        Maps of rows that its input no longer had lie in the folder too and are not among them.
        A manifest without ``names``, of an earlier form, does not say: every map counts there.
        """
        manifest = self.manifest() if self.has_manifest else {}
        names = manifest.get("names")
        here = {file.stem for file in (self.path / "maps").glob("*.safetensors")}
        if not isinstance(names, list):
            return sorted(here)
        plain = {name for name in names if isinstance(name, str) and PLAIN_NAME.fullmatch(name)}
        return sorted(plain if manifest.get("finished") else plain & here)

    def mapped_names(self) -> list[str]:
        """`map_names`, of which there has to be one.

        Raises:
            ValueError: there is none.
        """
        names = self.map_names()
        if not names:
            raise ValueError(f"{self.path} holds no map yet; run `step-saliency map` first")
        return names

    def n_left_out(self) -> int:
        """Maps in the folder that are not of the last run's input."""
        names = set(self.map_names())
        return sum(file.stem not in names for file in (self.path / "maps").glob("*.safetensors"))

    def maps(self) -> dict[str, StepSaliency]:
        """Every map of the last run, by file name.

        Raises:
            ValueError: there is none, or some are missing, cut short or damaged; all are named.
        """
        names = self.mapped_names()
        maps: dict[str, StepSaliency] = {}
        faults: dict[str, Exception] = {}
        for name in names:
            try:
                maps[name] = self.checked_map(name)
            except (FileNotFoundError, ValueError) as error:
                faults[name] = error
        if faults:
            reason = next(iter(faults.values()))
            raise ValueError(
                f"{len(faults)} of {len(names)} maps in {self.path} are missing, damaged or cut "
                f"short ({', '.join(faults)}); run the same `step-saliency map` again to redo "
                f"them. The first: {reason}"
            )
        _check_one_model(self.path, maps)
        return maps

    def all_maps(self) -> list[StepSaliency]:
        """Every map of the last run, by file name.

        Raises:
            ValueError: as for `maps`.
        """
        return list(self.maps().values())

    @cached_property
    def generated(self) -> TraceLog:
        """The model's own answers."""
        return TraceLog(self.path / GENERATED)

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


def _check_one_model(path: Path, maps: Mapping[str, StepSaliency]) -> None:
    """Refuse maps of models of different depth, which no run makes."""
    depths = {name: sal.n_layers for name, sal in maps.items()}
    if len(set(depths.values())) > 1:
        first = next(iter(depths))
        other = next(name for name in depths if depths[name] != depths[first])
        raise ValueError(
            f"{path} holds maps of different models: {first} of {depths[first]} layers, {other} "
            f"of {depths[other]}"
        )
