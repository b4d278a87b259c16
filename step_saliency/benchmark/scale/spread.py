"""Hands units of a run to workers: processes of this machine, Ray, or jobs of Slurm.

local   so many processes of submitit on this machine
slurm   one array of jobs of submitit; each job does its share of the units
ray     one actor a worker with a model of its own; an actor that dies is started again and its
        unit is done again
"""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from tqdm.auto import tqdm

from step_saliency.benchmark.command.settings import BenchmarkSettings
from step_saliency.benchmark.scale.units import open_units
from step_saliency.benchmark.scale.worker import Worker, do_share
from step_saliency.options import check_option

if TYPE_CHECKING:
    Cluster: TypeAlias = Literal["local", "ray", "slurm"]
else:
    Cluster = str

CLUSTERS = ("local", "ray", "slurm")
MINUTES = 24 * 60
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
        ValueError: an unknown cluster, fewer than one worker, or a library that is missing.
        RuntimeError: a unit that could not be finished.
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
    executor = submitit.AutoExecutor(folder=str(out / "submitit"), cluster=cluster)
    executor.update_parameters(**{"timeout_min": MINUTES, **_numbers(parameters)})
    facts = settings.to_dict()
    with executor.batch():
        jobs = [
            executor.submit(do_share, str(out), facts, number, workers) for number in range(workers)
        ]
    for job in tqdm(jobs, desc="workers", disable=not progress):
        try:
            job.result()
        except Exception as error:
            raise RuntimeError(f"a worker failed: {str(error)[-500:]}") from error


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
    has_gpus = ray.cluster_resources().get("GPU", 0) and settings.device != "cpu"
    gpus = settings.tensor_parallel if has_gpus else 0
    actor = ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=-1, max_task_retries=-1)(Worker)
    actors = [actor.remote(str(out), settings.to_dict()) for _ in range(workers)]
    waiting = list(reversed(open_units(out, settings)))
    running: dict[Any, Any] = {}
    with tqdm(total=len(waiting), desc="units", disable=not progress) as bar:
        for one in actors:
            if waiting:
                running[one.do.remote(waiting.pop())] = one
        while running:
            (finished,), _ = ray.wait(list(running), num_returns=1)
            free = running.pop(finished)
            ray.get(finished)
            bar.update()
            if waiting:
                running[free.do.remote(waiting.pop())] = free


def _library(name: str, help: str) -> Any:  # noqa: A002
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(f"{name} is not installed: {help}") from error
