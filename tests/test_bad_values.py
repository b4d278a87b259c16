"""Values that are none are refused in Python as at the command line, in one line."""

import json
import subprocess
import sys
from pathlib import Path


def test_bad_values_are_value_errors() -> None:
    program = Path(__file__).with_name("bad_values.py")
    run = subprocess.run(
        [sys.executable, program], capture_output=True, text=True, check=False, timeout=300
    )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == {}
