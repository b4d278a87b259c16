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

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from step_saliency.diagnosis import diagnose
from step_saliency.decoding.generate import generate
from step_saliency.models import load_model, model_identity, require_capabilities
from step_saliency.options import Method, ObjectiveName, Pool, Rows
from step_saliency.runs.folder import RunFolder
from step_saliency.storage.files import is_whole_png, replacing
from step_saliency.storage.tables import FrameWriter, write_frame
from step_saliency.runs.inputs import Row, read_rows
from step_saliency.saliency.api import step_saliency
from step_saliency.saliency.result import StepSaliency
from step_saliency.segment.formats import FormatName
from step_saliency.segment.splitters import SplitterLike
from step_saliency.tasks.answers import gold_answer, is_correct
from step_saliency.trace import Trace

FAILURE_COLUMNS = ("row", "trace", "line", "stage", "error", "message")


@dataclass(frozen=True)
class MapSettings:
    """What `map_file` does; two runs into one folder must agree in all of it.

    Attributes:
        model: Name for `load_model`.
        backend: As for `load_model`.
        device: As for `load_model`.
        dtype: As for `load_model`.
        revision: As for `load_model`.
        trust_remote_code: As for `load_model`.
        objective: As for `step_saliency`.
        method: As for `step_saliency`.
        pool: As for `step_saliency`.
        rows: As for `step_saliency`.
        per_head: As for `step_saliency`.
        layers: As for `step_saliency`.
        format: Format of the responses, as for `Trace.from_text`.
        splitter: How responses are cut, as for `Trace.from_text`.
        system: System prompt for rows that have only a question.
        instruction: Text put after the question of rows that have only a question.
        n: Responses per question.
        temperature: Of sampling; 0 is greedy.
        top_p: Of sampling.
        max_new_tokens: Length at which a response is cut.
        seed: Of sampling.
        batch_size: Responses decoded together.
        figures: Draw a figure per trace.
    """

    model: str = "reasoner"
    backend: str = "auto"
    device: str | None = None
    dtype: str = "float32"
    revision: str | None = None
    trust_remote_code: bool = False
    objective: ObjectiveName = "next_token"
    method: Method = "auto"
    pool: Pool = "mean"
    rows: Rows = "query"
    per_head: bool = False
    layers: tuple[int, ...] | None = None
    format: FormatName = "auto"
    splitter: SplitterLike = "sentence"
    system: str | None = None
    instruction: str | None = None
    n: int = 1
    temperature: float | int = 0.0
    top_p: float | int = 1.0
    max_new_tokens: int = 512
    seed: int = 0
    batch_size: int = 16
    figures: bool = True

    def to_dict(self) -> dict[str, Any]:
        """The settings in JSON types; a splitter of the user's by its name."""
        text = json.dumps(
            asdict(self), default=lambda value: getattr(value, "__name__", str(value))
        )
        settings: dict[str, Any] = json.loads(text)
        return settings


@dataclass
class RunReport:
    """What a run did.

    Attributes:
        folder: The results folder.
        done: Traces mapped in this run.
        kept: Traces whose map was there already.
        redone: Of those done, traces whose file was cut short or out of date.
        failures: Input rows and traces that gave no map, columns ``FAILURE_COLUMNS``.
    """

    folder: Path
    done: int = 0
    kept: int = 0
    redone: int = 0
    failures: list[Mapping[str, Any]] = field(default_factory=list)

    def __str__(self) -> str:
        text = f"{self.done} traces mapped, {self.kept} kept from before"
        if self.redone:
            text += f", {self.redone} of them again: their file was cut short or out of date"
        if self.failures:
            text += f"; {len(self.failures)} failed (failures.parquet)"
        return f"{text}; results in {self.folder}"


