"""JSON from files that may hold anything."""

import json
from typing import Any


def parse_json(data: str | bytes) -> Any:
    """The value that a text or UTF-8 bytes hold.

    Raises:
        ValueError: it is no JSON, no UTF-8, or nested too deeply to be read.
    """
    try:
        return json.loads(data.decode("utf-8") if isinstance(data, bytes) else data)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def parse_object(data: str | bytes) -> dict[str, Any]:
    """The JSON object that a text or UTF-8 bytes hold.

    Raises:
        ValueError: it holds something else.
    """
    value = parse_json(data)
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, got {type(value).__name__}")
    return value
