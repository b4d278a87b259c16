"""How a model's program is run in the box. This file is text that `programs` puts before it.

    script    the program as a main program that reads its standard input
    wrapped   as the benchmark's own runner does it: statements but imports become the body of a
              function, reading is patched, and so programs that use ``sys.stdin.buffer``,
              ``global`` or ``open(0)`` can fail that are right
    function  the function (or method of ``Solution``) is called with arguments; its value is
              written as JSON

In all of them the names that contests take for granted are there before. Expected outputs are not
in the box.
"""

import ast
import importlib
import io
import json
import os
import sys
import types
from contextlib import redirect_stdout, suppress
from unittest import mock

MODULES = """
string re datetime collections heapq bisect copy math random statistics itertools functools operator
io sys json builtins typing
""".split()  # noqa: SIM905
DEPTH = 50_000
DIGITS = 50_000
"""Longest whole number that is written or read, as in the benchmark's own runner."""


def prepared(name):  # type: ignore[no-untyped-def]
    """Names that programs find: all of `MODULES` as by ``import *``, then the modules."""
    names = {"__name__": name}
    for module in map(importlib.import_module, MODULES):
        public = getattr(module, "__all__", [key for key in vars(module) if key[0] != "_"])
        names.update({key: getattr(module, key) for key in public if hasattr(module, key)})
    names.update({module: importlib.import_module(module) for module in MODULES})
    sys.setrecursionlimit(DEPTH)
    if hasattr(sys, "set_int_max_str_digits"):
        sys.set_int_max_str_digits(DIGITS)
    return names


def run_script(program):  # type: ignore[no-untyped-def]
    exec(compile(program, "main.py", "exec"), prepared("__main__"))


def run_wrapped(program):  # type: ignore[no-untyped-def]
    given = sys.stdin.read()
    names = prepared("solution")
    exec(compile(_as_function(program), "main.py", "exec"), names)
    lines = iter(given.split("\n"))
    written = io.StringIO()
    with (
        redirect_stdout(written),
        mock.patch("builtins.open", mock.mock_open(read_data=given)),
        mock.patch("sys.stdin", io.StringIO(given)),
        mock.patch("sys.stdin.readline", side_effect=lambda *_: next(lines)),
        mock.patch("sys.stdin.readlines", return_value=given.split("\n")),
        mock.patch("sys.stdin.read", return_value=given),
        suppress(SystemExit),
    ):
        names["wrapped_function"]()
    print(written.getvalue(), end="")  # noqa: T201


def run_function(program, name):  # type: ignore[no-untyped-def]
    names = prepared("solution")
    arguments = [json.loads(line) for line in sys.stdin.read().split("\n")]
    result = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    exec(compile(program, "main.py", "exec"), names)
    call = getattr(names["Solution"](), name) if "class Solution" in program else names[name]
    value = call(*arguments)
    value = list(value) if isinstance(value, tuple) else value
    result.write(json.dumps(_plain(value)))
    result.close()


def _plain(value):  # type: ignore[no-untyped-def]
    """A value in JSON types; what is none, as a nested tuple, is marked and equals nothing."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if getattr(value, "shape", None) == () and hasattr(value, "item"):  # a number of numpy's
        return value.item()
    return {"__not_json__": repr(value)[:200]}


def _as_function(program):  # type: ignore[no-untyped-def]
    """The program with all statements but its imports in a function."""
    tree = ast.parse(program)
    last = tree.body[-1] if tree.body else None
    if isinstance(last, ast.If) and ast.unparse(last.test).strip() == "__name__ == '__main__'":
        tree.body[-1:] = last.body
    imports = [part for part in tree.body if isinstance(part, (ast.Import, ast.ImportFrom))]
    body = [part for part in tree.body if part not in imports] or [ast.Pass()]
    (function,) = ast.parse("def wrapped_function(): pass").body
    assert isinstance(function, ast.FunctionDef)
    function.body = body
    return "\n".join(map(ast.unparse, [*imports, function]))


sys.modules.setdefault("solution", types.ModuleType("solution"))
