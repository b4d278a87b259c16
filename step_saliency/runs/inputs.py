"""Input of the command line: JSONL rows that are traces, responses, conversations or problems.

A row is read by what it holds: ``tokens`` and ``steps`` (a saved trace), ``messages``,
``response``, or only a question, which the model then answers itself.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from step_saliency.options import FormatName, SplitterLike
from step_saliency.trace import Trace

Kind = Literal["trace", "messages", "response", "problem"]

QUESTIONS = ("question", "problem", "prompt")
GOLD = ("gold_answer", "answer")
IDS = ("id", "trace_id", "unique_id")


@dataclass(frozen=True)
class Row:
    """One line of an input file.

    Attributes:
        id: Name in tables, unique in the file.
        line: Line number, from 1.
        data: What the line holds.
        error: Why the line cannot be used, if it cannot.
    """

    id: str
    line: int
    data: Mapping[str, Any]
    error: str | None = None

    @property
    def kind(self) -> Kind:
        """What has to be done to get a trace."""
        if "tokens" in self.data and "steps" in self.data:
            return "trace"
        if "messages" in self.data:
            return "messages"
        return "response" if "response" in self.data else "problem"

    @property
    def question(self) -> str:
        """Text of the question, empty if the row has none."""
        return next((str(self.data[name]) for name in QUESTIONS if self.data.get(name)), "")

    @property
    def gold(self) -> str | None:
        """Gold answer, if there is one: ``answer`` is the model's own where there is a response."""
        names = GOLD if self.kind == "problem" else GOLD[:1]
        return next((str(self.data[n]) for n in names if self.data.get(n) is not None), None)

    @property
    def problem(self) -> str:
        """Name of the problem, by which samples are grouped, or a digest of the question."""
        if self.data.get("problem_id") is not None:
            return str(self.data["problem_id"])
        return hashlib.sha256(self.question.encode()).hexdigest()[:12]

    @property
    def digest(self) -> str:
        """Changes when the row changes."""
        text = json.dumps(self.data, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def file_name(self) -> str:
        """The id as a file name, without extension."""
        plain = re.sub(r"[^\w.-]+", "_", self.id).strip("._")[:120]
        if plain == self.id:
            return plain
        return f"{plain}-{hashlib.sha256(self.id.encode()).hexdigest()[:8]}"


def read_rows(path: Path, *, limit: int | None = None) -> list[Row]:
    """Read a JSONL file.

    Args:
        path: The file.
        limit: Take the first rows only.

    Returns:
        Rows in order; a line that is no JSON object, or whose id is taken, has an ``error``.

    Raises:
        ValueError: there is no such file, or it has no rows.
    """
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    rows: list[Row] = []
    taken: set[str] = set()
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        if limit is not None and len(rows) == limit:
            break
        rows.append(_read_row(line, number, path.stem, taken))
        taken.add(rows[-1].id)
    if not rows:
        raise ValueError(f"{path} has no rows; one JSON object a line is needed")
    return rows


def _read_row(line: str, number: int, stem: str, taken: set[str]) -> Row:
    fallback = f"{stem}-{number:05d}"
    try:
        data = json.loads(line)
    except json.JSONDecodeError as error:
        return Row(fallback, number, {}, f"line {number} is no JSON: {error}")
    if not isinstance(data, dict):
        return Row(fallback, number, {}, f"line {number} is a {type(data).__name__}, not an object")
    name = next((str(data[key]) for key in IDS if data.get(key) is not None), fallback)
    if name in taken:
        return Row(fallback, number, data, f"line {number} repeats the id {name!r}")
    row = Row(name, number, data)
    if row.kind == "problem" and not row.question:
        fields = ", ".join(data) or "nothing"
        needed = "question, response or messages"
        return Row(name, number, data, f"line {number} has no {needed}: {fields}")
    return row


def trace_of_row(
    row: Row,
    tokenizer: Any,
    *,
    format: FormatName,  # noqa: A002
    splitter: SplitterLike,
) -> Trace:
    """The trace that a row holds, or that its response or messages give.

    Args:
        row: A row of any kind but a problem.
        tokenizer: The model's.
        format: As for `Trace.from_text`.
        splitter: As for `Trace.from_text`.
    """
    if row.kind == "trace":
        return Trace.from_dict(row.data)
    cut: dict[str, Any] = {"format": format, "splitter": splitter}
    if row.kind == "messages":
        return Trace.from_messages(tokenizer, row.data["messages"], **cut)
    return Trace.from_text(
        tokenizer,
        question=str(row.data.get("question") or row.data.get("problem") or ""),
        prompt=row.data.get("prompt"),
        response=str(row.data["response"]),
        **cut,
    )
