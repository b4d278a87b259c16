"""How many threads a command takes, and what it says of half precision."""

from pathlib import Path

import pytest
import torch

from step_saliency.runs import processor
from step_saliency.runs.processor import (
    free_threads,
    has_bfloat16,
    precision_note,
    set_threads,
    usable_cores,
)


@pytest.mark.parametrize(
    ("cores", "load", "threads"),
    [(2, 0.2, 2), (2, 1.1, 1), (2, 9.0, 1), (16, 3.4, 13), (1, 0.0, 1)],
)
def test_threads_for_which_there_are_cores(cores: int, load: float, threads: int) -> None:
    assert free_threads(cores, load) == threads


@pytest.fixture(autouse=True)
def same_threads() -> object:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_what_is_asked_for_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set_threads(1) == "computing with 1 thread, as asked for"
    assert torch.get_num_threads() == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert "as OMP_NUM_THREADS says" in set_threads(None)
    with pytest.raises(ValueError, match="--threads 0"):
        set_threads(0)


def test_more_threads_than_cores_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand of them on two cores hold up the whole machine."""
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    taken: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", taken.append)
    with pytest.raises(ValueError, match="--threads 1000: there are 2 cores"):
        set_threads(1000)
    assert taken == []
    set_threads(2)
    assert taken == [2]


def test_others_are_left_their_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(processor, "usable_cores", lambda: 4)
    monkeypatch.setattr("psutil.getloadavg", lambda: (2.8, 0.0, 0.0))
    assert set_threads(None).startswith("computing with 1 thread on 4 cores, of which other prog")
    assert torch.get_num_threads() == 1


def test_a_container_s_share_counts(tmp_path: Path) -> None:
    everything = usable_cores(tmp_path)
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert usable_cores(tmp_path) == everything
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert usable_cores(tmp_path) == 1


def test_processors_say_what_they_multiply_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "cpuinfo"
    assert has_bfloat16(info) is None
    for flags, has in (("fpu avx512_bf16 sse", True), ("fpu avx512f", False)):
        info.write_text(f"processor: 0\nflags\t\t: {flags}\n")
        assert has_bfloat16(info) is has
        monkeypatch.setattr(processor, "has_bfloat16", lambda has=has: has)
        note = precision_note("bfloat16", "cpu") or ""
        assert ("slower than float32" in note) is not has
    assert precision_note("float32", "cpu") is None
    assert precision_note("bfloat16", "cuda:0") is None
