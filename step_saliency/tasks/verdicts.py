"""A judgement as it was written, by whoever judged: right, wrong, or neither."""

from typing import Any

_SAID = {"true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False}


def verdict(stated: Any) -> bool | None:
    """A judgement, read strictly: true, false, 0, 1 or these as text; None for anything else.

    Truth values and numbers of numpy and torch are those of Python.
    """
    if hasattr(stated, "item") and not getattr(stated, "shape", ()):
        stated = stated.item()
    if isinstance(stated, int | float) and stated in (0, 1):
        return bool(stated)
    return _SAID.get(stated.strip().lower()) if isinstance(stated, str) else None
