"""Traces as JSON lines, one object a line."""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from step_saliency.storage.files import replacing
from step_saliency.trace import Trace


def save_jsonl(path: str | os.PathLike[str], traces: Iterable[Trace]) -> Path:
    """Write traces, one JSON object a line. The file appears whole or not at all."""
    path = Path(path)
    with replacing(path) as part, part.open("w", encoding="utf-8") as file:
        for trace in traces:
            file.write(json.dumps(trace.to_dict(), ensure_ascii=False) + "\n")
    return path


def load_jsonl(path: str | os.PathLike[str]) -> list[Trace]:
    """Read traces that :func:`save_jsonl` wrote.

    Raises:
        ValueError: A line is not JSON or not a trace; the message names the file and the line.
    """
    return list(_read_jsonl(Path(path)))


def _read_jsonl(path: Path) -> Iterator[Trace]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                yield Trace.from_dict(_json_object(line))
            except (ValueError, TypeError) as error:
                raise ValueError(f"{path}, line {number}: {error}") from error


def _json_object(line: str) -> dict[str, Any]:
    data = json.loads(line)
    if not isinstance(data, dict):
        raise ValueError(f"expected a JSON object, got {type(data).__name__}")
    return data
