"""Workers and their cards, on machines that have none: by stand-ins for torch, submitit and Ray."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from step_saliency.benchmark.command.settings import SETTINGS as FILE
from step_saliency.benchmark.command.settings import BenchmarkSettings, keep_settings

pytest.importorskip("inspect_ai", reason="inspect-ai is not installed: step-saliency[benchmarks]")

from step_saliency.benchmark.scale import spread as module
from step_saliency.benchmark.scale.cards import cards_each, slices, visible_cards
from step_saliency.benchmark.scale.failed import WorkerError
from step_saliency.benchmark.scale.units import units_of
from step_saliency.benchmark.scale.worker import Worker

SETTINGS = BenchmarkSettings(model="reasoner", suites=("reasoner",), problems=4, batch_size=1)


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> Any:
    def have(count: int, named: str | None = None) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if named is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)

    return have


@pytest.mark.parametrize(
    ("changes", "n_cards", "workers", "each"),
    [
        ({}, 4, 4, 1),
        ({}, 4, 3, 1),
        ({}, 0, 3, 0),
        ({"device": "cpu"}, 4, 9, 0),
        ({"device_map": "auto"}, 8, 2, 4),
        ({"engine": "vllm", "tensor_parallel": 2}, 8, 4, 2),
        ({"device": "cuda:1"}, 4, 1, 4),
    ],
)
def test_cards_of_each_worker(
    changes: dict[str, Any], n_cards: int, workers: int, each: int
) -> None:
    assert cards_each(replace(SETTINGS, **changes), n_cards, workers) == each


@pytest.mark.parametrize(
    ("changes", "n_cards", "workers", "match"),
    [
        ({}, 2, 3, "workers=3 need 3 cards, and there are 2; take 2 workers or fewer"),
        ({"engine": "vllm", "tensor_parallel": 2}, 4, 3, "workers=3 need 6 cards.* 4; take 2"),
        ({"device_map": "auto"}, 2, 3, "workers=3 need 3 cards, and there are 2"),
        ({"device": "cuda:1"}, 4, 2, "device='cuda:1' is one card, and 2 workers"),
    ],
)
def test_more_workers_than_cards_are_refused(
    changes: dict[str, Any], n_cards: int, workers: int, match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        cards_each(replace(SETTINGS, **changes), n_cards, workers)


def test_cards_that_this_process_sees(cards: Any) -> None:
    cards(3)
    assert visible_cards() == [0, 1, 2]
    cards(2, "5,7")
    assert visible_cards() == [5, 7]
    cards(0, "")
    assert visible_cards() == []
    cards(1, "GPU-1f5d")
    with pytest.raises(ValueError, match="write the numbers of the cards"):
        visible_cards()
    assert slices([5, 7, 8, 9], 2, 2) == [[5, 7], [8, 9]]


class Executor:
    """Stands in for submitit's: keeps what each job would see."""

    def __init__(self, **_: str) -> None:
        self.parameters: dict[str, Any] = {}
        self.jobs: list[tuple[dict[str, Any], tuple[Any, ...]]] = []
        made.append(self)

    def update_parameters(self, **parameters: Any) -> None:
        self.parameters = parameters

    def submit(self, _function: Any, *arguments: Any) -> Any:
        self.jobs.append((self.parameters, arguments))
        return SimpleNamespace(result=lambda: None)


made: list[Executor] = []


