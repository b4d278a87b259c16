"""A results folder: traces in; maps, tables and a manifest out; resumable at any point.

    manifest.json           settings, model, versions, counts
    generated.jsonl         traces of the responses that the model wrote itself
    maps/NAME.safetensors   one `StepSaliency` per trace
    figures/NAME.png        step map; NAME.depth.png depth curves; only if asked for
    traces.parquet          one row per trace
    saliency.parquet        one row per trace, layer, head and pair of steps
    diagnosis.parquet       one row per trace, metric and layer
    failures.parquet        one row per input row that gave no map, and why

Every file appears whole or not at all. A second run with the same settings computes only what is
missing, cut short or changed in the input; with other settings it refuses the folder.
"""

import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from step_saliency.models import load_model, model_identity, require_capabilities
from step_saliency.models.facts import n_layers
from step_saliency.runs.answers import answer_rows
from step_saliency.runs.folder import RunFolder
from step_saliency.runs.inputs import Input, Row, read_input
from step_saliency.runs.jobs import jobs_of_row
from step_saliency.runs.mapping import map_jobs
from step_saliency.runs.model_files import checked_weights
from step_saliency.runs.option_checks import check_layers, check_options
from step_saliency.runs.run_report import RunReport
from step_saliency.runs.settings import MapSettings
from step_saliency.runs.tables import write_run_tables

MAP_CHECKS = ("gradients", "pattern_rows", "local_gradients")
"""What a model must be able to do to be mapped, see `doctor`."""


def map_file(
    path: Path,
    out: Path,
    settings: MapSettings,
    *,
    limit: int | None = None,
    progress: bool = True,
    say: Callable[[str], object] | None = None,
    setting: Iterable[str] = (),
) -> RunReport:
    """Map every trace of an input into a results folder.

    Args:
        path: A file, a folder or a data set of rows that are traces, responses, conversations or
            problems in any known form, see `step_saliency.runs.inputs`.
        out: Results folder: new, empty, or of an earlier run with the same settings.
        settings: What to do.
        limit: Take the first rows only.
        progress: Show progress bars.
        say: Takes lines that say how the input was read, before it is mapped; by default what was
            left out of it is a warning.
        setting: Lines about the machine, which are said after that.

    Raises:
        ValueError: an input that cannot be read, a folder that is not this run's, a model that
            fails the checks that maps need, or an unknown option. One bad row or trace among others
            is a row of ``failures.parquet`` instead.
        OSError: the folder cannot be written.
    """
    check_options(settings)
    source = read_input(path, limit=limit, fields=settings.fields, answer=settings.answer)
    _announce(source, setting, say)
    with RunFolder.open(out, settings.to_dict()) as folder:
        report = RunReport(out, summary=source.summary, notes=list(source.notes))
        _map_rows(folder, path, source.rows, settings, report, progress=progress)
    return report


def _announce(source: Input, setting: Iterable[str], say: Callable[[str], object] | None) -> None:
    for line in source.notes if say is None else (source.summary, *source.notes, *setting):
        warnings.warn(line, stacklevel=3) if say is None else say(line)


def _map_rows(
    folder: RunFolder,
    path: Path,
    rows: Sequence[Row],
    settings: MapSettings,
    report: RunReport,
    *,
    progress: bool,
) -> None:
    for row in rows:
        if row.error:
            report.add_failure(row, "input", row.error)
    usable = [row for row in rows if not row.error]
    model = _Model(settings)
    if usable and not folder.has_manifest:
        model()  # what is wrong with it is said before anything of a run is written
    earlier = folder.manifest() if folder.has_manifest else {}
    model.files = checked_weights(folder.path, earlier, settings.model)
    started = time.time()
    facts = _facts(folder, path, settings, model, report)
    folder.write_manifest({**facts, "names": _expected(folder, usable, settings.n)}, started)
    answers = answer_rows(folder, usable, model, settings, report, progress=progress)
    jobs = [job for row in usable for job in jobs_of_row(row, answers, settings.n)]
    map_jobs(folder, jobs, model, settings, report, progress=progress)
    names = [folder.name_of(job.row.id, job.sample) for job in jobs]
    write_run_tables(folder, names, report)
    facts = _facts(folder, path, settings, model, report)
    folder.write_manifest({**facts, "names": _mapped(folder, names), "finished": True}, started)


def _expected(folder: RunFolder, rows: Sequence[Row], n: int) -> list[str]:
    """File names that the maps of these rows will have."""
    return [
        folder.name_of(row.id, sample)
        for row in rows
        for sample in (range(n) if row.kind == "problem" and n > 1 else (None,))
    ]


def _mapped(folder: RunFolder, names: Sequence[str]) -> list[str]:
    """File names of this run's maps."""
    return [name for name in names if folder.map(name).is_file()]


def _facts(
    folder: RunFolder, path: Path, settings: MapSettings, model: "_Model", report: RunReport
) -> dict[str, Any]:
    """What the manifest says of the run; what an earlier one knew of the model stays."""
    known = folder.manifest().get("model") if folder.has_manifest else None
    return {
        "settings": settings.to_dict(),
        "input": str(path),
        "read": report.summary,
        "model": known if model.loaded is None else model_identity(model.loaded),
        "weights": model.files,
        "finished": False,
        "traces": report.done + report.kept,
        "failures": len(report.failures),
    }


class _Model:
    """The model, loaded and checked when it is first needed: a finished run needs none."""

    def __init__(self, settings: MapSettings) -> None:
        self.settings = settings
        self.loaded: Any = None
        self.files: Mapping[str, Any] | None = None

    def __call__(self) -> Any:
        if self.loaded is None:
            self.loaded = load_model(
                self.settings.model,
                backend=self.settings.backend,  # type: ignore[arg-type]
                device=self.settings.device,
                dtype=self.settings.dtype,
                revision=self.settings.revision,
                trust_remote_code=self.settings.trust_remote_code,
            )
            require_capabilities(self.loaded, MAP_CHECKS)
            check_layers(self.settings.layers, n_layers(self.loaded))
        return self.loaded
