"""HTML files of the traces of a results folder, or of one saved map."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from step_saliency.diagnosis import Diagnosis, compare, diagnose, mean_curves
from step_saliency.report.html_page import page
from step_saliency.runs.folder import RunFolder
from step_saliency.saliency.result import StepSaliency
from step_saliency.storage.files import write_text


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
        ValueError: there is no such run, map or trace, or the effects are no table of effects.
    """
    table = None if effects is None else _read_effects(effects)
    if run.is_file():
        _check_alone(trace)
        target = out or run.with_suffix(".html")
        return [_write(target, StepSaliency.load(run), table)]
    folder = RunFolder.existing(run)
    maps = {file.stem: sal for file, sal in zip(folder.map_files(), folder.all_maps(), strict=True)}
    diagnoses = {name: diagnose(sal) for name, sal in maps.items()}
    over_run = _over_run(list(diagnoses.values()), seed)
    facts = _model_facts(folder.manifest())
    names = list(maps) if trace is None else [_find(maps, trace, run)]
    return [
        _write(
            _target(run, name, out, alone=trace is not None),
            maps[name],
            table,
            diagnosis=diagnoses[name],
            facts=facts,
            **over_run,
        )
        for name in names
    ]


def _write(target: Path, sal: StepSaliency, effects: pd.DataFrame | None, **more: Any) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    if effects is not None and "trace" in effects.columns:
        effects = effects[effects["trace"] == sal.trace.id].drop(columns="trace")
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


def _target(run: Path, name: str, out: Path | None, *, alone: bool) -> Path:
    if out is None:
        return run / "report" / f"{name}.html"
    return out if alone and out.suffix == ".html" else out / f"{name}.html"


def _check_alone(trace: str | None) -> None:
    if trace is not None:
        raise ValueError(f"--trace {trace!r} chooses from a results folder; this is a single map")


def _read_effects(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    return pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
