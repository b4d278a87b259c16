"""What a program in a box cannot do, one canary each; and that a correct program passes."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType, SimpleNamespace

import psutil
import pytest
from boxes import FILL, FORK_BOMB, require_box

from step_saliency.benchmark.sandbox import Bubblewrap, Limits, Outcome, SandboxError, bubblewrap
from step_saliency.benchmark.sandbox.bubblewrap import _probe
from step_saliency.benchmark.sandbox.docker import Docker


@pytest.fixture(scope="module")
def box() -> Bubblewrap:
    found = require_box("bubblewrap")
    assert isinstance(found, Bubblewrap)
    return found


LIMITS = Limits(seconds=10)


def children() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def run(box: Bubblewrap, program: str, stdin: str = "", limits: Limits = LIMITS) -> Outcome:
    return box.run_now(program, stdin=stdin, limits=limits)


def refused(outcome: Outcome) -> None:
    """The program came to the point where it is stopped, and not past it."""
    assert "before" in outcome.stdout, outcome
    assert "after" not in outcome.stdout, outcome


def test_a_correct_program_passes(box: Bubblewrap) -> None:
    program = "import sys\nfor line in sys.stdin:\n    print(sum(map(int, line.split())))"
    outcome = run(box, program, "1 2\n3 4 5\n")
    assert (outcome.ending, outcome.stdout, outcome.status) == ("finished", "3\n12\n", 0)


@pytest.mark.parametrize(
    "read",
    ["sys.stdin.buffer.read().decode()", "open(0).read()", "input() + '\\n'", "sys.stdin.read()"],
)
def test_every_way_of_reading_the_input(box: Bubblewrap, read: str) -> None:
    assert run(box, f"import sys\nprint({read} == 'ä b\\n')", "ä b\n").stdout == "True\n"


def test_what_a_program_may_use_is_there(box: Bubblewrap) -> None:
    program = """
import collections, heapq, math, threading
open("note", "w").write("kept")
worker = threading.Thread(target=lambda: print(open("note").read()))
worker.start(); worker.join()
"""
    assert run(box, program).stdout == "kept\n"


def test_a_wrong_program_says_why(box: Bubblewrap) -> None:
    outcome = run(box, "1 / 0")
    assert outcome.ending == "failed"
    assert outcome.status == 1
    assert "ZeroDivisionError" in outcome.stderr


@pytest.mark.parametrize("loop", ["while True: pass", "import time; time.sleep(600)"])
def test_an_endless_loop_is_ended(box: Bubblewrap, loop: str) -> None:
    started = time.monotonic()
    outcome = run(
        box, f"print('before', flush=True)\n{loop}\nprint('after')", limits=Limits(seconds=1)
    )
    assert outcome.ending == "time"
    assert time.monotonic() - started < 30
    refused(outcome)


def test_a_fork_bomb_ends_with_its_box(box: Bubblewrap) -> None:
    before = {each.pid for each in children()}  # graders of other tests live on
    with ThreadPoolExecutor() as threads:
        running = threads.submit(run, box, FORK_BOMB, "", Limits(seconds=12, processes=8))
        processes: list[psutil.Process] = []
        while len(processes) <= 3 and not running.done():
            time.sleep(0.2)
            processes = [each for each in children() if each.pid not in before]
        outcome = running.result()
    assert outcome.ending == "time"
    assert 1 < int(outcome.stdout.split()[-1]) < 8
    assert len(processes) > 3  # there was something to end
    assert psutil.wait_procs(processes, timeout=30)[1] == []


def test_ten_gigabytes_of_memory_are_not_had(box: Bubblewrap) -> None:
    outcome = run(box, "print('before', flush=True)\nx = bytearray(10 * 2**30)\nprint('after')")
    refused(outcome)
    assert "MemoryError" in outcome.stderr


def test_memory_below_the_limit_is_had(box: Bubblewrap) -> None:
    assert run(box, "x = bytearray(2**28)\nprint(len(x))").stdout == f"{2**28}\n"


def test_ten_gigabytes_of_a_file_are_not_written(box: Bubblewrap) -> None:
    outcome = run(box, FILL.format(place="/tmp/large"))
    refused(outcome)
    assert 0 < int(outcome.stdout.split()[-1]) <= 17 * 2**20


def test_many_files_do_not_get_past_the_limit_either(box: Bubblewrap) -> None:
    program = """
