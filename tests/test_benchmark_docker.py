"""What a program in a container cannot do: the canaries of `test_benchmark_sandbox`, by docker.

One evaluation of inspect-ai with a sample, so a container, for each.
"""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from boxes import FILL, FORK_BOMB, require_box

from step_saliency.benchmark.sandbox import Limits, Outcome
from step_saliency.benchmark.sandbox.docker import Docker

inspect_ai = pytest.importorskip(
    "inspect_ai", reason="inspect-ai is not installed: step-saliency[benchmarks]"
)
solver = pytest.importorskip("inspect_ai.solver").solver
pytestmark = pytest.mark.nightly

LIMITS = Limits(seconds=15)
BETWEEN = "print('before', flush=True)\n{}\nprint('after', flush=True)"
KILLS = f"""
import os, signal
print("before", flush=True)
for target in (os.getppid(), 1, {os.getpid()}):
    try:
        os.kill(target, signal.SIGKILL)
    except OSError as error:
        print(type(error).__name__, flush=True)
print("alive", flush=True)
"""
PROCESSES = """
import glob, os
for place in glob.glob("/proc/[0-9]*"):
    for name in ("cmdline", "environ"):
        try:
            print(open(f"{place}/{name}", errors="replace").read())
        except OSError:
            pass
print(dict(os.environ))
"""
PLACES = ("/usr/canary", "/canary", "/etc/passwd", "/proc/sys/kernel/hostname", "/root/canary")
CALLS = (
    "socket.create_connection(('192.0.2.1', 80), 3)",
    "socket.getaddrinfo('localhost.example', 80)",
    "socket.socket(socket.AF_UNIX).connect('/run/docker.sock')",
)
PROGRAMS = {
    "sum": "import sys\nfor line in sys.stdin:\n    print(sum(map(int, line.split())))",
    "wrong": "1 / 0",
    "loop": BETWEEN.format("while True: pass"),
    "sleep": BETWEEN.format("import time; time.sleep(600)"),
    "forks": FORK_BOMB,
    "memory": BETWEEN.format("x = bytearray(10 * 2**30)"),
    "little memory": "x = bytearray(2**28)\nprint(len(x))",
    "file": FILL.format(place="/tmp/large"),
    "kills": KILLS,
    "processes": PROCESSES,
    "user": "import os\nprint('before', os.getuid(), flush=True)\nos.setuid(0)\nprint('after')",
    "long": f"table = [{'123456789,' * 20_000}]\nprint(len(table), input())",
    **{f"write {place}": BETWEEN.format(f"open({place!r}, 'w').write('x')") for place in PLACES},
    **{call: "import socket\n" + BETWEEN.format(call) for call in CALLS},
}


@solver
def boxed() -> Any:
    """Runs what a sample says in its container."""

    async def solve(state: Any, generate: Any) -> Any:
        outcome = await Docker().run(state.input_text, stdin="1 2\n3 4 5\n", limits=LIMITS)
        state.metadata["outcome"] = asdict(outcome)
        return state

    return solve


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """What became of each program."""
    box = require_box("docker")
    samples = [
        inspect_ai.dataset.Sample(input=program, id=name) for name, program in PROGRAMS.items()
    ]
    task = inspect_ai.Task(dataset=samples, solver=boxed(), sandbox=box.environment)
    logs = str(tmp_path_factory.mktemp("logs"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CANARY", "canary-secret")
        (log,) = inspect_ai.eval(
            task, model="mockllm/model", display="none", log_dir=logs, max_sandboxes=2
        )
    assert log.status == "success", log.error
    return {str(s.id): Outcome(**s.metadata["outcome"]) for s in log.samples or ()}


def refused(outcome: Outcome) -> None:
    """The program came to the point where it is stopped, and not past it."""
    assert "before" in outcome.stdout, outcome
    assert "after" not in outcome.stdout, outcome


def test_correct_programs_pass(outcomes: dict[str, Outcome]) -> None:
    assert outcomes["sum"] == Outcome("finished", "3\n12\n", "", status=0)
    assert outcomes["little memory"].stdout == f"{2**28}\n"
    assert outcomes["long"].stdout == "20000 1 2\n"


def test_a_wrong_program_says_why(outcomes: dict[str, Outcome]) -> None:
    assert outcomes["wrong"].ending == "failed"
    assert "ZeroDivisionError" in outcomes["wrong"].stderr


@pytest.mark.parametrize("name", ["loop", "sleep", "forks"])
def test_what_does_not_end_is_ended(outcomes: dict[str, Outcome], name: str) -> None:
    assert outcomes[name].ending == "time"


def test_large_memory_and_files_are_not_had(outcomes: dict[str, Outcome]) -> None:
    refused(outcomes["memory"])
    assert "MemoryError" in outcomes["memory"].stderr
    refused(outcomes["file"])
    assert 0 < int(outcomes["file"].stdout.split()[-1]) <= 65 * 2**20


@pytest.mark.parametrize("name", ["user", *CALLS, *(f"write {place}" for place in PLACES)])
def test_nothing_gets_out(outcomes: dict[str, Outcome], name: str) -> None:
    refused(outcomes[name])


def test_this_machine_is_not_seen(outcomes: dict[str, Outcome]) -> None:
    seen = outcomes["processes"]
    assert seen.ending == "finished"
    assert "PATH" in seen.stdout
    for word in ("canary-secret", "pytest", str(Path(__file__).parent)):
        assert word not in seen.stdout


def test_the_container_cannot_be_killed(outcomes: dict[str, Outcome]) -> None:
    assert "alive" in outcomes["kills"].stdout
