"""HTML files of the traces of a results folder, or of one saved map."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from step_saliency.diagnosis import Diagnosis, compare, diagnose, mean_curves
from step_saliency.report.html_page import page
from step_saliency.runs.folder import RunFolder
from step_saliency.saliency.result import StepSaliency
from step_saliency.storage.files import is_file, make_folder, read_bytes, write_text

PAGE_START = b"<!doctype html>"
"""How pages begin, in lower case."""


def write_reports(
    run: Path,
    *,
    trace: str | None = None,
    out: Path | None = None,
    effects: Path | None = None,
    seed: int = 0,
) -> list[Path]:
    """Write a page per trace.

    Args:
        run: Results folder of `step_saliency.runs.map_file.map_file`, or a file that
            `StepSaliency.save` wrote.
        trace: Id or file name of the one trace to write; all of the folder by default.
        out: The file to write where there is one trace, else the folder for the files. By default
            the folder ``report`` in the results folder, or the map's own name with ``.html``.
        effects: Table of what interventions did, parquet or CSV: of one trace, or with a column
            ``trace``.
        seed: Of the intervals over the traces of the run.

    Returns:
        The files written.

    Raises:
        ValueError: there is no such run, map or trace, the effects are no table of effects, or a
            file that is no page is in the place of one.
        WriteError: a file cannot be written.
    """
    table = None if effects is None else _read_effects(effects)
    if is_file(run):
        _check_alone(trace)
        target = out or run.with_suffix(".html")
        _check_target(target)
        return [_write(target, StepSaliency.load(run), table)]
    folder = RunFolder.existing(run)
    maps = folder.maps()
    diagnoses = {name: diagnose(sal) for name, sal in maps.items()}
    over_run = _over_run(list(diagnoses.values()), seed)
    facts = _model_facts(folder.manifest())
    names = list(maps) if trace is None else [_find(maps, trace, run)]
    targets = {name: _target(folder, name, out, alone=trace is not None) for name in names}
    for target in targets.values():
        _check_target(target)
    return [
        _write(target, maps[name], table, diagnosis=diagnoses[name], facts=facts, **over_run)
        for name, target in targets.items()
    ]


def _write(target: Path, sal: StepSaliency, effects: pd.DataFrame | None, **more: Any) -> Path:
    make_folder(target.parent)
    if effects is not None and "trace" in effects.columns:
        effects = effects[effects["trace"].astype(str) == str(sal.trace.id)].drop(columns="trace")
    text = page(sal, effects=effects, **more)
    write_text(target, text)
    return target


def _over_run(diagnoses: Sequence[Diagnosis], seed: int) -> dict[str, pd.DataFrame]:
    """What the traces of the run say together, as far as there are enough of them."""
    if len(diagnoses) < 2:
        return {}
    result = {"curves": mean_curves(diagnoses, seed=seed)}
    try:
        result["comparison"] = compare(
            diagnoses, metrics=["lock_in_index", "decay_index"], seed=seed
        )
    except ValueError:
        return result
    return result


def _model_facts(manifest: Mapping[str, Any]) -> dict[str, str]:
    name = manifest["settings"].get("model")
    return {} if name is None else {"model": str(name)}


def _find(maps: Mapping[str, StepSaliency], trace: str, run: Path) -> str:
    for name, sal in maps.items():
        if trace in (name, sal.trace.id):
            return name
    ids = [sal.trace.id or name for name, sal in maps.items()]
    raise ValueError(
        f"{run} has no trace {trace!r}; there are {len(ids)}: {', '.join(ids[:5])}"
        f"{', ...' if len(ids) > 5 else ''}"
    )


def _target(run: RunFolder, name: str, out: Path | None, *, alone: bool) -> Path:
    if out is None:
        return run.check_within("report") / f"{name}.html"
    return out if alone and out.suffix == ".html" else out / f"{name}.html"


def _check_target(target: Path) -> None:
    """Refuse to write over a file that is no page, since it is somebody else's."""
    if target.exists() and not target.is_dir():
        start = read_bytes(target)[: len(PAGE_START)] if is_file(target) else b""
        if start.lower() != PAGE_START and (start or not is_file(target)):
            raise ValueError(f"{target} is there and is no page of a trace; choose another --out")


def _check_alone(trace: str | None) -> None:
    if trace is not None:
        raise ValueError(f"--trace {trace!r} chooses from a results folder; this is a single map")


def _read_effects(path: Path) -> pd.DataFrame:
    if not is_file(path):
        raise ValueError(f"there is no file {path}")
    try:
        is_csv = path.suffix == ".csv"
        return pd.read_csv(path, dtype={"trace": str}) if is_csv else pd.read_parquet(path)
    except (OSError, ValueError, MemoryError) as error:
        raise ValueError(f"{path} is no whole table: {error}") from error
