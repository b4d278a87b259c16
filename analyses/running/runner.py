"""Run an analysis over units of work: resumable, seeded per unit, in one process or many.

Every analysis is a module with a constant ``ANALYSIS`` and runs as

    python -m analyses.NAME --model reasoner --n 200 --seed 0 --out results/NAME --workers 2

A unit is a problem or a chunk of problems. Each finished unit becomes a part file at once; the same
command again does what is missing, and refuses a folder whose settings differ. Units know nothing
of each other and have seeds of their own, so the tables are the same to the byte whatever the
number of workers. `analyses.running.folder` says what the folder holds, `analyses.running.workers`
where units run.

A module writes its own part in a few lines (`analyses.running.settings`: how settings become a
command line):

    @dataclass(frozen=True, kw_only=True)
    class MySettings(SourceSettings):
        depth: int = option(8, "layers of the model")

    def run_unit(model, unit, settings): return some_public_function(model, [unit.payload], ...)
    ANALYSIS = Analysis("mine", MySettings, units=item_units, run_unit=run_unit, summarise=...)
    if __name__ == "__main__": main("analyses.mine")
"""

import argparse
import hashlib
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from analyses.running.cost import Cost
from analyses.running.folder import AnalysisFolder, Done, Part
from analyses.running.settings import (
    ModelSettings,
    Place,
    Settings,
    add_options,
    from_arguments,
)
from analyses.running.workers import Executor, Job, in_process, process_pool, ray_cluster
from analyses.running.workers import Unit as Unit
from step_saliency.models import load_model, require_capabilities

S = TypeVar("S", bound=Settings)

EDITS = ("score_edits", "head_edits")
MAPS = ("gradients", "pattern_rows", "local_gradients")
"""Capabilities that a model must have to be edited by StepFlow, and to be mapped."""
DIGESTS = ("weights", "gguf_sha256")
"""Facts of a model that older units lack."""


@dataclass(frozen=True)
class Analysis(Generic[S]):
    """What an analysis module tells the runner. All functions are functions of modules.

    Attributes:
        name: Name of the module, of results folders and in messages.
        settings: Class of its settings; a model is loaded where they are `ModelSettings`.
        units: Settings -> units in the order of the tables; loads no model.
        run_unit: (model, unit, settings) -> table of the unit. Randomness comes from ``unit.seed``.
        summarise: (all units' tables joined, settings) -> tables by name; ``summary`` is also
            written as text.
        checks: Capabilities that the model must have, see `step_saliency.models.doctor`.
        keep_values: Whether the joined table of all units stays in the folder.
    """

    name: str
    settings: type[S]
    units: Callable[[S], Sequence[Unit]]
    run_unit: Callable[[Any, Unit, S], pd.DataFrame]
    summarise: Callable[[pd.DataFrame, S], Mapping[str, pd.DataFrame]]
    checks: tuple[str, ...] = ()
    keep_values: bool = True


@dataclass(frozen=True)
class LoadModel:
    """Loads and checks the model that the settings name."""

    checks: tuple[str, ...] = ()

    def __call__(self, settings: ModelSettings) -> Any:
        names = ("backend", "device", "dtype", "revision")
        options = {name: getattr(settings, name) for name in names}
        named = {name: value for name, value in options.items() if value is not None}
        model = load_model(settings.model, **named)
        require_capabilities(model, self.checks)
        return model


def no_model(settings: Settings) -> None:
    """Load nothing."""


@dataclass(frozen=True)
class Results:
    """What is in a results folder.

    Attributes:
        folder: The folder.
        values: Tables of all units, joined; None where the analysis does not keep them and an
            earlier run computed them.
        tables: Tables of the analysis by name.
        computed: Units computed by this run.
        skipped: Units that an earlier run had finished.
    """

    folder: Path
    values: pd.DataFrame | None
    tables: Mapping[str, pd.DataFrame]
    computed: int
    skipped: int


