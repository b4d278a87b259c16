"""Where units of work run: in this process, in a pool of processes, or on a Ray cluster.

An executor takes a `Job` and units and yields finished units in any order. A unit's result depends
on the unit and the settings alone: each has its own seed, and torch computes with the same number
of threads wherever it runs, so every executor gives the same bits on the same kind of machine.
"""

import hashlib
import importlib
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import connection
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
import torch

from analyses.running.cost import counted
from analyses.running.folder import Done
from analyses.running.settings import Settings
from step_saliency.models import model_identity
from step_saliency.models.identity import weights_digest


@dataclass(frozen=True)
class Unit:
    """A piece of work that is done whole or not at all.

    Attributes:
        name: Name of its part file; unique, plain characters.
        payload: What the unit function needs, picklable, with a ``repr`` that tells it from others.
        seed: Seed of this unit alone; the runner sets it.
    """

    name: str
    payload: Any
    seed: int = 0


@dataclass(frozen=True)
class Job:
    """What to do with each unit; travels to the workers once.

    Attributes:
        run_unit: Takes (model, unit, settings), returns a table. A function of a module.
        load: Takes the settings, returns the model (or None). A function of a module.
        settings: Of the run.
    """

    run_unit: Callable[[Any, Unit, Any], pd.DataFrame]
    load: Callable[[Any], Any]
    settings: Settings


class Executor(Protocol):
    """Runs units, several at a time or one by one."""

    def __call__(self, job: Job, units: Sequence[Unit]) -> Iterator[Done]:
        """Yield finished units in any order; raise what a unit raises, with its name noted."""
        ...


class Worker:
    """A job with its model, loaded when the first unit comes."""

    def __init__(self, job: Job, model: Any = None) -> None:
        self.job = job
        self.model = model
        self.is_loaded = model is not None

    def run(self, unit: Unit) -> Done:
        """Do one unit."""
        try:
            with torch_threads(self.job.settings.threads):
                return self._run(unit)
        except Exception as error:
            error.add_note(f"in unit {unit.name!r}")
            raise

    def _run(self, unit: Unit) -> Done:
        if not self.is_loaded:
            self.model, self.is_loaded = self.job.load(self.job.settings), True
        vocabulary = None if self.model is None else int(self.model.cfg.d_vocab)
        started = time.perf_counter()
        with counted(vocabulary) as cost:
            frame = self.job.run_unit(self.model, unit, self.job.settings)
        seconds = time.perf_counter() - started
        facts = None if self.model is None else identity(self.model)
        return Done(unit.name, frame, seconds, facts, cost)


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch use so many threads; afterwards as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def identity(model: Any) -> dict[str, Any]:
    """`model_identity` without folders of this machine, and with digests of the weights.

    Returns:
        With ``weights`` (`weights_digest` of the model as it was loaded) and, for a GGUF file,
        ``gguf_sha256``, which is what its publisher states.
    """
    facts = model_identity(model)
    source = facts.get("source")
    if source and facts.get("gguf_file"):
        facts["gguf_sha256"] = _sha256(Path(source) / facts["gguf_file"])
    if source and Path(source).is_absolute():
        facts["source"] = Path(source).name
    return {**facts, "weights": weights_digest(model)}


@lru_cache(maxsize=4)
def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def in_process(model: Any = None) -> Executor:
    """One unit after the other, here.

    Args:
        model: A loaded model; by default the job loads it.
    """

    def run(job: Job, units: Sequence[Unit]) -> Iterator[Done]:
        worker = Worker(job, model)
        yield from map(worker.run, units)

    return run


_WORKER: Worker | None = None


def _start_worker(job: Job) -> None:
    global _WORKER
    _WORKER = Worker(job)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A killed parent closes no queue of its children, which would wait for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def _run_in_worker(unit: Unit) -> Done:
    assert _WORKER is not None
    return _WORKER.run(unit)


def process_pool(workers: int) -> Executor:
    """A pool of fresh processes on this machine, each with its own copy of the model.

    Those of joblib 1.6 outlive a parent that is killed, and would need
    `_end_with_parent` all the same.
    """

    def run(job: Job, units: Sequence[Unit]) -> Iterator[Done]:
        pool = ProcessPoolExecutor(
            min(workers, len(units)),
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_start_worker,
            initargs=(job,),
        )
        try:
            futures: list[Future[Done]] = [pool.submit(_run_in_worker, unit) for unit in units]
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise RuntimeError(
                "a worker process died, perhaps for lack of memory; finished units are kept: run "
                "the same command again, with fewer workers if memory is short"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    return run


def ray_cluster(address: str, workers: int | None = None) -> Executor:
    """Workers on a Ray cluster, or on this machine with address ``"local"``.

    Args:
        address: As for ``ray.init``. The machines need this package and the model's weights.
        workers: Number of workers; one per CPU (or GPU, where the cluster has any) by default.

    Raises:
        ValueError: Ray is not installed.
    """
    try:
        ray = importlib.import_module("ray")
    except ImportError as error:
        raise ValueError(
            "running on a cluster needs Ray, which is not installed: "
            "pip install 'step-saliency[ray]'"
        ) from error

    def run(job: Job, units: Sequence[Unit]) -> Iterator[Done]:
        started_here = not ray.is_initialized()
        if started_here:
            ray.init(address=address, log_to_driver=False)
        try:
            yield from _on_actors(ray, job, units, workers)
        finally:
            if started_here:
                ray.shutdown()

    return run


def _on_actors(ray: Any, job: Job, units: Sequence[Unit], workers: int | None) -> Iterator[Done]:
    resources = ray.cluster_resources()
    threads = job.settings.threads
    gpus = int(resources.get("GPU", 0)) if getattr(job.settings, "device", None) != "cpu" else 0
    room = gpus or int(resources.get("CPU", 1)) // threads
    count = max(1, min(workers or room, room, len(units)))
    needs = {"num_cpus": threads, "num_gpus": 1 if gpus else 0}
    actor = ray.remote(**needs)(Worker)
    actors = [actor.remote(job) for _ in range(count)]
    waiting = list(reversed(units))
    running = {one.run.remote(waiting.pop()): one for one in actors}
    while running:
        (finished,), _ = ray.wait(list(running), num_returns=1)
        free = running.pop(finished)
        if waiting:
            running[free.run.remote(waiting.pop())] = free
        yield ray.get(finished)
