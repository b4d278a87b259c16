"""Records of LiveCodeBench as problems: releases, dates, prompts.

Release vN is the files ``test.jsonl, test2.jsonl, ..., testN.jsonl`` together. A window takes the
problems whose contest was from its first to its last day, both included.
"""

import datetime as dt
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from step_saliency.benchmark.suites.files import field_of, read_records
from step_saliency.benchmark.suites.item import Item

INSTRUCTION = (
    "You will be given a question (problem specification) and will generate a correct Python "
    "program that matches the specification and passes all tests.\n\n{question}"
)
WITH_STARTER = (
    "You will use the following starter code to write the solution to the problem and enclose your "
    "code within delimiters."
)
WITHOUT_STARTER = (
    "Read the inputs from stdin solve the problem and write the answer to stdout (do not directly "
    "test on the sample inputs). Enclose your code within delimiters as follows."
)
"""The wording of the benchmark's own runner, on which published numbers rest."""
RELEASES = tuple(f"v{number}" for number in range(1, 7))
WINDOW = ("2024-08-01", "2025-02-01")
"""Of the numbers that DeepSeek published for its R1 models."""
KEPT = ("platform", "difficulty", "contest_date", "contest_id", "question_title")


def release_files(release: str) -> list[str]:
    """Names of the files that a release is made of.

    Raises:
        ValueError: there is no such release.
    """
    if release not in RELEASES:
        raise ValueError(f"release={release!r} is none of {', '.join(RELEASES)}")
    numbers = range(1, RELEASES.index(release) + 2)
    return ["test.jsonl" if number == 1 else f"test{number}.jsonl" for number in numbers]


def read_release(place: Path, release: str) -> list[dict[str, Any]]:
    """Records of a release from a folder of the public files, or of one file as it is."""
    files = [place] if place.is_file() else [place / name for name in release_files(release)]
    return [record for file in files for record in read_records(file)]


def items(
    records: Sequence[Mapping[str, Any]], *, start: str | None = None, end: str | None = None
) -> list[Item]:
    """Problems of a window; their tests are read when they are needed.

    Args:
        records: Records of the public files.
        start: First day of contests, ``YYYY-MM-DD``.
        end: Last day.

    Raises:
        ValueError: a date that is none, a record without a field, or no problem in the window.
    """
    first, last = window_of(start, end)
    chosen = []
    for number, record in enumerate(records):
        place = f"record {number + 1}"
        day = _day(str(field_of(record, ("contest_date",), place))[:10], place)
        if (first is None or day >= first) and (last is None or day <= last):
            chosen.append(_item(record, place))
    if not chosen:
        raise ValueError(f"no problem of {len(records)} has a contest from {start} to {end}")
    return chosen


def window_of(start: str | None, end: str | None) -> tuple[dt.date | None, dt.date | None]:
    """First and last day of a window.

    Raises:
        ValueError: a date that is none, or the last day is before the first.
    """
    first, last = (None if day is None else _day(day, "window") for day in (start, end))
    if first is not None and last is not None and last < first:
        raise ValueError(f"start={start!r} is after end={end!r}")
    return first, last


def _item(record: Mapping[str, Any], place: str) -> Item:
    for name in ("public_test_cases", "private_test_cases"):
        field_of(record, (name,), place)
    return Item(
        id=str(field_of(record, ("question_id",), place)),
        question=_prompt(record, place),
        target="",
        facts={name: str(record[name]) for name in KEPT if record.get(name)},
        hidden=dict(record),
    )


def _prompt(record: Mapping[str, Any], place: str) -> str:
    question = str(field_of(record, ("question_content",), place))
    starter = str(record.get("starter_code") or "").strip("\n")
    form = WITH_STARTER if starter else WITHOUT_STARTER
    code = starter or "# YOUR CODE HERE"
    return (
        f"### Question:\n{question}\n\n### Format: {form}\n```python\n{code}\n```\n\n"
        "### Answer: (use the provided format with backticks)\n\n"
    ).strip()


def _day(text: str, place: str) -> dt.date:
    try:
        return dt.date.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{place}: {text!r} is no date; write YYYY-MM-DD") from None
