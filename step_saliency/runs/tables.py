"""Tables of a results folder, made of the maps that lie in it."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from step_saliency.diagnosis import Diagnosis, diagnose
from step_saliency.runs.folder import RunFolder
from step_saliency.runs.run_report import FAILURE_COLUMNS, RunReport
from step_saliency.saliency.result import StepSaliency
from step_saliency.storage.files import replacing
from step_saliency.storage.tables import FrameWriter
from step_saliency.tasks.verdicts import verdict


def write_run_tables(folder: RunFolder, names: Iterable[str], report: RunReport) -> None:
    """Write the tables ``saliency``, ``traces``, ``diagnosis`` and ``failures``.

    Args:
        folder: The results folder.
        names: File names of the maps, in the order of the tables; those that are missing or cut
            short are left out.
        report: What failed.
    """
    traces: list[dict[str, Any]] = []
    diagnoses: list[pd.DataFrame] = []
    for sal in _written(folder, names):
        diagnosis = diagnose(sal)
        diagnoses.append(diagnosis.to_frame())
        traces.append(_trace_row(sal, diagnosis))
    report.judgements = _judgements(traces)
    failures = pd.DataFrame(report.failures, columns=pd.Index(FAILURE_COLUMNS))
    joined = pd.concat(diagnoses, ignore_index=True) if diagnoses else pd.DataFrame()
    folder.write_tables({"traces": pd.DataFrame(traces), "diagnosis": joined, "failures": failures})


def _written(folder: RunFolder, names: Iterable[str]) -> Iterator[StepSaliency]:
    """Maps one by one, each added to the table of saliency, which would not fit in memory."""
    with replacing(folder.table("saliency")) as part, FrameWriter(part) as table:
        for sal in filter(None, map(folder.read_map, names)):
            label = {"trace": sal.trace.id, "problem": sal.trace.meta.get("problem")}
            table.write(_prefixed(sal.to_frame(), label))
            yield sal


def _trace_row(sal: StepSaliency, diagnosis: Diagnosis) -> dict[str, Any]:
    trace = sal.trace
    regions = ("question", "thinking", "summary")
    counts = {f"n_{region}_steps": len(trace.region_steps(region)) for region in regions}
    return {
        "trace": trace.id,
        "problem": trace.meta.get("problem"),
        "is_correct": verdict(trace.meta.get("is_correct")),
        "stated_correct": trace.meta.get("stated_correct"),
        "graded_correct": trace.meta.get("graded_correct"),
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


def _judgements(traces: Sequence[Mapping[str, Any]]) -> str:
    """Such as "of 9 traces 5 are right, 3 wrong, 1 is unknown; ..."."""
    pairs = [(trace["stated_correct"], trace["graded_correct"]) for trace in traces]
    if all(trace["gold_answer"] is None for trace in traces) and not any(
        value is not None for pair in pairs for value in pair
    ):
        return ""
    counts = Counter(trace["is_correct"] for trace in traces)
    text = f"{counts[True]} right, {counts[False]} wrong, {counts[None]} unknown"
    stated = sum(came is not None for came, _ in pairs)
    if stated:
        both = [(came, ours) for came, ours in pairs if None not in (came, ours)]
        differ = sum(came != ours for came, ours in both)
        text += (
            f"; {stated} judgements came with the rows and count: {differ} of the {len(both)} that "
            "we judged too differ from ours (traces.parquet: stated_correct, graded_correct)"
        )
    return text


def _prefixed(frame: pd.DataFrame, columns: Mapping[str, Any]) -> pd.DataFrame:
    for place, (name, value) in enumerate(columns.items()):
        frame.insert(place, name, value)
    return frame
