"""A run by the command: all parts together, broken off and taken up, by one worker or several."""

import contextlib
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest

from step_saliency.benchmark.command.settings import BenchmarkSettings, keep_settings
from step_saliency.cli import main

pytest.importorskip("inspect_ai", reason="inspect-ai is not installed: step-saliency[benchmarks]")

from step_saliency.benchmark.command.rows import read_rows
from step_saliency.benchmark.command.run import run_benchmark
from step_saliency.benchmark.provider import queue
from step_saliency.benchmark.scale.spread import CLUSTERS, Cluster, spread
from step_saliency.benchmark.scale.units import open_units, units_of
from step_saliency.benchmark.suites.suites import Selection

CONDITIONS = ("baseline", "stepflow")
SETTINGS = BenchmarkSettings(
    model="reasoner",
    suites=("reasoner",),
    conditions=CONDITIONS,
    samples=2,
    problems=4,
    max_tokens=100,
    batch_size=4,
)
WORDS = [
    *("--model", "reasoner", "--suites", "reasoner", "--conditions", ",".join(CONDITIONS)),
    *("--samples", "2", "--problems", "4", "--max-tokens", "100", "--batch-size", "4", "--quiet"),
]
WITHOUT_TIME = ["seconds"]


def result(out: Path) -> pd.DataFrame:
    return pd.read_csv(out / "rows.csv").drop(columns=WITHOUT_TIME)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process, by the command."""
    out = tmp_path_factory.mktemp("alone")
    assert main(["benchmark", *WORDS, "--out", str(out)]) == 0
    return out


def test_rows_and_table(alone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = result(alone)
    assert len(rows) == 2 * 4 * 2
    assert not rows.duplicated(["condition", "problem", "sample"]).any()
    assert set(rows["verdict"]) <= {"right", "wrong", "unknown"}
    assert main(["benchmark", "table", str(alone)]) == 0
    shown = capsys.readouterr().out
    assert shown.strip() == (alone / "table.txt").read_text().strip()
    cells = pd.read_csv(alone / "table.csv").set_index("condition")
    for condition in CONDITIONS:
        share = rows.loc[rows["condition"] == condition, "is_correct"].mean()
        assert cells.loc[condition, "estimate"] == pytest.approx(100 * share, abs=1e-3)
        assert cells.loc[condition, "seconds"] > 0


def test_the_same_command_decodes_nothing_again(
    alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object, **__: object) -> object:
        raise AssertionError("decoded again")

    before = result(alone)
    monkeypatch.setattr(queue, "generate", none)
    assert main(["benchmark", *WORDS, "--out", str(alone)]) == 0
    pd.testing.assert_frame_equal(result(alone), before)


def test_other_settings_are_refused(alone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", *WORDS, "--out", str(alone), "--seed", "5"]) == 2
    assert "seed: 0 then, 5 now" in capsys.readouterr().err


def require_cluster(cluster: Cluster) -> None:
    """Skip where the library of a cluster is not installed, or its machines do not answer."""
    library = "ray" if cluster == "ray" else "submitit"
    pytest.importorskip(library, reason=f"{library} is not installed")
    if cluster == "slurm":
        nodes = ["sinfo", "--noheader", "--states=idle,mix"]
        if not shutil.which("sinfo") or not subprocess.run(nodes, capture_output=True).stdout:
            pytest.skip("no Slurm cluster has a node for a job")


@pytest.mark.parametrize("cluster", ["local", pytest.param("slurm", marks=pytest.mark.nightly)])
def test_jobs_of_submitit_give_the_same_rows(alone: Path, tmp_path: Path, cluster: Cluster) -> None:
    require_cluster(cluster)
    keep_settings(tmp_path, SETTINGS)
    spread(tmp_path, SETTINGS, workers=2, cluster=cluster, progress=False)
    assert open_units(tmp_path, SETTINGS) == []
    assert run_benchmark(tmp_path, SETTINGS, progress=False)
    pd.testing.assert_frame_equal(result(tmp_path), result(alone))
    kept = read_rows(tmp_path / "logs")
    assert len(kept) == len(result(alone))


@pytest.mark.nightly
def test_actors_of_ray_give_the_same_rows(alone: Path, tmp_path: Path) -> None:
    require_cluster("ray")
    keep_settings(tmp_path, SETTINGS)
    spread(tmp_path, SETTINGS, workers=2, cluster="ray", progress=False)
    assert open_units(tmp_path, SETTINGS) == []
    assert run_benchmark(tmp_path, SETTINGS, progress=False)
    pd.testing.assert_frame_equal(result(tmp_path), result(alone))


KILLS = 10
"""Of each cluster."""
HANGS = 1200
"""Seconds without a response after which a run is taken to hang."""
MANY = {"--problems": "10", "--samples": "4"}


@pytest.fixture(scope="module")
def many_alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A larger run of one process."""
    out = tmp_path_factory.mktemp("many")
    assert main(["benchmark", *many_words(), "--out", str(out)]) == 0
    return out