print("before", flush=True)
written = 0
for number in range(1000):
    with open(f"/tmp/{number}", "wb", buffering=0) as file:
        written += file.write(bytes(2**23))
        if written > 2**27: print("after", flush=True)
"""
    outcome = run(box, program)
    refused(outcome)
    assert "No space left" in outcome.stderr


def test_endless_output_is_cut(box: Bubblewrap) -> None:
    outcome = run(box, "while True: print('x' * 1000)", limits=Limits(seconds=10, file_bytes=2**20))
    assert outcome.ending == "failed"
    assert len(outcome.stdout) <= 2**20


@pytest.mark.parametrize(
    "place",
    ["/usr/canary", "/canary", "/program/canary", "/program/main.py", "/dev/shm/canary",
     "/etc/passwd", "/proc/sys/kernel/hostname", "/packages/canary", str(Path.home() / "canary")],
)  # fmt: skip
def test_nothing_is_written_outside(box: Bubblewrap, place: str) -> None:
    program = f"print('before', flush=True)\nopen({place!r}, 'w').write('x')\nprint('after')"
    refused(run(box, program))


def test_files_of_this_machine_are_not_read(box: Bubblewrap, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("canary")
    secret.chmod(0o644)
    for place in (secret, Path(__file__), Path("/etc/shadow"), Path("/etc/hostname")):
        refused(run(box, f"print('before', flush=True)\nopen({str(place)!r})\nprint('after')"))


def test_another_box_leaves_nothing_behind(box: Bubblewrap) -> None:
    assert run(box, "open('/tmp/left', 'w').write('x')").ending == "finished"
    assert run(box, "import os; print(os.listdir('/tmp'))").stdout == "[]\n"


@pytest.fixture
def listening() -> Iterator[int]:
    """A port of this machine that answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        yield server.getsockname()[1]


def test_no_socket_reaches_this_machine(box: Bubblewrap, listening: int) -> None:
    connect = "import socket; socket.create_connection(('127.0.0.1', {}), 3)"
    subprocess.run([sys.executable, "-c", connect.format(listening)], check=True)  # it does answer
    program = f"print('before', flush=True)\n{connect.format(listening)}\nprint('after')"
    refused(run(box, program))


def test_no_socket_of_a_name_or_beyond(box: Bubblewrap) -> None:
    for call in (
        "socket.create_connection(('192.0.2.1', 80), 3)",
        "socket.getaddrinfo('localhost.example', 80)",
        "socket.socket(socket.AF_UNIX).connect('/run/docker.sock')",
    ):
        refused(run(box, f"import socket\nprint('before', flush=True)\n{call}\nprint('after')"))


