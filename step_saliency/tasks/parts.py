"""Answers of several parts against each other, part by part, or against one value.

Lists and sets have no order, tuples have one; parts that are written twice count once.
"""

from collections.abc import Callable
from typing import TypeAlias

from step_saliency.tasks.quantities import same_quantities
from step_saliency.tasks.several import Several
from step_saliency.tasks.words import has_prose

Same: TypeAlias = Callable[[str, str], bool | None]
"""Whether two parts are the same; None where that cannot be said."""

MAX_PARTS = 100
"""Parts up to which each is compared with each."""


def same_parts(gold: Several, given: Several, same: Same) -> bool | None:
    """Whether two answers of several parts are the same; None where that cannot be said.

    Args:
        gold: Parts of the gold answer.
        given: Parts of the answer.
        same: Compares two parts.
    """
    if max(len(gold.parts), len(given.parts)) > MAX_PARTS:
        return None
    kinds = {gold.kind, given.kind}
    if kinds == {"tuple"}:
        return gold.brackets == given.brackets and _in_order(gold.parts, given.parts, same)
    if kinds <= {"list", "set"} or kinds == {"union"}:
        return _in_any_order(gold.parts, given.parts, same)
    if kinds == {"list", "tuple"}:
        ordered = _in_order(gold.parts, given.parts, same)
        return (
            None if ordered is False and _in_any_order(gold.parts, given.parts, same) else ordered
        )
    return False


def part_alone(parts: Several | None, plain: str, same: Same) -> bool | None:
    """Several parts against one: the same if the parts are one value, written several times."""
    if (
        parts is not None
        and parts.kind == "tuple"
        and same_quantities(",".join(parts.parts), plain)[0]
    ):
        return None  # (1,234) against 1234: a pair, or a number in brackets
    if parts is not None and parts.kind == "tuple" and "\\begin{" in plain:
        return None  # a point, or the column of its coordinates
    if parts is not None and parts.kind in ("list", "set") and len(parts.parts) <= MAX_PARTS:
        verdicts = [same(plain, part) for part in parts.parts]
        if all(verdicts):
            return True
    return False if _is_readable(plain) else None


def _in_order(gold: tuple[str, ...], given: tuple[str, ...], same: Same) -> bool | None:
    if len(gold) != len(given):
        return False
    verdicts = [same(a, b) for a, b in zip(gold, given, strict=True)]
    return False if False in verdicts else None if None in verdicts else True


def _in_any_order(gold: tuple[str, ...], given: tuple[str, ...], same: Same) -> bool | None:
    """Each part has a partner; parts that are written twice count once."""
    unclear = False
    for these, those in ((gold, given), (given, gold)):
        for part in these:
            verdicts = [same(part, other) for other in those]
            if True not in verdicts:
                if None not in verdicts:
                    return False
                unclear = True
    return None if unclear else True


def _is_readable(text: str) -> bool:
    """Whether a part that is no list can be read as one value."""
    return same_quantities(text, text)[1] or not has_prose(text)