def many_words() -> list[str]:
    words = list(WORDS)
    for name, value in MANY.items():
        words[words.index(name) + 1] = value
    return words


@pytest.mark.nightly
@pytest.mark.parametrize("cluster", CLUSTERS)
def test_kills_at_random_lose_and_double_nothing(
    many_alone: Path, tmp_path: Path, cluster: Cluster
) -> None:
    """A worker, or all with the driver, are killed while responses come; then it is given again.

    Jobs of Slurm are no children of the driver, so that they go on when it is killed.
    """
    require_cluster(cluster)
    draw, struck = random.Random(cluster), 0
    words = [*many_words(), "--out", str(tmp_path), "--workers", "2", "--cluster", cluster]
    command = [sys.executable, "-m", "step_saliency.cli", "benchmark", *words]
    driver = subprocess.Popen(command, start_new_session=True)
    while struck < KILLS:
        before, asked = decoded(tmp_path), time.monotonic()
        while decoded(tmp_path) == before and driver.poll() is None:
            assert time.monotonic() - asked < HANGS, "nothing comes any more"
            time.sleep(0.05)
        time.sleep(draw.uniform(0, 1))
        if driver.poll() is None:
            kill_some(driver, tmp_path, draw)
            struck += 1
        elif driver.returncode == 0:
            break
        if driver.poll() is not None:
            driver = subprocess.Popen(command, start_new_session=True)
    if driver.wait() != 0:
        subprocess.run(command, check=True)
    assert struck >= KILLS / 2
    pd.testing.assert_frame_equal(result(tmp_path), result(many_alone))
    assert not result(tmp_path).duplicated(["condition", "problem", "sample"]).any()


def decoded(out: Path) -> int:
    """Lines of responses that are there."""
    return sum(file.read_bytes().count(b"\n") for file in out.glob("responses/*/*.jsonl"))


def kill_some(driver: "subprocess.Popen[bytes]", out: Path, draw: random.Random) -> None:
    """Kill one worker, or the driver with all that it started."""
    try:
        started = psutil.Process(driver.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return
    workers = [*started, *jobs_of_slurm(out)]
    is_one = bool(workers) and draw.random() < 0.5
    for process in [draw.choice(workers)] if is_one else [*started, driver]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)
    if not is_one:
        driver.wait()


def jobs_of_slurm(out: Path) -> list[psutil.Process]:
    """Processes of this machine that do a job of submitit for a run, as Slurm starts them."""
    folder, found = str(out / "submitit"), []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "submitit.core._submit" in words and folder in words:
            found.append(process)
    return found


def test_units_of_a_run() -> None:
    units = units_of(SETTINGS)
    assert [(unit.condition, len(unit.ids)) for unit in units] == [("baseline", 4), ("stepflow", 4)]
    assert SETTINGS.selection("reasoner") == Selection(limit=4)
