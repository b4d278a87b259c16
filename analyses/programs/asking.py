"""Problems as rows of a file, as all other analyses read them, and what their rows say.

Rows of ``--data programs`` are made here: n problems to answer, then others for what is set up on
texts that are not answered (placebos matched in dose), all different.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from analyses.material.answers import AnswerSettings
from analyses.material.conditions import SETS, DepthSettings
from analyses.material.flows import N_REFERENCE_ROWS
from analyses.material.problems import Item
from analyses.programs.kinds.draft import ProgramLevel
from analyses.programs.problems import LEVELS, ProgramTest, make_programs, write_rows
from analyses.running.settings import option

PROGRAMS = "programs"


@dataclass(frozen=True, kw_only=True)
class ProgramsSettings(DepthSettings, AnswerSettings):
    """Conditions, and of how many problems."""

    data: str = option(PROGRAMS, "'programs', or a JSONL file with function and tests in its rows")
    references: Literal["gold", "own"] = "own"
    max_new_tokens: int = 320
    levels: tuple[ProgramLevel, ...] = option(LEVELS, "of the problems that are made here")
    conditions: str = option("both,both-layers-kl", f"{', '.join(SETS)}, or names: a,b,c")
    n_doses: int = option(0, "doses on answers to so many problems")


@dataclass(frozen=True)
class Asked:
    """What the grader knows of a problem.

    Attributes:
        function: Name of the function.
        tests: Calls.
        kind: Name of its kind.
        level: How hard it is meant to be.
    """

    function: str
    tests: Sequence[ProgramTest]
    kind: str
    level: str


def with_rows(settings: ProgramsSettings) -> ProgramsSettings:
    """Settings whose ``data`` is a file: problems made here, or the file that they name."""
    if settings.data != PROGRAMS:
        return settings
    n_aside = max(settings.n_matching, N_REFERENCE_ROWS)
    folder = _written(settings.n, n_aside, settings.seed, settings.levels)
    return replace(settings, data=str(Path(folder.name) / "programs.jsonl"))


@lru_cache(maxsize=4)
def _written(
    n: int, n_aside: int, seed: int, levels: tuple[ProgramLevel, ...]
) -> "TemporaryDirectory[str]":
    """A folder that this process keeps, with the rows."""
    folder = TemporaryDirectory(prefix="step-saliency-programs-")
    write_rows(
        Path(folder.name) / "programs.jsonl", make_programs(n + n_aside, seed, levels=levels)
    )
    return folder


def asked_of(item: Item) -> Asked:
    """Function and tests of a row.

    Raises:
        ValueError: it lacks them.
    """
    data: Mapping[str, Any] = item.row.data if item.row else {}
    function, tests = data.get("function"), data.get("tests")
    if not (isinstance(function, str) and function.isidentifier() and _are_tests(tests)):
        raise ValueError(
            f"{item.id}: function={function!r}, tests={str(tests)[:60]}; a row needs the name of "
            'a function and tests [{"arguments": [...], "value": ...}, ...]'
        )
    calls = [ProgramTest(test["arguments"], test["value"]) for test in tests or ()]
    return Asked(function, calls, str(data.get("kind", "")), str(data.get("level", "")))


def _are_tests(tests: Any) -> bool:
    return (
        isinstance(tests, list)
        and bool(tests)
        and all(
            isinstance(test, dict) and isinstance(test.get("arguments"), list) and "value" in test
            for test in tests
        )
    )