def map_file(
    path: Path, out: Path, settings: MapSettings, *, limit: int | None = None, progress: bool = True
) -> RunReport:
    """Map every trace of a JSONL file into a results folder.

    Args:
        path: Rows that are traces, responses, conversations or problems, see `step_saliency.runs.inputs`.
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
    report.failures += [_failure(row, None, "input", row.error) for row in rows if row.error]
    usable = [row for row in rows if not row.error]
    model = _Model(settings)
    started = time.time()
    folder.write_manifest(_facts(folder, path, settings, model, report), started)
    generated = _answer(folder, usable, model, settings, report, progress=progress)
    jobs = [job for row in usable for job in _jobs(row, settings, generated)]
    for job in tqdm(jobs, unit="trace", desc="maps", disable=not progress):
        _map_one(folder, job, model, settings, report)
    _write_tables(folder, [job.file_name for job in jobs], report)
    facts = _facts(folder, path, settings, model, report)
    folder.write_manifest({**facts, "finished": True}, started)
    return report


def _facts(
    folder: RunFolder, path: Path, settings: MapSettings, model: "_Model", report: RunReport
) -> dict[str, Any]:
    """What the manifest says of the run; what an earlier one knew of the model is kept."""
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
            chosen = self.settings
            self.loaded = load_model(
                chosen.model,
                backend=chosen.backend,  # type: ignore[arg-type]
                device=chosen.device,
                dtype=chosen.dtype,
                revision=chosen.revision,
                trust_remote_code=chosen.trust_remote_code,
            )
            require_capabilities(self.loaded, MAP_CHECKS)
        return self.loaded


MAP_CHECKS = ("gradients", "pattern_rows", "local_gradients")


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


def _jobs(row: Row, settings: MapSettings, generated: Mapping[str, Trace]) -> Iterator[_Job]:
    if row.kind != "problem":
        yield _Job(row, None, row.digest)
        return
    for sample in range(settings.n):
        name = _sample_name(row, sample)
        if name in generated:
            yield _Job(row, sample if settings.n > 1 else None, row.digest, generated[name])


def _sample_name(row: Row, sample: int) -> str:
    return f"{row.id}#{sample}"


def _answer(
    folder: RunFolder,
    rows: Iterable[Row],
    model: _Model,
    settings: MapSettings,
    report: RunReport,
    *,
    progress: bool,
) -> dict[str, Trace]:
    """Let the model answer the rows that hold only a question; a batch at a time, saved at once."""
    asked = [(number, row) for number, row in enumerate(rows) if row.kind == "problem"]
    generated = folder.read_generated({row.id: row.digest for _, row in asked})
    open_rows = [
        (number, row)
        for number, row in asked
        if any(_sample_name(row, s) not in generated for s in range(settings.n))
    ]
    size = max(1, settings.batch_size // settings.n)
    with tqdm(total=len(open_rows), unit="question", desc="answers", disable=not progress) as bar:
        for start in range(0, len(open_rows), size):
            batch = open_rows[start : start + size]
            answers = _generate(batch, model, settings, report)
            for (_, row), traces in zip(batch, answers, strict=True):
                for sample, trace in enumerate(traces):
                    generated[_sample_name(row, sample)] = trace
                    folder.append_generated(_sample_name(row, sample), row.digest, trace)
            bar.update(len(batch))
    return generated


def _generate(
    batch: list[tuple[int, Row]], model: _Model, settings: MapSettings, report: RunReport
) -> list[list[Trace]]:
    """Responses to each row of a batch; a row that cannot be answered fails alone."""
    loaded = model()
    try:
        traces = generate(
            loaded,
            [_question(row, settings) for _, row in batch],
            n=settings.n,
            temperature=settings.temperature,
            top_p=settings.top_p,
            max_new_tokens=settings.max_new_tokens,
            seed=settings.seed,
            batch_size=settings.batch_size,
            system=settings.system,
            format=settings.format,
            splitter=settings.splitter,
            question_numbers=[number for number, _ in batch],
            progress=False,
        )
    except (ValueError, RuntimeError) as error:
        if len(batch) > 1:
            return [_generate([single], model, settings, report)[0] for single in batch]
        report.failures.append(_failure(batch[0][1], None, "generate", error))
        return [[]]
    return [traces[i * settings.n : (i + 1) * settings.n] for i in range(len(batch))]


def _question(row: Row, settings: MapSettings) -> str:
    return f"{row.question}\n{settings.instruction}" if settings.instruction else row.question


def _map_one(
    folder: RunFolder, job: _Job, model: _Model, settings: MapSettings, report: RunReport
) -> None:
    saved = folder.read_map(job.file_name)
    figure = folder.figure(job.file_name)
    fresh = saved is not None and saved.trace.meta.get("row_digest") == job.digest
    loaded = None if fresh else model()
    try:
        if fresh:
            assert saved is not None
            report.kept += 1
        else:
            existed = folder.map(job.file_name).exists()
            saved = _compute(job, loaded, settings)
            saved.save(folder.map(job.file_name))
            report.done += 1
            report.redone += existed
        pictures = (figure, _depth_path(figure))
        if settings.figures and not (fresh and all(map(is_whole_png, pictures))):
            _draw(saved, figure)
    except (ValueError, RuntimeError, MemoryError) as error:
        report.failures.append(_failure(job.row, job.id, "map", error))


def _compute(job: _Job, model: Any, settings: MapSettings) -> StepSaliency:
    trace = job.trace
    if trace is None:
        cut: dict[str, Any] = {"format": settings.format, "splitter": settings.splitter}
        trace = trace_of_row(job.row, model.tokenizer, **cut)
    trace = _labelled(trace, job)
    return step_saliency(
        model,
        trace,
        objective=settings.objective,
        method=settings.method,
        pool=settings.pool,
        rows=settings.rows,
        per_head=settings.per_head,
        layers=settings.layers,
    )


def trace_of_row(
    row: Row,
    tokenizer: Any,
    *,
    format: FormatName,  # noqa: A002
    splitter: SplitterLike,
) -> Trace:
    """The trace that a row holds, or that its response or messages give.

    Args:
        row: A row of any kind but a problem.
        tokenizer: The model's.
        format: As for `Trace.from_text`.
        splitter: As for `Trace.from_text`.
    """
    if row.kind == "trace":
        return Trace.from_dict(row.data)
    cut: dict[str, Any] = {"format": format, "splitter": splitter}
    if row.kind == "messages":
        return Trace.from_messages(tokenizer, row.data["messages"], **cut)
    return Trace.from_text(
        tokenizer,
        question=str(row.data.get("question") or row.data.get("problem") or ""),
        prompt=row.data.get("prompt"),
        response=str(row.data["response"]),
        **cut,
    )


def _labelled(trace: Trace, job: _Job) -> Trace:
    """The trace under its own name, with what the row says of it."""
    meta = {
        **trace.meta,
        "problem": job.row.problem,
        "row_digest": job.digest,
        "gold_answer": None if job.row.gold is None else gold_answer(job.row.gold),
        "is_correct": _correctness(trace, job.row),
    }
    names = ("model", "level", "type", "subject", "answer")
    extra = {name: job.row.data[name] for name in names if name in job.row.data}
    return Trace(
        tokens=trace.tokens,
        steps=trace.steps,
        id=job.id,
        question=trace.question or job.row.question,
        response=trace.response,
        meta={**extra, **meta},
    )


def _correctness(trace: Trace, row: Row) -> bool | None:
    """Whether the response is right: as the row says, else by the gold answer, else unknown."""
    stated = row.data.get("is_correct", trace.meta.get("is_correct"))
    if stated is not None or row.gold is None:
        return stated
    return is_correct(trace.response, row.gold)


def _draw(sal: StepSaliency, path: Path) -> None:
    from step_saliency.report import depth_curves, step_map
    from step_saliency.plotting.style import png

    path.parent.mkdir(exist_ok=True)
    for place, figure in ((path, step_map(sal)), (_depth_path(path), depth_curves(diagnose(sal)))):
        with replacing(place) as part:
            part.write_bytes(png(figure))


def _depth_path(path: Path) -> Path:
    return path.with_name(f"{path.stem}.depth.png")


def _failure(row: Row, trace_id: str | None, stage: str, error: Any) -> dict[str, Any]:
    kind = type(error).__name__ if isinstance(error, BaseException) else "ValueError"
    values = (row.id, trace_id, row.line, stage, kind, str(error))
    return dict(zip(FAILURE_COLUMNS, values, strict=True))


def _write_tables(folder: RunFolder, names: Iterable[str], report: RunReport) -> None:
    traces: list[dict[str, Any]] = []
    diagnoses: list[pd.DataFrame] = []
    with replacing(folder.table("saliency")) as part, FrameWriter(part) as saliency:
        for sal in filter(None, (folder.read_map(name) for name in names)):
            label = {"trace": sal.trace.id, "problem": sal.trace.meta.get("problem")}
            saliency.write(_prefixed(sal.to_frame(), label))
            diagnosis = diagnose(sal)
            diagnoses.append(diagnosis.to_frame())
            traces.append(_trace_row(sal, diagnosis))
    write_frame(folder.table("traces"), pd.DataFrame(traces))
    found = pd.concat(diagnoses, ignore_index=True) if diagnoses else pd.DataFrame()
    write_frame(folder.table("diagnosis"), found)
    failures = pd.DataFrame(report.failures, columns=pd.Index(FAILURE_COLUMNS))
    write_frame(folder.table("failures"), failures)


def _trace_row(sal: StepSaliency, diagnosis: Any) -> dict[str, Any]:
    trace = sal.trace
    regions = ("question", "thinking", "summary")
    counts = {f"n_{region}_steps": len(trace.region_steps(region)) for region in regions}
    return {
        "trace": trace.id,
        "problem": trace.meta.get("problem"),
        "is_correct": trace.meta.get("is_correct"),
        "gold_answer": trace.meta.get("gold_answer"),
        "finished": trace.meta.get("finished"),
        "n_tokens": len(trace.tokens),
        "n_steps": len(trace.steps),
        **counts,
        "lock_in_index": diagnosis.lock_in_index,
        "decay_index": diagnosis.decay_index,
        "method": sal.method,
        "response": trace.response,
    }


def _prefixed(frame: pd.DataFrame, columns: Mapping[str, Any]) -> pd.DataFrame:
    for place, (name, value) in enumerate(columns.items()):
        frame.insert(place, name, value)
    return frame
