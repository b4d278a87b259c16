"""A results folder: traces in; maps, tables, figures and a manifest out; resumable at any point.

    manifest.json           settings, model, versions, counts
    generated.jsonl         traces of the responses that the model wrote itself
    maps/NAME.safetensors   one `StepSaliency` per trace
    figures/NAME.png        step map; NAME.depth.png depth curves
    traces.parquet          one row per trace
    saliency.parquet        one row per trace, layer, head and pair of steps
    diagnosis.parquet       one row per trace, metric and layer
    failures.parquet        one row per input row that gave no map, and why

Every file appears whole or not at all. A second run with the same settings computes only what is
missing, cut short or changed in the input; with other settings it refuses the folder.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from step_saliency.diagnosis import diagnose
from step_saliency.models import load_model, model_identity, require_capabilities
from step_saliency.plotting.style import png
from step_saliency.runs.answers import answer_rows, sample_name
from step_saliency.runs.folder import RunFolder
from step_saliency.runs.inputs import Row, read_rows, trace_of_row
from step_saliency.runs.run_report import RunReport
from step_saliency.runs.settings import MapSettings
from step_saliency.runs.tables import write_run_tables
from step_saliency.saliency.api import step_saliency
from step_saliency.saliency.result import StepSaliency
from step_saliency.storage.files import is_whole_png, write_bytes
from step_saliency.tasks.answers import gold_answer, is_correct
from step_saliency.trace import Trace

MAP_CHECKS = ("gradients", "pattern_rows", "local_gradients")
"""What a model must be able to do to be mapped, see `doctor`."""
ROW_FACTS = ("model", "level", "type", "subject", "answer")
"""Fields of a row that its trace keeps."""


def map_file(
    path: Path, out: Path, settings: MapSettings, *, limit: int | None = None, progress: bool = True
) -> RunReport:
    """Map every trace of a JSONL file into a results folder.

    Args:
        path: Rows that are traces, responses, conversations or problems, see
            `step_saliency.runs.inputs`.
        out: Results folder: new, empty, or of an earlier run with the same settings.
        settings: What to do.
        limit: Take the first rows only.
        progress: Show progress bars.

    Raises:
        ValueError: an input that cannot be read, a folder that is not this run's, a model that
            fails the checks that maps need, or an unknown option. One bad row or trace among others
            is a row of ``failures.parquet`` instead.
    """
    rows = read_rows(path, limit=limit)
    folder = RunFolder.open(out, settings.to_dict())
    report = RunReport(out)
    for row in rows:
        if row.error:
            report.add_failure(row, "input", row.error)
    usable = [row for row in rows if not row.error]
    model = _Model(settings)
    started = time.time()
    folder.write_manifest(_facts(folder, path, settings, model, report), started)
    answers = answer_rows(folder, usable, model, settings, report, progress=progress)
    jobs = [job for row in usable for job in _jobs(row, settings, answers)]
    for job in tqdm(jobs, unit="trace", desc="maps", disable=not progress):
        _map_one(folder, job, model, settings, report)
    write_run_tables(folder, [job.file_name for job in jobs], report)
    facts = _facts(folder, path, settings, model, report)
    folder.write_manifest({**facts, "finished": True}, started)
    return report


def _facts(
    folder: RunFolder, path: Path, settings: MapSettings, model: "_Model", report: RunReport
) -> dict[str, Any]:
    """What the manifest says of the run; what an earlier one knew of the model stays."""
    known = folder.manifest().get("model") if folder.has_manifest else None
    return {
        "settings": settings.to_dict(),
        "input": str(path),
        "model": known if model.loaded is None else model_identity(model.loaded),
        "finished": False,
        "traces": report.done + report.kept,
        "failures": len(report.failures),
    }


class _Model:
    """The model, loaded and checked when it is first needed: a finished run needs none."""

    def __init__(self, settings: MapSettings) -> None:
        self.settings = settings
        self.loaded: Any = None

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
        return self.loaded


@dataclass(frozen=True)
class _Job:
    """One trace to map."""

    row: Row
    sample: int | None
    digest: str
    trace: Trace | None = None

    @property
    def id(self) -> str:
        return self.row.id if self.sample is None else f"{self.row.id}#{self.sample}"

    @property
    def file_name(self) -> str:
        suffix = "" if self.sample is None else f"-{self.sample}"
        return self.row.file_name + suffix


def _jobs(row: Row, settings: MapSettings, answers: Mapping[str, Trace]) -> Iterator[_Job]:
    if row.kind != "problem":
        yield _Job(row, None, row.digest)
        return
    for sample in range(settings.n):
        name = sample_name(row, sample)
        if name in answers:
            yield _Job(row, sample if settings.n > 1 else None, row.digest, answers[name])


def _map_one(
    folder: RunFolder, job: _Job, model: _Model, settings: MapSettings, report: RunReport
) -> None:
    saved = folder.read_map(job.file_name)
    fresh = saved is not None and saved.trace.meta.get("row_digest") == job.digest
    loaded = None if fresh else model()
    try:
        if saved is None or not fresh:
            existed = folder.map(job.file_name).exists()
            saved = _compute(job, loaded, settings)
            saved.save(folder.map(job.file_name))
            report.done += 1
            report.redone += existed
        else:
            report.kept += 1
        if settings.figures:
            _draw(saved, folder.figure(job.file_name), redraw=not fresh)
    except (ValueError, RuntimeError, MemoryError) as error:
        report.add_failure(job.row, "map", error, trace=job.id)


def _compute(job: _Job, model: Any, settings: MapSettings) -> StepSaliency:
    trace = job.trace
    if trace is None:
        cut: dict[str, Any] = {"format": settings.format, "splitter": settings.splitter}
        trace = trace_of_row(job.row, model.tokenizer, **cut)
    return step_saliency(
        model,
        _labelled(trace, job),
        objective=settings.objective,
        method=settings.method,
        pool=settings.pool,
        rows=settings.rows,
        per_head=settings.per_head,
        layers=settings.layers,
    )


def _labelled(trace: Trace, job: _Job) -> Trace:
    """The trace under its own name, with what the row says of it."""
    meta = {
        **{name: job.row.data[name] for name in ROW_FACTS if name in job.row.data},
        **trace.meta,
        "problem": job.row.problem,
        "row_digest": job.digest,
        "gold_answer": None if job.row.gold is None else gold_answer(job.row.gold),
        "is_correct": _correctness(trace, job.row),
    }
    return replace(trace, id=job.id, question=trace.question or job.row.question, meta=meta)


def _correctness(trace: Trace, row: Row) -> bool | None:
    """Whether the response is right: as the row says, else by the gold answer, else unknown."""
    stated = row.data.get("is_correct", trace.meta.get("is_correct"))
    if stated is not None or row.gold is None:
        return stated
    return is_correct(trace.response, row.gold)


def _draw(sal: StepSaliency, path: Path, *, redraw: bool) -> None:
    """Step map and depth curves, where they are missing or cut short, or to be drawn again."""
    depth_path = path.with_name(f"{path.stem}.depth.png")
    if not redraw and is_whole_png(path) and is_whole_png(depth_path):
        return
    path.parent.mkdir(exist_ok=True)
    write_bytes(path, png(sal.plot()))
    write_bytes(depth_path, png(diagnose(sal).plot()))