def test_the_environment_is_not_read(box: Bubblewrap, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY", "canary-secret")
    program = """
import glob, os
seen = [repr(dict(os.environ))]
for place in glob.glob("/proc/[0-9]*/environ"):
    try:
        seen.append(open(place, errors="replace").read())
    except OSError:
        pass
print("\\n".join(seen))
"""
    outcome = run(box, program)
    assert outcome.ending == "finished"
    assert "HOME" in outcome.stdout
    assert "canary" not in outcome.stdout.lower()


def test_processes_of_others_are_not_seen(box: Bubblewrap) -> None:
    program = "import os; print(sorted(int(p) for p in os.listdir('/proc') if p.isdigit()))"
    numbers = eval(run(box, program).stdout)
    assert 0 < len(numbers) <= 3
    assert max(numbers) < 10  # a numbering of its own
    commands = "import glob\nfor p in glob.glob('/proc/[0-9]*/cmdline'): print(open(p).read())"
    assert str(Path(__file__).parent) not in run(box, commands).stdout
    assert "pytest" not in run(box, commands).stdout


def test_the_parent_cannot_be_killed(box: Bubblewrap) -> None:
    program = f"""
import os, signal, time
print("before", flush=True)
for target in (os.getppid(), 1, {os.getpid()}, -1):
    try:
        os.kill(target, signal.SIGKILL)
    except OSError as error:
        print(type(error).__name__, flush=True)
time.sleep(0.2)
print("alive", flush=True)
"""
    outcome = run(box, program)
    assert "before" in outcome.stdout
    assert outcome.ending in ("finished", "failed")
    assert psutil.pid_exists(os.getpid())
    assert run(box, "print(1)").stdout == "1\n"


def test_no_mounting_or_new_namespaces(box: Bubblewrap) -> None:
    program = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
NEW_USER, NEW_NET = 0x10000000, 0x40000000
print("before", flush=True)
for call in (lambda: libc.unshare(NEW_USER), lambda: libc.unshare(NEW_NET),
             lambda: libc.mount(b"none", b"/tmp", b"tmpfs", 0, None),
             lambda: libc.setuid(0)):
    if call() == 0:
        print("after")
"""
    outcome = run(box, program)
    assert outcome.ending == "finished"
    refused(outcome)


def test_no_user_can_be_become(box: Bubblewrap) -> None:
    program = "import os\nprint('before', os.getuid(), flush=True)\nos.setuid(0)\nprint('after')"
    outcome = run(box, program)
    refused(outcome)
    assert int(outcome.stdout.split()[1]) != 0


def test_boxes_at_the_same_time_do_not_share_limits(box: Bubblewrap) -> None:
    program = """
import os
children = [os.fork() for _ in range(1)]
if 0 in children:
    os._exit(0)
for child in children:
    os.waitpid(child, 0)
print(input())
"""

    async def many() -> list[Outcome]:
        tight = Limits(seconds=60, processes=4)
        runs = (box.run(program, stdin=f"{i}\n", limits=tight) for i in range(16))
        return await asyncio.gather(*runs)

    assert [outcome.stdout for outcome in asyncio.run(many())] == [f"{i}\n" for i in range(16)]


def test_a_box_ends_with_the_process_that_made_it(box: Bubblewrap) -> None:
    program = (
        "from step_saliency.benchmark.sandbox import Bubblewrap, Limits\n"
        f"box = Bubblewrap({box.interpreter!r}, {box.folders!r})\n"
        "box.run_now('import time; time.sleep(600)', limits=Limits(seconds=600))"
    )
    process = subprocess.Popen([sys.executable, "-c", program])
    children: list[psutil.Process] = []
    for _ in range(600):
        children = psutil.Process(process.pid).children(recursive=True)
        if len(children) > 1:
            break
        time.sleep(0.1)
    assert len(children) > 1
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert psutil.wait_procs(children, timeout=30)[1] == []


def test_a_box_that_is_not_made_is_no_wrong_program() -> None:
    broken = Bubblewrap("/usr/bin/no-such-python")
    if isinstance(_probe(), str):
        pytest.skip("bubblewrap does not work here")
    with pytest.raises(SandboxError, match="box could not be made"):
        broken.run_now("print(1)")


def test_a_box_that_starts_late_is_no_wrong_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """It names the time; a box that starts within it leaves its program all of its own time."""
    monkeypatch.setattr(bubblewrap, "START", 0.1)
    with pytest.raises(SandboxError, match=r"could not be made: it was not ready after 0\.1 sec"):
        run(Scripted("sleep 5"), "")
    monkeypatch.setattr(bubblewrap, "START", 10.0)
    late = Scripted("sleep 0.4; printf ready >&$1; sleep 0.2; echo done")
    assert run(late, "", limits=Limits(seconds=0.4)).stdout == "done\n"
    with pytest.raises(SandboxError, match="could not be made: no such user"):
        run(Scripted("echo no such user >&2"), "")


class Scripted(Bubblewrap):
    """A box that is a shell script, whose argument is the descriptor to report on."""

    def __init__(self, script: str) -> None:
        super().__init__("/bin/bash")
        object.__setattr__(self, "script", script)

    def _command(self, main: int, report: int, limits: Limits) -> list[str]:  # noqa: ARG002
        return ["/bin/bash", "-c", self.script, "bash", str(report)]  # type: ignore[attr-defined]


def test_boxes_wait_for_a_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two programs on one processor do not run at the same time."""
    monkeypatch.setattr(bubblewrap, "BOXES", threading.BoundedSemaphore(1))
    box = Scripted("date +%s%N; printf ready >&$1; sleep 0.2; date +%s%N")
    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(lambda _: run(box, ""), range(2)))
    (_, first_end), (second_start, _) = sorted(
        [int(time) for time in outcome.stdout.split()] for outcome in outcomes
    )
    assert first_end <= second_start


