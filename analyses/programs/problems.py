"""Small Python problems of our own: statement, reference solution, tests.

``make_programs(n, seed)`` gives n different problems, balanced over the kinds (`kinds`): each block
of as many problems as there are kinds has every kind once, in an order of its own. The expected
values are those of the reference solution, which a second one, written apart from it, is held
against in the tests of this package.

As rows of a file (`ProgramProblem.row`) they have the fields

    question, answer    statement; reference solution in a fence
    function, tests     name of the function; [{"arguments": [...], "value": ...}, ...]
    kind, level         what and how hard

and any file with ``question``, ``answer``, ``function`` and ``tests`` can be asked in their place.

When it misleads: problems of one kind are alike, so that an interval over problems speaks of these
kinds and of no others. "Easy" and "medium" are our guess; the table ``kinds`` has what came out.
"""

import copy
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from analyses.programs.kinds import KINDS
from analyses.programs.kinds.draft import Arguments, Draft, Kind, ProgramLevel

LEVELS: tuple[ProgramLevel, ...] = get_args(ProgramLevel)
N_EXAMPLES = 2
ATTEMPTS = 500


@dataclass(frozen=True)
class ProgramTest:
    """One call.

    Attributes:
        arguments: In JSON types.
        value: What the function returns, in JSON types.
    """

    arguments: Arguments
    value: Any


@dataclass(frozen=True)
class ProgramProblem:
    """One problem.

    Attributes:
        id: Name in tables.
        kind: Name of its kind.
        level: How hard it is meant to be.
        question: Statement with examples.
        function: Name of the function.
        tests: Calls; the first are the examples of the statement.
        solution: Reference solution.
        parameters: What was drawn.
    """

    id: str
    kind: str
    level: ProgramLevel
    question: str
    function: str
    tests: tuple[ProgramTest, ...]
    solution: str
    parameters: Mapping[str, int | str]

    def row(self) -> dict[str, Any]:
        """As a row of a file."""
        return {
            "id": self.id,
            "question": self.question,
            "answer": f"```python\n{self.solution}\n```",
            "function": self.function,
            "kind": self.kind,
            "level": self.level,
            "tests": [vars(test) for test in self.tests],
        }


def make_programs(
    n: int = 100, seed: int = 0, *, levels: Sequence[ProgramLevel] = LEVELS
) -> list[ProgramProblem]:
    """Problems from a seed.

    Args:
        n: How many.
        seed: The same seed gives the same problems; the first n do not depend on n.
        levels: Of the kinds that are taken.

    Returns:
        Problems no two of which have the same kind and parameters.

    Raises:
        ValueError: a negative number, no or unknown levels, or more problems than there are.
    """
    if n < 0:
        raise ValueError(f"n={n}: must be 0 or more")
    if not levels or not {*levels} <= {*LEVELS}:
        raise ValueError(f"levels={levels!r}: choose at least one of {', '.join(LEVELS)}")
    kinds = [kind for kind in KINDS if kind.level in levels]
    known: set[tuple[Any, ...]] = set()
    return [_problem(_kind(kinds, i, seed), i, seed, known) for i in range(n)]


def _kind(kinds: Sequence[Kind], number: int, seed: int) -> Kind:
    """Kind of a problem: every block has each once."""
    block, place = divmod(number, len(kinds))
    order = random.Random(f"{seed}/programs/{block}").sample(kinds, len(kinds))
    return order[place]


def _problem(kind: Kind, number: int, seed: int, known: set[tuple[Any, ...]]) -> ProgramProblem:
    """A problem that is not known yet; it is then."""
    rng = random.Random(f"{seed}/programs/{number}/{kind.name}")
    for _ in range(ATTEMPTS):
        draft = kind.make(rng)
        key = (kind.name, *draft.parameters.values())
        if key not in known:
            known.add(key)
            return _written(draft, kind, f"program-{seed}-{number:04d}")
    raise ValueError(
        f"problem {number}: no more problems of kind {kind.name} are found that differ from "
        f"those before; ask for fewer than n={number}"
    )


def _written(draft: Draft, kind: Kind, name: str) -> ProgramProblem:
    head = f"{draft.function}({draft.arguments}) -> {draft.returns}"
    body = "\n".join(f"    {line}" for line in draft.body.split("\n"))
    solution = f"def {head}:\n{body}"
    function = function_of(solution, draft.function)
    calls = [*draft.typical, *draft.edges]
    tests = tuple(ProgramTest(call, function(*copy.deepcopy(call))) for call in calls)
    examples = [_example(draft.function, test) for test in tests[:N_EXAMPLES]]
    question = "\n".join([f"Write a Python function `{head}`.", draft.task, "Examples:", *examples])
    return ProgramProblem(
        name, kind.name, kind.level, question, draft.function, tests, solution, draft.parameters
    )


def _example(function: str, test: ProgramTest) -> str:
    arguments = ", ".join(map(repr, test.arguments))
    return f"{function}({arguments}) returns {test.value!r}"


def function_of(source: str, name: str) -> Callable[..., Any]:
    """The function that a text of ours defines; never for what a model wrote."""
    names: dict[str, Any] = {}
    exec(compile(source, "solution.py", "exec"), names)
    function: Callable[..., Any] = names[name]
    return function


def write_rows(file: Path, problems: Sequence[ProgramProblem]) -> None:
    """Problems as rows of a file, one JSON object a line."""
    lines = [json.dumps(problem.row(), ensure_ascii=False) for problem in problems]
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
