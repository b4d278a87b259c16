"""Programs of contests: found in a response, run in a box, judged by tests."""

import asyncio
from typing import Any

import pytest
from test_benchmark_suites import code_record

from step_saliency.benchmark.sandbox import Bubblewrap, Limits, SandboxError
from step_saliency.benchmark.suites.grading import grade_program
from step_saliency.benchmark.suites.item import Item
from step_saliency.benchmark.suites.livecodebench.judge import (
    Verdict,
    judge,
    same_output,
    same_value,
)
from step_saliency.benchmark.suites.livecodebench.programs import program_in
from step_saliency.benchmark.suites.livecodebench.tests import CodeTest, CodeTests

SUM = CodeTests((CodeTest("1 2\n", "3\n", "stdin"), CodeTest("4 5\n", "9\n", "stdin")))
CALL = CodeTests(
    (CodeTest("[1, 2]\n3", "[4, 5]", "functional"), CodeTest("[]\n1", "[]", "functional")),
    function="shift",
)
LIMITS = Limits(seconds=20)


@pytest.fixture(scope="module")
def box() -> Bubblewrap:
    try:
        return Bubblewrap.probe()
    except SandboxError as error:
        pytest.skip(str(error))


def verdict(program: str, tests: CodeTests, box: Any, limits: Limits = LIMITS) -> Verdict:
    return asyncio.run(judge(program, tests, box, limits))


@pytest.mark.parametrize(
    ("program", "wrapped"),
    [
        ("a, b = map(int, input().split())\nprint(a + b)", True),
        ("import sys\nprint(sum(map(int, sys.stdin.read().split())))", True),
        ("import sys\nprint(sum(map(int, sys.stdin.readline().split())))", True),
        ("def main():\n    print(sum(map(int, input().split())))\n"
         "if __name__ == '__main__':\n    main()", True),
        ("from typing import List\nprint(sum(map(int, input().split())))\nexit()", True),
        ("print(reduce(operator.add, map(int, input().split())))", True),  # names of contests
        ("import sys\nprint(sum(map(int, sys.stdin.buffer.read().split())))", False),
        ("total = 0\ndef add():\n    global total\n    total += sum(map(int, input().split()))\n"
         "add()\nprint(total)", False),
    ],
)  # fmt: skip
def test_right_programs(box: Bubblewrap, program: str, wrapped: bool) -> None:
    """All pass as main programs; some that are right do not by the benchmark's own runner."""
    of = verdict(program, SUM, box)
    assert of.is_correct_as_script is True, of
    assert of.is_correct is wrapped, of


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("print(3)", "test 1: another output"),
        ("print(sum(map(int, input().split())) + 1)", "test 0: another output"),
        ("print(1 / 0)", "ZeroDivisionError"),
        ("print(", "SyntaxError"),
        ("import sys\nsys.exit(3)", "test 0"),
        ("print('3', flush=True)\nimport os\nos._exit(0)", "test"),
    ],
)
def test_wrong_programs(box: Bubblewrap, program: str, reason: str) -> None:
    of = verdict(program, SUM, box)
    assert not of.is_correct
    assert not of.is_correct_as_script
    assert reason in of.failures["script"]


def test_a_program_that_does_not_end(box: Bubblewrap) -> None:
    of = verdict("while True: pass", SUM, box, Limits(seconds=1))
    assert of.failures["script"] == "test 0: time limit"


@pytest.mark.parametrize(
    ("body", "is_right"),
    [
        ("return [x + by for x in values]", True),
        ("import numpy as np\n        return [np.int64(x + by) for x in values]", True),
        ("import numpy as np\n        return [np.int64(x - by) for x in values]", False),
        ("print('noise')\n        return [x + by for x in values]", True),
        ("return tuple(x + by for x in values)", True),
        ("return [x - by for x in values]", False),
        ("return [(x + by,) for x in values]", False),
        ("return {1, 2}", False),
        ("return None", False),
    ],
)
def test_functions(box: Bubblewrap, body: str, is_right: bool) -> None:
    head = (
        "class Solution:\n    def shift(self, values: List[int], by: int) -> List[int]:\n        "
    )
    assert verdict(head + body, CALL, box).is_correct is is_right


