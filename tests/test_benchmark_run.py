"""A run by the command: all parts together, broken off and taken up, by one worker or several."""

import importlib.util
import os
import random
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
from step_saliency.benchmark.scale.spread import spread
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


def test_processes_of_submitit_give_the_same_rows(alone: Path, tmp_path: Path) -> None:
    pytest.importorskip("submitit", reason="submitit is not installed")
    keep_settings(tmp_path, SETTINGS)
    spread(tmp_path, SETTINGS, workers=2, progress=False)
    assert open_units(tmp_path, SETTINGS) == []
    assert run_benchmark(tmp_path, SETTINGS, progress=False)
    pd.testing.assert_frame_equal(result(tmp_path), result(alone))
    kept = read_rows(tmp_path / "logs")
    assert len(kept) == len(result(alone))


@pytest.mark.nightly
def test_actors_of_ray_give_the_same_rows(alone: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: step-saliency[ray]")
    keep_settings(tmp_path, SETTINGS)
    spread(tmp_path, SETTINGS, workers=2, cluster="ray", progress=False)
    assert open_units(tmp_path, SETTINGS) == []
    assert run_benchmark(tmp_path, SETTINGS, progress=False)
    pd.testing.assert_frame_equal(result(tmp_path), result(alone))


@pytest.mark.nightly
@pytest.mark.parametrize("cluster", ["local", "ray"])
def test_random_kills_lose_and_double_nothing(alone: Path, tmp_path: Path, cluster: str) -> None:
    """Workers and driver are killed at random moments, and the same command is given again."""
    if importlib.util.find_spec("submitit" if cluster == "local" else "ray") is None:
        pytest.skip(f"what {cluster} needs is not installed")
    kills = int(os.environ.get("STEP_SALIENCY_KILLS", "3"))
    draw = random.Random(0)
    words = [*WORDS, "--out", str(tmp_path), "--workers", "2", "--cluster", cluster]
    command = [sys.executable, "-m", "step_saliency.cli", "benchmark", *words]
    for _ in range(kills):
        driver = subprocess.Popen(command, start_new_session=True)
        time.sleep(draw.uniform(5, 60))
        kill_one(driver.pid, draw)
        driver.wait()
    subprocess.run(command, check=True)
    pd.testing.assert_frame_equal(result(tmp_path), result(alone))


def kill_one(driver: int, draw: random.Random) -> None:
    """Kill the driver with all that it started, or a worker and then the driver."""
    try:
        processes = psutil.Process(driver).children(recursive=True)
    except psutil.NoSuchProcess:
        return
    if processes and draw.random() < 0.5:
        draw.choice(processes).kill()
        time.sleep(draw.uniform(0, 5))
    for process in [*processes, psutil.Process(driver)]:
        try:
            process.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue


def test_units_of_a_run() -> None:
    units = units_of(SETTINGS)
    assert [(unit.condition, len(unit.ids)) for unit in units] == [("baseline", 4), ("stepflow", 4)]
    assert SETTINGS.selection("reasoner") == Selection(limit=4)
