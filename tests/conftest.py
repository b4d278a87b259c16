"""Fixtures that several test files share, and what makes tests the same on every machine."""

import gc
import os
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import nights
import pytest
import torch

hypothesis.settings.register_profile("same", deadline=None, derandomize=True)
hypothesis.settings.load_profile("same")

WORKER_BYTES = 3 * 2**30
"""Main memory that a worker may come to hold."""

LONG = (
    "test_notebooks",
    "test_docs",
    "test_ablation",
    "test_mediation",
    "test_fast",
    "test_figures",
)
"""Files of tests that take longest; they come first, so that no worker is left alone with one."""

if not torch.cuda.is_available():
    # Before anything imports triton: its own functions are interpreted or not from then on.
    os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_configure(config: pytest.Config) -> None:
    """Workers that run side by side share the cores: one thread each, their processes too.

    Large blocks are given back to the system when they are freed: glibc otherwise keeps gigabytes
    of weights that tests have long dropped.
    """
    nights.is_night = config.getoption("nightly") == "all"
    if hasattr(config, "workerinput"):
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        torch.set_num_threads(1)
    else:
        if hasattr(config.option, "loadscopereorder"):
            config.option.loadscopereorder = False  # keep the order of the collection
        os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(2**20))
        os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(2**27))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--nightly",
        default="0",
        choices=["all", *map(str, range(10))],
        help="which tenth of the tests marked nightly to run (default 0), or all of them",
    )


def pytest_report_header(config: pytest.Config) -> str:
    tenth = config.getoption("nightly")
    if tenth == "all":
        return "nightly: all of these tests"
    return f"nightly: tenth {tenth} of these tests; --nightly all runs the rest too"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """One tenth of the nightly tests. Long files first; the order within files stays."""
    tenth = config.getoption("nightly")
    left_out = [item for item in items if tenth != "all" and _waits_for_night(item, int(tenth))]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]
    ranks = {name: rank for rank, name in enumerate(LONG)}
    items.sort(key=lambda item: ranks.get(item.path.stem, len(LONG)))


def _waits_for_night(item: pytest.Item, tenth: int) -> bool:
    return item.get_closest_marker("nightly") is not None and (
        zlib.crc32(item.nodeid.encode()) % 10 != tenth
    )


def pytest_xdist_auto_num_workers() -> int:
    """As many workers as there are cores to use and memory for.

    Types are checked in what is imported after the configuration, hence the import in here.
    """
    from step_saliency.models.memory import free_bytes

    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    try:
        limit, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        cores = cores if limit == "max" else min(cores, int(limit) // int(period))
    except OSError:
        pass
    return max(1, min(cores, free_bytes(torch.device("cpu")) // WORKER_BYTES))


@pytest.fixture(autouse=True)
def plenty_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is done must not hang on what else runs: a machine of 64 GiB, as far as is asked."""
    for module in ("models.reference", "saliency.estimate"):
        monkeypatch.setattr(f"step_saliency.{module}.free_bytes", lambda device: 2**36)


@pytest.fixture(scope="module", autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Models that a file of tests has dropped are gone before the next file."""
    yield
    from step_saliency.models.memory import give_back

    gc.collect()
    give_back()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the public data files (GSM8K, R1 traces and others), or a skip without it."""
    folder = Path(__file__).parents[1].parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"the public data files are not here: {folder} does not exist")
    return folder