def test_a_function_without_a_class(box: Bubblewrap) -> None:
    assert verdict("def shift(v, by):\n    return [x + by for x in v]", CALL, box).is_correct
    missing = verdict("def other(v, by):\n    return v", CALL, box)
    assert "shift" in missing.failures["function"]


def test_long_whole_numbers(box: Bubblewrap) -> None:
    long = "1" + "0" * 5000
    stdin = CodeTests((CodeTest(long, long, "stdin"),))
    assert verdict("print(int(input()))", stdin, box).passed == {"wrapped": True, "script": True}
    call = CodeTests((CodeTest(long, f"[{long}]", "functional"),), function="f")
    assert verdict("def f(n):\n    return [n]", call, box).is_correct
    assert not verdict("def f(n):\n    return [n + 1]", call, box).is_correct


def test_expected_outputs_are_not_in_the_box(box: Bubblewrap) -> None:
    secret = CodeTests((CodeTest("x\n", "canary-7391\n", "stdin"),))
    program = (
        "import glob, os\ntexts = [str(dict(os.environ)), str(globals())]\n"
        "for place in glob.glob('/**', recursive=False) + glob.glob('/program/*') "
        "+ glob.glob('/tmp/*') + glob.glob('/proc/self/*'):\n"
        "    try:\n        texts.append(open(place).read(100000))\n"
        "    except (OSError, UnicodeDecodeError):\n        pass\n"
        "print('canary-' + '7391' if any('canary-' + '7391' in t for t in texts) else 'none')"
    )
    assert not verdict(program, secret, box).is_correct_as_script


@pytest.mark.parametrize(
    ("ours", "theirs", "same"),
    [
        ("1 2\n3\n", "1 2\n3", True),
        ("1.0 2\n", "1 2.00", True),
        ("  a \n", "a", True),
        ("1\n\n2", "1\n2", False),
        ("50000000000000001", "50000000000000000", False),
        ("0.1", "0.10001", False),
        ("yes", "YES", False),
        ("", "", True),
        ("sNaN", "1", False),
    ],
)
def test_outputs(ours: str, theirs: str, same: bool) -> None:
    assert same_output(ours, theirs) is same


def test_values() -> None:
    assert same_value("[1, 2]", "[1,2]")
    assert same_value("1.0", "1")
    assert not same_value("", "null")
    assert not same_value("[1, [2]]", "[1, 2]")
    assert same_value("true", "true")
    assert not same_value("[" * 100_000 + "]" * 100_000, "[]")
    long = "1" + "0" * 5000
    assert same_value(long, long)
    assert same_value(f"[{long}, 1]", f"[{long},1]")
    assert not same_value(f"[{long}, 1]", f"[{long[:-1]}1,1]")


@pytest.mark.parametrize(
    ("text", "program"),
    [
        ("Here:\n```python\nprint(1)\n```\nDone.", "print(1)"),
        ("First:\n```python\nprint(1)\n```\nBetter:\n```\nprint(2)\n```", "print(2)"),
        ("1. so\n   ```python\n   if a:\n       b\n   ```", "if a:\n    b"),
        ("```python\nprint(1)", None),
        ("print(1)", None),
    ],
)
def test_the_program_of_a_response(text: str, program: str | None) -> None:
    assert program_in(text) == program


def test_grading_of_responses(box: Bubblewrap) -> None:
    item = Item("a", "q", "", hidden=code_record())
    program = "print(sum(map(int, input().split())))"
    right = f"<think>```python\nprint(0)\n```</think>\n```python\n{program}\n```"
    graded = asyncio.run(grade_program(right, item, box))
    assert graded.is_correct is True
    assert graded.facts["passed"] == {"wrapped": True, "script": True}
    thought = f"<think>```python\n{program}\n```</think>\nNo idea."
    assert asyncio.run(grade_program(thought, item, box)).is_correct is None


def test_a_broken_box_judges_nobody() -> None:
    """That the box failed is an error of the run, not of the program."""
    try:
        Bubblewrap.probe()
    except SandboxError as error:
        pytest.skip(str(error))
    with pytest.raises(SandboxError):
        verdict("print(3)", SUM, Bubblewrap("/usr/bin/no-such-python"))
