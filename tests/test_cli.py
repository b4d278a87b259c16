"""The command line: argument parsing, speed of --help, exit codes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers.utils import logging

from step_saliency import cli
from step_saliency.benchmark.scale.failed import WorkerError
from step_saliency.runs import map_file as runs
from step_saliency.runs.run_report import RunReport
from step_saliency.runs.settings import MapSettings


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from step_saliency import cli\n"
        "try:\n"
        "    cli.main(['--help'])\n"
        "except SystemExit:\n"
        "    pass\n"
        "heavy = {'torch', 'transformers', 'transformer_lens', 'pandas', 'matplotlib', 'numpy'}\n"
        "sys.exit(len(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in ("map", "diagnose", "report", "doctor", "demo"):
        assert command in done.stdout


def test_the_package_alone_loads_no_torch() -> None:
    code = "import sys, step_saliency; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_settings_are_those_of_the_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: list[MapSettings] = []

    def no_run(_: Path, out: Path, settings: MapSettings, **__: object) -> RunReport:
        calls.append(settings)
        return RunReport(out, done=1)

    monkeypatch.setattr(runs, "map_file", no_run)
    command = ["map", "x.jsonl", "--out", str(tmp_path)]
    changes = ["--n", "3", "--pool", "mass", "--no-figures", "--layers", "1-2", "--system", "s"]
    assert cli.main(command) == cli.main([*command, *changes]) == 0
    assert calls[0] == MapSettings()
    assert calls[1] == MapSettings(n=3, pool="mass", figures=False, layers=(1, 2), system="s")
    assert cli.main([*command, "--n", "0"]) == 2


@pytest.mark.parametrize(
    ("text", "layers"), [("3", (3,)), ("0-2", (0, 1, 2)), ("0-1,5,7-8", (0, 1, 5, 7, 8))]
)
def test_layers(text: str, layers: tuple[int, ...]) -> None:
    assert cli._layers(text) == layers


def test_bad_arguments(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        cli.main(["map", "x.jsonl", "--out", "y", "--layers", "one"])
    assert "write something like 0-6,20" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["map", "x.jsonl", "--out", "y", "--layers", "0-1000000000000"])
    assert "write something like 0-6,20" in capsys.readouterr().err
    absent = str(tmp_path / "absent.jsonl")
    assert cli.main(["map", absent, "--out", str(tmp_path / "out")]) == 2
    assert "there is no file" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert cli.main(["diagnose", str(tmp_path)]) == 2
    assert "no results folder" in capsys.readouterr().err
    for command in ("diagnose", "figures", "report"):
        assert cli.main([command, str(tmp_path / "runs")]) == 2
        assert f"there is no folder {tmp_path / 'runs'}" in capsys.readouterr().err
    (tmp_path / "notes.txt").write_text("mine")
    assert cli.main(["diagnose", str(tmp_path / "notes.txt")]) == 2
    assert "notes.txt is a file; a results folder" in capsys.readouterr().err
    assert cli.main(["demo", "--n-problems", "0", "--out", str(tmp_path / "demo")]) == 2
    assert "--n-problems 0 is below 1" in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()
    assert cli.main(["doctor", str(tmp_path / "no-model")]) == 2
    assert "there is no folder" in capsys.readouterr().err


def test_fields_of_rows_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: list[MapSettings] = []

    def no_run(_: Path, out: Path, settings: MapSettings, **__: object) -> RunReport:
        calls.append(settings)
        return RunReport(out, done=1)

    monkeypatch.setattr(runs, "map_file", no_run)
    command = ["map", "x.jsonl", "--out", str(tmp_path), "--field", "question=a.b,response=c"]
    assert cli.main([*command, "--field", "gold=d", "--answer"]) == 0
    assert calls[0].fields == {"question": "a.b", "response": "c", "gold": "d"}
    assert calls[0].answer is True


@pytest.mark.parametrize("field", ["question", "quest=a", "gold=", "gold=a,gold=b"])
def test_a_field_that_cannot_be_understood_is_refused(
    field: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["map", "x.jsonl", "--out", str(tmp_path / "out"), "--field", field]
    assert cli.main(command) == 2
    assert "--field" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_fault_of_the_program_says_where_to_report_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def faulty(*_: object, **__: object) -> RunReport:
        raise KeyError("ours")

    monkeypatch.setattr(runs, "map_file", faulty)
    assert cli.main(["map", "x.jsonl", "--out", str(tmp_path)]) == 1
    printed = capsys.readouterr().err
    assert "Traceback" in printed
    assert "fault of the program" in printed


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "--batch-size"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "--dtype bfloat16"),
        (WorkerError("a worker failed: no such card"), "a worker failed: no such card"),
    ],
)
def test_want_of_memory_and_failed_workers_are_no_faults_of_the_program(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    advice: str,
) -> None:
    def failing(*_: object, **__: object) -> RunReport:
        raise error

    monkeypatch.setattr(runs, "map_file", failing)
    assert cli.main(["map", "x.jsonl", "--out", str(tmp_path)]) == 1
    printed = capsys.readouterr().err
    assert advice in printed
    assert str(error) in printed
    assert "the same command goes on where it was" in printed
    assert "Traceback" not in printed
    assert "fault of the program" not in printed


def test_commands_that_go_on_where_they_were_say_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "map_file", stopped)
    monkeypatch.setattr(cli, "_doctor", stopped)
    assert cli.main(["map", "x.jsonl", "--out", str(tmp_path)]) == 130
    assert capsys.readouterr().err.endswith("stopped; the same command goes on where it was\n")
    assert cli.main(["doctor", "reasoner"]) == 130
    assert capsys.readouterr().err == "step-saliency: stopped\n"


def test_a_folder_that_cannot_be_written_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> RunReport:
        raise OSError(28, "No space left on device", str(tmp_path))

    monkeypatch.setattr(runs, "map_file", full)
    assert cli.main(["map", "x.jsonl", "--out", str(tmp_path)]) == 2
    printed = capsys.readouterr().err
    assert "No space left" in printed
    assert printed.count("\n") == 1


@pytest.mark.parametrize("quiet", [True, False])
def test_quiet_means_the_bars_of_loading_too(
    quiet: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shown: list[bool] = []

    def run(*_: object, **__: object) -> RunReport:
        shown.append(logging.is_progress_bar_enabled())
        return RunReport(tmp_path, done=1)

    monkeypatch.setattr(runs, "map_file", run)
    before = logging.is_progress_bar_enabled()
    flags = ["--quiet"] if quiet else []
    assert cli.main(["map", "x.jsonl", "--out", str(tmp_path), *flags]) == 0
    assert shown == [before and not quiet]
    assert logging.is_progress_bar_enabled() == before


@pytest.mark.parametrize(
    ("arguments", "unbuffered"),
    [(["figures", "run"], ""), (["figures", "run"], "1"), (["figures", "--help"], "")],
)
def test_a_reader_that_leaves_ends_the_command_in_silence(
    arguments: list[str], unbuffered: str
) -> None:
    """As in ``step-saliency figures RUN | head -1``: no traceback, no complaint at the end."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = printing(arguments, writing, unbuffered)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_cannot_be_written_is_one_line(unbuffered: str) -> None:
    with Path("/dev/full").open("w") as full:
        done = printing(["figures", "run"], full.fileno(), unbuffered)
    assert done.returncode == 2
    assert "No space left" in done.stderr
    assert done.stderr.count("\n") == 1


def printing(arguments: list[str], out: int, unbuffered: str) -> "subprocess.CompletedProcess[str]":
    """Run a command that prints a line into a file."""
    code = (
        "import sys\nfrom step_saliency import cli\n"
        f"cli._figures = lambda arguments: print('much') or 0\nsys.exit(cli.main({arguments}))"
    )
    return subprocess.run(
        [sys.executable, "-c", code],
        stdout=out,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    )


def test_a_broken_pipe_elsewhere_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(arguments: object) -> int:
        raise BrokenPipeError("the worker has gone")

    monkeypatch.setattr(cli, "_figures", run)
    assert cli.main(["figures", "run"]) == 2
    assert "the worker has gone" in capsys.readouterr().err
