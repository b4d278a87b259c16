"""Traces of a run to maps: short ones of like length together, written beside the computing.

Traces are taken a window at a time in the order of the input, sorted by length there and batched
until the positions of a batch are so many that what is kept of them fills `BATCH_BYTES`. Which
traces share a batch depends on the input alone, not on what an earlier run left: a run that was
broken off and taken up writes the same bytes as one that was not. A batch that fails is computed
trace by trace, so that one bad trace is one failure.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from tqdm.auto import tqdm

from step_saliency.runs.figures import draw, has_figures
from step_saliency.runs.folder import RunFolder
from step_saliency.runs.inputs import trace_of_row
from step_saliency.runs.jobs import Job
from step_saliency.runs.labels import labelled
from step_saliency.runs.run_report import RunReport
from step_saliency.runs.settings import MapSettings
from step_saliency.runs.writing import Writer
from step_saliency.saliency.api import check_tokens, step_saliency
from step_saliency.saliency.cost.shape import model_shape
from step_saliency.saliency.cost.work import Work
from step_saliency.saliency.layerwise import mismatch, refusal
from step_saliency.saliency.padding import BATCH_TOKENS, padded_groups
from step_saliency.saliency.result import StepSaliency
from step_saliency.trace import Trace

WINDOW = 256
"""Traces that are sorted by length together."""
BATCH_BYTES = {"cpu": 2**27, "cuda": 2**32}
"""What a batch of short traces keeps of the blocks; larger ones leave the cache and are slower."""


@dataclass(frozen=True)
class _Entry:
    """A trace to be mapped, or the map of it that is there."""

    job: Job
    name: str
    saved: StepSaliency | None
    trace: Trace | None


def map_jobs(
    folder: RunFolder,
    jobs: Sequence[Job],
    model: Callable[[], Any],
    settings: MapSettings,
    report: RunReport,
    *,
    progress: bool,
) -> None:
    """Map traces, those excepted that are mapped already.

    Args:
        folder: The results folder.
        jobs: The traces, in the order of the input.
        model: Loads the model; called if something is left to map.
        settings: What to do.
        report: Takes what was done and what failed.
        progress: Show a bar.

    Raises:
        OSError: the folder cannot be written.
    """
    bar = tqdm(total=len(jobs), unit="trace", desc="maps", disable=not progress)
    with bar, Writer() as writer:
        run = _Run(folder, model, settings, report, writer)
        for start in range(0, len(jobs), WINDOW):
            window = jobs[start : start + WINDOW]
            for n_done in run.map_window(window):
                bar.update(n_done)


@dataclass(frozen=True)
class _Run:
    folder: RunFolder
    model: Callable[[], Any]
    settings: MapSettings
    report: RunReport
    writer: Writer

    def map_window(self, jobs: Sequence[Job]) -> Iterator[int]:
        """Map what is not mapped; yields how many traces are dealt with."""
        entries = [self._entry(job) for job in jobs]
        kept = [(entry, entry.saved) for entry in entries if entry.saved is not None]
        for entry, saved in kept:
            self._keep(entry, saved)
        yield len(kept)
        if len(kept) == len(entries):
            return
        model = self.model()
        known = [self._with_trace(entry, model) for entry in entries]
        yield known.count(None)
        traces = sorted(filter(None, known), key=_length)
        most = batch_tokens(model, self.settings)
        for group in padded_groups([_length(entry) for entry in traces], most):
            new = [entry for entry in traces[group] if entry.saved is None]
            if new:
                self._map(traces[group], model)
                yield len(new)

    def _entry(self, job: Job) -> _Entry:
        name = self.folder.name_of(job.row.id, job.sample)
        saved = self.folder.read_map(name, row=job.row.id, sample=job.sample)
        if saved is None or saved.trace.meta.get("row_digest") != job.row.digest:
            return _Entry(job, name, None, None)
        return _Entry(job, name, saved, saved.trace)

    def _keep(self, entry: _Entry, saved: StepSaliency) -> None:
        self.report.kept += 1
        if self.settings.figures and not has_figures(self.folder, entry.name):
            self._hand_over(entry, partial(draw, self.folder, entry.name, saved))

    def _with_trace(self, entry: _Entry, model: Any) -> _Entry | None:
        """The entry with its trace; None, and a failure, if the row gives none."""
        if entry.trace is not None:
            return entry
        try:
            return replace(entry, trace=_trace(entry.job, model, self.settings))
        except OSError:
            raise
        except Exception as error:  # a row may hold anything, and libraries raise anything
            self._fail(entry, error)
            return None

    def _map(self, entries: Sequence[_Entry], model: Any) -> None:
        """Map a batch, and hand over those of its maps that are not there."""
        try:
            maps = _compute(entries, model, self.settings)
        except OSError:
            raise
        except Exception as error:
            if len(entries) == 1:
                self._fail(entries[0], error)
                return
            for entry in entries:
                if entry.saved is None:
                    self._map([entry], model)
            return
        for entry, sal in zip(entries, maps, strict=True):
            if entry.saved is None:
                existed = self.folder.map(entry.name).exists()
                write = partial(_write, self.folder, entry.name, sal, self.settings.figures)
                self._hand_over(entry, write, done=partial(self._count, existed=existed))

    def _hand_over(
        self,
        entry: _Entry,
        task: Callable[[], object],
        *,
        done: Callable[[], object] = lambda: None,
    ) -> None:
        self.writer.hand_over(task, done=done, failed=partial(self._fail, entry))

    def _count(self, *, existed: bool) -> None:
        self.report.done += 1
        self.report.redone += existed

    def _fail(self, entry: _Entry, error: Exception) -> None:
        self.report.add_failure(entry.job.row, "map", error, trace=entry.job.id)


def batch_tokens(model: Any, settings: MapSettings) -> int:
    """Positions of a batch, padding included, that are worth running together."""
    shape = model_shape(model)
    work = Work.of(shape, settings.objective, settings.layers)
    limit = BATCH_BYTES.get(shape.device.type, BATCH_BYTES["cpu"])
    return max(1, min(BATCH_TOKENS, limit // max(1, work.kept_bytes([1], "activations"))))


def _length(entry: _Entry) -> int:
    assert entry.trace is not None
    return len(entry.trace.tokens)


def _trace(job: Job, model: Any, settings: MapSettings) -> Trace:
    trace = job.trace
    if trace is None:
        cut: dict[str, Any] = {"format": settings.format, "splitter": settings.splitter}
        trace = trace_of_row(job.row, model.tokenizer, **cut)
    return labelled(trace, job.row, job.id, grade=settings.grade)


def _can_stream(model: Any, trace: Trace) -> bool:
    check_tokens(model, trace.tokens)
    return refusal(model) is None and mismatch(model, trace.tokens) is None


def _compute(entries: Sequence[_Entry], model: Any, settings: MapSettings) -> list[StepSaliency]:
    # of short traces auto would take hooks one by one, and streaming runs them together
    traces = [entry.trace for entry in entries if entry.trace is not None]
    streams = settings.method == "auto" and _can_stream(model, traces[0])
    return step_saliency(
        model,
        traces,
        objective=settings.objective,
        method="streaming" if streams else settings.method,
        pool=settings.pool,
        rows=settings.rows,
        per_head=settings.per_head,
        layers=settings.layers,
    )


def _write(folder: RunFolder, name: str, sal: StepSaliency, figures: bool) -> None:
    sal.save(folder.map(name))
    if figures:
        draw(folder, name, sal)
