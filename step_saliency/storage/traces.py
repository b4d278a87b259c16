"""Traces as JSON lines, one object a line."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from step_saliency.storage.files import read_bytes, replacing
from step_saliency.storage.json_text import parse_object
from step_saliency.trace import Trace


def save_jsonl(path: str | os.PathLike[str], traces: Iterable[Trace]) -> Path:
    """Write traces, one JSON object a line. The file appears whole or not at all.

    Args:
        path: File to write; one that is there is replaced. Its folder has to be there.
        traces: The traces, in order.

    Returns:
        The file.

    Raises:
        ValueError: ``path`` is no path, or ``traces`` holds something else.
        WriteError: an `OSError`; it cannot be written.
    """
    if not isinstance(path, str | os.PathLike):
        raise ValueError(f"path={path!r:.80} is no path; it comes first, then the traces")
    if not isinstance(traces, Iterable) or isinstance(traces, str | Mapping):
        raise ValueError(f"traces={traces!r:.80} is no list of traces")
    path = Path(path)
    with replacing(path) as part, part.open("w", encoding="utf-8") as file:
        for trace in traces:
            if not isinstance(trace, Trace):
                raise ValueError(f"{trace!r:.80} among the traces is none")
            file.write(json.dumps(trace.to_dict(), ensure_ascii=False) + "\n")
    return path


FIELD_FAULTS = ("missing", "extra_forbidden")


class TraceFields(BaseModel):
    """A trace as `Trace.to_dict` gives it, by types; nothing is turned into another type."""

    model_config = ConfigDict(strict=True, extra="forbid")

    tokens: list[int] = Field(min_length=1)
    starts: list[int] = Field(min_length=1)
    regions: list[str]
    texts: list[str] | None = None
    id: str | None = None
    question: str = ""
    response: str = ""
    meta: dict[str, Any] = Field(default_factory=dict)


def read_trace(fields: Any) -> Trace:
    """A trace from what a file says of it.

    Raises:
        ValueError: a field is missing, unknown or of another type, or they do not fit together.
    """
    try:
        TraceFields.model_validate(fields)
        return Trace.from_dict(fields)
    except ValidationError as error:
        if isinstance(fields, dict) and any(e["type"] in FIELD_FAULTS for e in error.errors()):
            Trace.from_dict(fields)  # says which fields are missing or unknown
        raise ValueError(f"not a trace: {first_fault(error)}") from error
    except (OverflowError, TypeError, RuntimeError) as error:
        raise ValueError(f"not a trace: {error}") from error


def first_fault(error: ValidationError) -> str:
    """What is wrong, in a line: the first field and what it should be."""
    fault = error.errors(include_url=False)[0]
    place = ".".join(map(str, fault["loc"])) or "the whole"
    return f"{place}: {fault['msg']} (got {type(fault['input']).__name__})"


def load_jsonl(path: str | os.PathLike[str]) -> list[Trace]:
    """Read traces that :func:`save_jsonl` wrote.

    Args:
        path: The file; empty lines count as none.

    Returns:
        The traces, in order.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: A line is not JSON or not a trace; the message names the file and the line.
    """
    return list(_read_jsonl(Path(path)))


def _read_jsonl(path: Path) -> Iterator[Trace]:
    for number, line in enumerate(read_bytes(path).split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            yield read_trace(parse_object(line))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
