"""Tables of a results folder, made of the maps that lie in it."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from step_saliency.diagnosis import Diagnosis, diagnose, diagnoses_frame
from step_saliency.runs.folder import RunFolder
from step_saliency.runs.run_report import FAILURE_COLUMNS, RunReport
from step_saliency.saliency.frame import Columns, columns_frame, map_columns
from step_saliency.saliency.result import StepSaliency
from step_saliency.storage.files import replacing
from step_saliency.storage.tables import FrameWriter
from step_saliency.tasks.verdicts import verdict

TABLE_ENTRIES = 2**18
"""Entries of maps that are turned into rows at a time."""


def write_run_tables(folder: RunFolder, names: Iterable[str], report: RunReport) -> None:
    """Write the tables ``saliency``, ``traces``, ``diagnosis`` and ``failures``.

    Args:
        folder: The results folder.
        names: File names of the maps, in the order of the tables; those that are missing or cut
            short are left out.
        report: What failed.
    """
    traces: list[dict[str, Any]] = []
    diagnoses: list[Diagnosis] = []
    for sal in _written(folder, names):
        diagnoses.append(diagnose(sal))
        traces.append(_trace_row(sal, diagnoses[-1]))
    report.judgements = _judgements(traces)
    failures = pd.DataFrame(report.failures, columns=pd.Index(FAILURE_COLUMNS))
    joined = diagnoses_frame(diagnoses) if diagnoses else pd.DataFrame()
    folder.write_tables({"traces": pd.DataFrame(traces), "diagnosis": joined, "failures": failures})


def _written(folder: RunFolder, names: Iterable[str]) -> Iterator[StepSaliency]:
    """Maps one by one, each added to the table of saliency, which would not fit in memory."""
    maps = filter(None, map(folder.read_map, names))
    with replacing(folder.table("saliency")) as part, FrameWriter(part) as table:
        for some in _batches(maps):
            table.write(
                columns_frame(
                    [_columns(sal) for sal in some],
                    trace=[sal.trace.id for sal in some],
                    problem=[sal.trace.meta.get("problem") for sal in some],
                )
            )
            yield from some


def _batches(maps: Iterable[StepSaliency]) -> Iterator[list[StepSaliency]]:
    """Maps together until they have so many entries that a table of them is worth writing."""
    some: list[StepSaliency] = []
    for sal in maps:
        some.append(sal)
        if sum(one.maps.numel() for one in some) >= TABLE_ENTRIES:
            yield some
            some = []
    if some:
        yield some


def _columns(sal: StepSaliency) -> Columns:
    return map_columns(sal.maps, layers=sal.layers, seen=sal.seen, regions=sal.trace.regions)


def _trace_row(sal: StepSaliency, diagnosis: Diagnosis) -> dict[str, Any]:
    trace = sal.trace
    gold = trace.meta.get("gold_answer")
    regions = ("question", "thinking", "summary")
    counts = {f"n_{region}_steps": len(trace.region_steps(region)) for region in regions}
    return {
        "trace": trace.id,
        "problem": trace.meta.get("problem"),
        "is_correct": verdict(trace.meta.get("is_correct")),
        "stated_correct": trace.meta.get("stated_correct"),
        "graded_correct": trace.meta.get("graded_correct"),
        "gold_answer": None if gold is None else str(gold),
        "finished": verdict(trace.meta.get("finished")),
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
