"""Hands units of a run to workers: processes of this machine, Ray, or jobs of Slurm.

local   so many processes of submitit on this machine, each with cards of its own
slurm   one array of jobs of submitit; each job does its share of the units
ray     one actor a worker with a model of its own; an actor that dies is started again and its
        unit is done again, up to `RETRIES` times
"""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from tqdm.auto import tqdm

from step_saliency.benchmark.command.settings import BenchmarkSettings
from step_saliency.benchmark.provider.settings import device_of
from step_saliency.benchmark.scale.cards import (
    cards_each,
    cards_of_ray,
    slices,
    visible_cards,
)
from step_saliency.benchmark.scale.failed import WorkerError
from step_saliency.benchmark.scale.units import Unit, open_units
from step_saliency.benchmark.scale.worker import Worker, do_share
from step_saliency.options import check_option

if TYPE_CHECKING:
    Cluster: TypeAlias = Literal["local", "ray", "slurm"]
else:
    Cluster = str

CLUSTERS = ("local", "ray", "slurm")
MINUTES = 24 * 60
RETRIES = 10
"""Deaths of its worker after which a unit is given up: a unit that kills workers would for ever."""
HELP = "pip install 'step-saliency[benchmarks]'"
HELP_RAY = "pip install 'step-saliency[ray]'"


def spread(
    out: Path,
    settings: BenchmarkSettings,
    *,
    workers: int,
    cluster: Cluster = "local",
    address: str = "local",
    parameters: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> None:
    """Decode what is not decoded yet, by several workers.

    Args:
        out: Folder of the run; every worker has to see it.
        settings: Of the run.
        workers: How many.
        cluster: Where.
        address: Of Ray; ``"local"`` starts a cluster on this machine.
        parameters: Of submitit, such as ``slurm_partition``.
        progress: Show a progress bar.

    Raises:
        ValueError: an unknown cluster, fewer than one worker, more workers than there are cards
            for, or a library that is missing.
        WorkerError: a unit that could not be finished, or a worker that would decode on another
            kind of device or in another data type than the run.
    """
    check_option("cluster", cluster, CLUSTERS)
    if workers < 1:
        raise ValueError(f"workers={workers} is below 1")
    count = len(open_units(out, settings))
    if not count:
        return
    if cluster == "ray":
        _by_ray(out, settings, min(workers, count), address, progress)
    else:
        _by_submitit(out, settings, min(workers, count), cluster, dict(parameters or {}), progress)


def _by_submitit(
    out: Path,
    settings: BenchmarkSettings,
    workers: int,
    cluster: str,
    parameters: dict[str, Any],
    progress: bool,
) -> None:
    submitit = _library("submitit", HELP)
    parameters = {"timeout_min": MINUTES, **_numbers(parameters)}
    start = _processes if cluster == "local" else _array
    jobs = start(submitit, out, settings, workers, parameters)
    for job in tqdm(jobs, desc="workers", disable=not progress):
        try:
            job.result()
        except Exception as error:
            raise WorkerError(f"a worker failed: {str(error)[-500:]}") from error


def _array(
    submitit: Any,
    out: Path,
    settings: BenchmarkSettings,
    workers: int,
    parameters: dict[str, Any],
) -> list[Any]:
    """Jobs of Slurm, whose parameters say how many cards each has."""
    executor = submitit.AutoExecutor(folder=str(out / "submitit"), cluster="slurm")
    executor.update_parameters(**parameters)
    facts = settings.to_dict()
    with executor.batch():
        return [
            executor.submit(do_share, str(out), facts, number, workers) for number in range(workers)
        ]


def _processes(
    submitit: Any,
    out: Path,
    settings: BenchmarkSettings,
    workers: int,
    parameters: dict[str, Any],
) -> list[Any]:
    """Processes of this machine, each with its slice of the cards; submitit alone shows none."""
    cards = visible_cards()
    each = cards_each(settings, len(cards), workers)
    executor = submitit.LocalExecutor(folder=str(out / "submitit"))
    device = device_of(settings.provider_settings("none")).type
    jobs = []
    for number, own in enumerate(slices(cards, each, workers)):
        executor.update_parameters(**{**parameters, "gpus_per_node": each, "visible_gpus": own})
        share = (str(out), settings.to_dict(), number, workers, device)
        jobs.append(executor.submit(do_share, *share))
    return jobs


def _numbers(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters from a command line, whole numbers as numbers."""
    return {
        name: int(value) if str(value).isdigit() else value for name, value in parameters.items()
    }


def _by_ray(
    out: Path, settings: BenchmarkSettings, workers: int, address: str, progress: bool
) -> None:
    ray = _library("ray", HELP_RAY)
    is_ours = not ray.is_initialized()
    if is_ours:
        ray.init(address=None if address == "local" else address, log_to_driver=False)
    try:
        _on_actors(ray, out, settings, workers, progress)
    finally:
        if is_ours:
            ray.shutdown()


def _on_actors(
    ray: Any, out: Path, settings: BenchmarkSettings, workers: int, progress: bool
) -> None:
    gpus = cards_each(settings, cards_of_ray(ray.cluster_resources()), workers)
    device = "cuda" if gpus else None
    options = {"num_gpus": gpus, "max_restarts": -1, "max_task_retries": RETRIES}
    actor = ray.remote(num_cpus=1, **options)(Worker)
    actors = [actor.remote(str(out), settings.to_dict(), device) for _ in range(workers)]
    waiting = list(reversed(open_units(out, settings)))
    running: dict[Any, tuple[Any, Unit]] = {}

    def give(one: Any) -> None:
        if waiting:
            unit = waiting.pop()
            running[one.do.remote(unit)] = one, unit

    with tqdm(total=len(waiting), desc="units", disable=not progress) as bar:
        for one in actors:
            give(one)
        while running:
            (finished,), _ = ray.wait(list(running), num_returns=1)
            free, unit = running.pop(finished)
            _result(ray, finished, unit)
            bar.update()
            give(free)


def _result(ray: Any, finished: Any, unit: Unit) -> None:
    """See that a unit was done.

    Raises:
        WorkerError: it failed, or its worker died too often; naming it.
    """
    try:
        ray.get(finished)
    except Exception as error:
        raise WorkerError(
            f"{unit.suite} under {unit.condition}, problems {unit.ids[0]} to {unit.ids[-1]}: "
            f"{str(error)[-500:]}"
        ) from error


def _library(name: str, help: str) -> Any:  # noqa: A002
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(f"{name} is not installed: {help}") from error
