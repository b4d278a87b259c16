"""What runs in the box: a program, then one call after the other. Read as text by `grading`.

Standard input is a JSON list of the arguments of each call. For each call one line of JSON goes to
what was standard output: ``{"value": ...}``, or ``{"error": name}`` of what was raised, at once,
so that what came before an endless loop is known. What the program itself writes goes to standard
error. Expected values are not in the box.

Seconds of the processor are limited here, and not by the clock on the wall: a busy machine makes
no program wrong.
"""

import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from typing import Any

LONGEST = 20_000
"""Characters of a value; a longer one is none of ours."""


def run_calls(program: str, name: str, seconds: int) -> None:
    """Run a program, then call one of its functions once for each list of arguments."""
    calls = json.loads(sys.stdin.read())
    report = os.dup(1)
    os.dup2(2, 1)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)
    names: dict[str, Any] = {"__name__": "program"}
    failure = _failure(lambda: exec(compile(program, "program.py", "exec"), names))
    for arguments in calls:
        line = failure or _called(names, name, arguments)
        os.write(report, (json.dumps(line) + "\n").encode())


def _called(names: dict[str, Any], name: str, arguments: list[Any]) -> dict[str, Any]:
    values: list[str] = []
    failure = _failure(lambda: values.append(json.dumps(_plain(names[name](*arguments)))))
    if failure is not None:
        return failure
    is_short = len(values[0]) <= LONGEST
    return {"value": json.loads(values[0]) if is_short else {"__not_json__": "long"}}


def _failure(function: Callable[[], object]) -> dict[str, Any] | None:
    try:
        function()
    except BaseException as error:
        return {"error": type(error).__name__}
    return None


def _plain(value: Any) -> Any:
    """A value in JSON types, tuples as lists; what is none of these equals nothing."""
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _plain(item) for key, item in value.items()}
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float) and value == value and abs(value) != float("inf"):
        return value
    return {"__not_json__": type(value).__name__}