def test_bubblewrap_is_run_from_where_it_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/opt/own/{name}")
    assert Bubblewrap("python3")._command(3, 4, LIMITS)[0] == "/opt/own/bwrap"


class Container:
    """What inspect-ai hands out, run here; the program is one of this test."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    async def exec(self, command: list[str], *, input: str, **_: object) -> SimpleNamespace:  # noqa: A002
        if self.error is not None:
            raise self.error
        done = subprocess.run(
            [sys.executable, *command[1:]], input=input, capture_output=True, text=True, check=False
        )
        return SimpleNamespace(returncode=done.returncode, stdout=done.stdout, stderr=done.stderr)


class OutputLimitExceededError(Exception):
    """As inspect-ai names it."""


def in_container(
    monkeypatch: pytest.MonkeyPatch, program: str, stdin: str, error: Exception | None = None
) -> Outcome:
    util = ModuleType("inspect_ai.util")
    vars(util).update(
        sandbox=lambda: Container(error), OutputLimitExceededError=OutputLimitExceededError
    )
    monkeypatch.setitem(sys.modules, "inspect_ai.util", util)
    monkeypatch.setitem(sys.modules, "inspect_ai", ModuleType("inspect_ai"))
    limits = Limits(seconds=20, memory=4 * 1024**3)
    return asyncio.run(Docker().run(program, stdin=stdin, limits=limits))


def test_a_container_takes_long_programs_and_their_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is longer than an argument of a command may be."""
    program = f"table = [{'123456789,' * 20_000}]\nprint(len(table), input())"
    outcome = in_container(monkeypatch, program, "5 ä\n")
    assert (outcome.ending, outcome.stdout) == ("finished", "20000 5 ä\n"), outcome


@pytest.mark.parametrize(
    "error",
    [UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"), OutputLimitExceededError("10 MiB")],
)
def test_output_that_a_container_cannot_read_is_the_programs_fault(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    outcome = in_container(monkeypatch, "", "", error)
    assert outcome.ending == "failed"
    with pytest.raises(SandboxError, match="the container failed: gone"):
        in_container(monkeypatch, "", "", RuntimeError("gone"))


def test_without_bubblewrap_it_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    _probe.cache_clear()
    try:
        with pytest.raises(SandboxError, match="not installed"):
            Bubblewrap.probe()
    finally:
        _probe.cache_clear()


@pytest.mark.parametrize("bad", [{"seconds": 0}, {"memory": -1}, {"processes": 0}])
def test_limits_are_positive(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        Limits(**bad)  # type: ignore[arg-type]


def test_many_threads_may_use_boxes(box: Bubblewrap) -> None:
    outputs: dict[int, str] = {}

    def one(number: int) -> None:
        outputs[number] = run(box, f"print({number})").stdout

    threads = [threading.Thread(target=one, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outputs == {i: f"{i}\n" for i in range(6)}