def run_analysis(
    analysis: Analysis[S],
    settings: S,
    *,
    out: str | Path,
    workers: int = 1,
    ray: str | None = None,
    executor: Executor | None = None,
    model: Any = None,
    load: Callable[[S], Any] | None = None,
    command: str | None = None,
    progress: bool = True,
) -> Results:
    """Run an analysis, or what is missing of it, into a folder.

    Args:
        analysis: What to run.
        settings: Its settings.
        out: Results folder: new, empty, or of an earlier run with the same settings.
        workers: Processes.
        ray: Address of a Ray cluster to run on instead, or ``"local"``.
        executor: Something else to run on.
        model: A loaded model, for a run in this process; by default the settings' is loaded.
        load: How to get the model instead of by the settings.
        command: Command line, for the manifest.
        progress: Show a bar.

    Returns:
        Tables of the folder.

    Raises:
        ValueError: the folder is not this run's (settings that differ are named), the parts come
            from different models, or a setting is wrong.
        RuntimeError: a worker process died.
    """
    units = _seeded(analysis.units(settings), settings.seed)
    described = {**settings.as_json(), "units": digest_of(units)}
    with AnalysisFolder.open(Path(out), analysis.name, described) as folder:
        if folder.is_finished:
            return _finished(folder, len(units))
        facts: dict[str, Any] = {"settings": described, "command": command}
        facts |= {"workers": workers, "units": len(units)}
        run = executor or _executor(workers, ray, model)
        job = Job(analysis.run_unit, load or _loader(analysis), settings)
        return _run_missing(analysis, folder, units, facts, job, run, progress=progress)


def _run_missing(
    analysis: Analysis[Any],
    folder: AnalysisFolder,
    units: Sequence[Unit],
    facts: dict[str, Any],
    job: Job,
    run: Executor,
    *,
    progress: bool,
) -> Results:
    """Compute what is missing in a folder that is ours, then its tables."""
    parts = {unit.name: folder.read_part(unit.name) for unit in units}
    missing = [unit for unit in units if parts[unit.name] is None]
    started = time.time()
    folder.write_manifest({**facts, "finished": False, "tables": []}, started)
    models = [part.model for part in parts.values() if part is not None]
    with tqdm(
        total=len(units), initial=len(models), disable=not progress, unit="unit", desc=analysis.name
    ) as bar:
        facts["model"] = _keep(folder, run(job, missing) if missing else (), models, bar)
    whole = [_whole(folder, unit) for unit in units]
    facts["unit_seconds"] = round(sum(part.seconds for part in whole), 1)
    facts["cost"] = _total(part.cost for part in whole)
    values = folder.write_values(whole)
    tables = analysis.summarise(values, job.settings)
    folder.write_tables(tables)
    names = [*(["values"] if analysis.keep_values else []), *tables]
    folder.write_manifest({**facts, "finished": True, "tables": names}, started)
    folder.clear_parts()
    if not analysis.keep_values:
        folder.remove_values()
    return Results(folder.path, values, tables, len(missing), len(models))


def _keep(
    folder: AnalysisFolder,
    finished: Iterable[Done],
    models: Sequence[Mapping[str, Any] | None],
    bar: Any,
) -> Mapping[str, Any] | None:
    """Write units as they come; the model that all were computed on."""
    _check_one_model(folder, models)
    first = list(models[:1])
    for unit in finished:
        first = first or [unit.model]
        _check_one_model(folder, [*first, unit.model])
        folder.write_part(unit)
        bar.update()
    return first[0]


def _loader(analysis: Analysis[Any]) -> Callable[[Any], Any]:
    is_model = issubclass(analysis.settings, ModelSettings)
    return LoadModel(analysis.checks) if is_model else no_model


