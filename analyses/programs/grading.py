"""Programs of a model, graded by their tests, in a box and nowhere else.

    right     every call returns what the solution returns
    wrong     the first call that fails returns something else
    error     it raises, or the program does not run or does not define the function
    timeout   it takes longer than `SECONDS` of the processor for all calls, or `CLOCK` on the wall
    no code   there is no program in the answer

All calls of a program run in one box (`step_saliency.benchmark.sandbox`), values are compared
outside of it as JSON: tuples are lists, 2.0 is 2 and True is 1, as for Python's ``==``; a set or a
dictionary by numbers equals nothing that a test asks for.

When it misleads: tests are few, and a wrong program can pass them; a right one that is slow by
design counts as a timeout. A program that ends by the clock on the wall (it sleeps) may do so by a
machine that is busy beyond measure.
"""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import repeat
from pathlib import Path
from typing import Any, Literal

from analyses.programs import inside
from analyses.programs.problems import ProgramTest
from step_saliency.benchmark.sandbox import Bubblewrap, Limits, Outcome, SandboxError

Result = Literal["right", "wrong", "error", "timeout", "no code"]
RESULTS: tuple[Result, ...] = ("right", "wrong", "error", "timeout", "no code")
SECONDS = 2
CLOCK = 60
POOL = 2
KILLED = {128 + 24, 128 + 9}
"""Exit status of a box whose program met the limits of the processor."""


@dataclass(frozen=True)
class Graded:
    """How a program did.

    Attributes:
        result: See the module docstring; the first call that fails names it.
        failed: Number of this call, from 0; None where the program is right or there is none.
        raised: Name of what it raised, for an ``"error"``.
    """

    result: Result
    failed: int | None = None
    raised: str | None = None


def working_box() -> Bubblewrap:
    """The box in which programs run.

    Raises:
        ValueError: none works here.
    """
    try:
        return Bubblewrap.probe()
    except SandboxError as error:
        raise ValueError(
            "programs that a model wrote are run in a bubblewrap box only, and none works here "
            f"({error}); run this on Linux with bubblewrap installed and user namespaces allowed"
        ) from error


def grade_all(
    programs: Sequence[str | None],
    functions: Sequence[str],
    tests: Sequence[Sequence[ProgramTest]],
    box: Bubblewrap,
) -> list[Graded]:
    """Grade programs, some at a time, each in a box of its own.

    Args:
        programs: Their texts; None where an answer has none.
        functions: Names of the functions.
        tests: Calls of each.
        box: From `working_box`.

    Raises:
        SandboxError: a box could not be made.
    """
    with ThreadPoolExecutor(POOL) as pool:
        return list(pool.map(grade, programs, functions, tests, repeat(box)))


def grade(
    program: str | None, function: str, tests: Sequence[ProgramTest], box: Bubblewrap
) -> Graded:
    """Grade one program; as `grade_all`."""
    if program is None:
        return Graded("no code")
    outcome = box.run_now(
        boxed(program, function),
        stdin=json.dumps([test.arguments for test in tests]),
        limits=Limits(seconds=CLOCK),
    )
    return judged(outcome, tests)


def boxed(program: str, function: str) -> str:
    """What runs in the box."""
    # The program stands there as a text; surrogates cannot be written to a file.
    source = ascii(program.encode("utf-8", "replace").decode("utf-8"))
    return f"{_inside()}\nrun_calls({source}, {function!r}, {SECONDS})\n"


def judged(outcome: Outcome, tests: Sequence[ProgramTest]) -> Graded:
    """What the lines that a program's calls left say of it."""
    lines = outcome.stdout.split("\n")[:-1]
    for number, test in enumerate(tests):
        line = _read(lines[number]) if number < len(lines) else None
        if line is None:
            is_late = outcome.ending == "time" or outcome.status in KILLED
            return Graded("timeout" if is_late else "error", number, None if is_late else "Exit")
        if "value" not in line:
            return Graded("error", number, str(line.get("error")))
        if line["value"] != test.value:
            return Graded("wrong", number)
    return Graded("right")


def _read(line: str) -> dict[str, Any] | None:
    """A line of the report; None for one that is none, as of a program that writes there itself."""
    try:
        read = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return read if isinstance(read, dict) else None


@lru_cache(maxsize=1)
def _inside() -> str:
    return Path(inside.__file__).read_text(encoding="utf-8")
