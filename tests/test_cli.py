"""The command line: argument parsing, speed of --help, exit codes."""

import subprocess
import sys
from pathlib import Path

import pytest

from step_saliency import cli


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


@pytest.mark.parametrize(
    ("text", "layers"), [("3", (3,)), ("0-2", (0, 1, 2)), ("0-1,5,7-8", (0, 1, 5, 7, 8))]
)
def test_layers(text: str, layers: tuple[int, ...]) -> None:
    assert cli._layers(text) == layers


def test_bad_arguments(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        cli.main(["map", "x.jsonl", "--out", "y", "--layers", "one"])
    assert "write something like 0-6,20" in capsys.readouterr().err
    absent = str(tmp_path / "absent.jsonl")
    assert cli.main(["map", absent, "--out", str(tmp_path / "out")]) == 2
    assert "there is no file" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert cli.main(["diagnose", str(tmp_path)]) == 2
    assert "no results folder" in capsys.readouterr().err
    assert cli.main(["doctor", str(tmp_path / "no-model")]) == 2
    assert "there is no folder" in capsys.readouterr().err