def _seeded(units: Sequence[Unit], seed: int) -> list[Unit]:
    """Units with their seeds; names are checked."""
    names = [unit.name for unit in units]
    wrong = [name for name in names if not re.fullmatch(r"[\w.+-]+", name) or name[0] == "."]
    if wrong or len(set(names)) < len(names) or not names:
        reason = f"{wrong[:3]} are no file names" if wrong else "they repeat, or there are none"
        raise ValueError(f"unit names must be distinct plain file names: {reason}")
    return [replace(unit, seed=unit_seed(seed, number)) for number, unit in enumerate(units)]


def unit_seed(seed: int, number: int) -> int:
    """Seed of one unit: independent of how many there are and of who computes it."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def digest_of(units: Sequence[Unit]) -> str:
    """Tells whether a folder's units are these."""
    text = "\n".join(f"{unit.name} {unit.payload!r}" for unit in units)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _finished(folder: AnalysisFolder, n_units: int) -> Results:
    names = folder.manifest()["tables"]
    tables = folder.read_tables(names)
    values = tables.pop("values", None)
    return Results(folder.path, values, tables, computed=0, skipped=n_units)


def _executor(workers: int, ray: str | None, model: Any) -> Executor:
    if workers < 1:
        raise ValueError(f"workers={workers}: at least one is needed")
    if model is not None and (ray is not None or workers > 1):
        raise ValueError("a loaded model cannot be handed to other processes; pass load= instead")
    if ray is not None:
        return ray_cluster(ray, workers if workers > 1 else None)
    return process_pool(workers) if workers > 1 else in_process(model)


def _whole(folder: AnalysisFolder, unit: Unit) -> Part:
    part = folder.read_part(unit.name)
    if part is None:
        raise ValueError(f"{folder.part(unit.name)} was lost or damaged; run the command again")
    return part


def _total(costs: Iterable[Cost | None]) -> dict[str, int] | None:
    """Passes of all units; None where some were done before passes were counted."""
    known = list(costs)
    if any(cost is None for cost in known):
        return None
    return asdict(sum((cost for cost in known if cost is not None), Cost()))


def _check_one_model(folder: AnalysisFolder, models: Sequence[Mapping[str, Any] | None]) -> None:
    """Raise ValueError for units that were computed on different models or versions.

    Units of before digests were written say nothing of them.
    """
    first: Mapping[str, Any] = (models[0] if models else None) or {}
    for model in models:
        other: Mapping[str, Any] = model or {}
        names = sorted(name for name in {*first, *other} if first.get(name) != other.get(name))
        names = [name for name in names if name not in DIGESTS or {name} <= {*first} & {*other}]
        if names:
            pairs = ", ".join(f"{n}: {first.get(n)!r} and {other.get(n)!r}" for n in names)
            raise ValueError(f"units in {folder.path} come from different models ({pairs})")


def parser_for(analysis: Analysis[Any], *, doc: str = "") -> argparse.ArgumentParser:
    """Options that every analysis has, and its own."""
    parser = argparse.ArgumentParser(
        prog=f"python -m analyses.{analysis.name}", description=doc.strip().partition("\n")[0]
    )
    add_options(parser, analysis.settings)
    add_options(parser, Place)
    return parser


def main(module: str, argv: Sequence[str] | None = None) -> Results:
    """Run ``python -m analyses.NAME``.

    Args:
        module: Full name of the module; it is imported by that name, so that workers find its
            functions.
        argv: Arguments; those of the process by default.
    """
    imported = import_module(module)
    analysis: Analysis[Any] = imported.ANALYSIS
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = parser_for(analysis, doc=imported.__doc__ or "")
    parsed = parser.parse_args(arguments)
    settings, place = from_arguments(analysis.settings, parsed), from_arguments(Place, parsed)
    command = shlex.join(["python", "-m", module, *arguments])
    try:
        results = run_analysis(analysis, settings, command=command, **vars(place))
    except ValueError as error:
        notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
        parser.exit(2, f"{parser.prog}: {error}{notes}\n")
    print(f"{results.computed} units done, {results.skipped} were there; {results.folder}")
    if "summary" in results.tables:
        print(results.tables["summary"].head(40).to_string(index=False))
    return results