def test_processes_get_a_slice_of_the_cards_each(
    cards: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.clear()
    cards(4, "2,3,5,6")
    library = SimpleNamespace(LocalExecutor=Executor)
    monkeypatch.setattr(module, "_library", lambda *_: library)
    settings = replace(SETTINGS, device_map="auto")
    keep_settings(tmp_path, settings)
    module.spread(tmp_path, settings, workers=2, progress=False)
    jobs = made[0].jobs
    assert [job["visible_gpus"] for job, _ in jobs] == [[2, 3], [5, 6]]
    assert [job["gpus_per_node"] for job, _ in jobs] == [2, 2]
    assert [arguments[-1] for _, arguments in jobs] == ["cuda", "cuda"]
    with pytest.raises(ValueError, match="workers=5 need 5 cards, and there are 4"):
        module.spread(tmp_path, SETTINGS, workers=5, progress=False)


def test_a_worker_of_another_kind_than_the_run_is_refused(cards: Any, tmp_path: Path) -> None:
    """The run in bfloat16, since its command saw a GPU; the worker sees none."""
    cards(1)
    keep_settings(tmp_path, SETTINGS)
    assert "bfloat16" in (tmp_path / FILE).read_text()
    Worker(str(tmp_path), SETTINGS.to_dict(), "cuda")
    cards(0)
    with pytest.raises(ValueError, match=r"decode in torch.float32 on cpu.* torch.bfloat16 on any"):
        Worker(str(tmp_path), SETTINGS.to_dict())
    named = replace(SETTINGS, dtype="bfloat16")
    Worker(str(tmp_path), named.to_dict())
    with pytest.raises(ValueError, match=r"bfloat16 on cpu, and the run is in .* on cuda"):
        Worker(str(tmp_path), named.to_dict(), "cuda")


class Ray:
    """Stands in for Ray: units are done when they are asked for."""

    def __init__(self, n_cards: float, dying: str = "") -> None:
        self.n_cards, self.dying = n_cards, dying
        self.options: dict[str, Any] = {}

    def is_initialized(self) -> bool:
        return True

    def cluster_resources(self) -> dict[str, float]:
        return {"GPU": float(self.n_cards)}

    def remote(self, **options: Any) -> Any:
        self.options = options
        actor = SimpleNamespace(do=SimpleNamespace(remote=lambda unit: unit.key))
        return lambda _class: SimpleNamespace(remote=lambda *_: actor)

    def wait(self, running: list[str], num_returns: int) -> tuple[list[str], list[str]]:
        return running[:num_returns], running[num_returns:]

    def get(self, key: str) -> str:
        if key == self.dying:
            raise OSError("the actor died unexpectedly")
        return key


def test_actors_of_ray_get_cards_and_a_unit_that_kills_them_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(SETTINGS, device_map="auto")
    units = units_of(settings)
    ray = Ray(4)
    monkeypatch.setattr(module, "_library", lambda *_: ray)
    module.spread(tmp_path, settings, workers=2, cluster="ray", progress=False)
    assert ray.options["num_gpus"] == 2
    assert 0 < ray.options["max_task_retries"] < 100
    ray = Ray(4, dying=units[-1].key)
    message = rf"{units[-1].condition}, problems {units[-1].ids[0]} to .*: the actor died"
    with pytest.raises(WorkerError, match=message):
        module.spread(tmp_path, settings, workers=1, cluster="ray", progress=False)
    ray = Ray(1)
    with pytest.raises(ValueError, match="workers=2 need 2 cards, and there are 1"):
        module.spread(tmp_path, SETTINGS, workers=2, cluster="ray", progress=False)


def test_slices_of_a_card_are_not_told_by_number(
    cards: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process sees one of them, and submitit takes numbers alone."""
    cards(1, "MIG-7f0c,MIG-81aa")
    monkeypatch.setattr(module, "_library", lambda *_: SimpleNamespace(LocalExecutor=Executor))
    for workers in (1, 2):
        with pytest.raises(ValueError, match=r"names slices of a card \(MIG\).*Ray or Slurm"):
            module.spread(tmp_path, SETTINGS, workers=workers, progress=False)


@pytest.mark.parametrize("count", [0.5, 0.99])
def test_a_part_of_a_card_is_none(
    count: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was taken for no card, so that workers would have decoded on the processor."""
    ray = Ray(count)
    monkeypatch.setattr(module, "_library", lambda *_: ray)
    with pytest.raises(ValueError, match=rf"has {count} of a card, and workers get whole ones"):
        module.spread(tmp_path, SETTINGS, workers=1, cluster="ray", progress=False)
    assert ray.options == {}


def test_what_ray_counts_as_cards_is_one_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slices of a card too, where it was started with their names."""
    ray = Ray(7.5)
    monkeypatch.setattr(module, "_library", lambda *_: ray)
    module.spread(tmp_path, SETTINGS, workers=4, cluster="ray", progress=False)
    assert ray.options["num_gpus"] == 1
    with pytest.raises(ValueError, match="workers=8 need 8 cards, and there are 7"):
        module.spread(tmp_path, replace(SETTINGS, problems=40), workers=8, cluster="ray")
