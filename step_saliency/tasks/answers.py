"""Final answers of problems: found in a response, compared with the gold answer.

Only what follows the thinking counts (`graded_part`), in it the answer that is boxed, marked,
announced or given last (`announced`). It is compared with the gold answer as what it is
(`comparison`): letters, words, numbers, lists, expressions. What cannot be read or compared is
unknown, None, not wrong.

Of a trace that was cut off at its length (``meta["finished"]`` is False) only an answer that is set
apart counts: its last number is where the writing happened to stop.
"""

import numbers
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any, SupportsFloat

from step_saliency.tasks.announced import announces, boxes, read_answers
from step_saliency.tasks.comparison import same
from step_saliency.tasks.graded_part import graded_part, marked_part
from step_saliency.tasks.several import read_several
from step_saliency.tasks.units import in_one_unit
from step_saliency.tasks.written import tidy
from step_saliency.trace import Trace

Grader = Callable[[str, str], Any]
"""From the part of a response that is graded and the gold answer to True, False or None."""

_RATIO = re.compile(r"(-?)(\d+)\s*/\s*(\d+)")


def final_answer(response: str | Trace) -> str | None:
    """The final answer as it is written in a response (boxed, announced, or given last).

    Args:
        response: Text of the response, with or without its thinking, or a trace.

    Returns:
        The answer, or None if there is none; a fraction in a box is spelled in LaTeX.

    Raises:
        ValueError: the response is no text, or too long to be read.
    """
    readings = [reading for reading in read_answers(_that_counts(response)) if reading.certain]
    if not readings:
        return None
    text = readings[0].text.strip().strip("*").rstrip(" .,;:!?。；：！？").strip()
    ratio = _RATIO.fullmatch(text) if readings[0].explicit else None
    return rf"{ratio[1]}\frac{{{ratio[2]}}}{{{ratio[3]}}}" if ratio else text


def _that_counts(response: str | Trace) -> str:
    """The part that an answer is looked for in: nothing of a trace that was cut off on its way."""
    text = marked_part(response)
    is_cut = isinstance(response, Trace) and response.meta.get("finished") is False
    return "" if is_cut and not announces(text) else text


def gold_answer(answer: str) -> str:
    """The bare gold answer: what follows ``####`` in a worked solution, else the text itself.

    Of a worked solution with a box it is what stands in the last box.
    """
    bare = str(answer).rsplit("####", 1)[-1].strip()
    contents = [content.strip() for _, _, content in boxes(bare)]
    return contents[-1] if contents and contents[-1] else bare


def is_correct(
    response: str | Trace, gold: str | SupportsFloat, *, grade: Grader | None = None
) -> bool | None:
    """Whether a response ends in the gold answer.

    Args:
        response: Text of the response, or a trace.
        gold: Gold answer: a number (also of numpy or torch), expression, letter or word, or a
            worked solution with ``####``.
        grade: Your own judgement in place of this one: a function of the part of the response that
            is graded and the gold answer as it was given, which returns True, False, or None for
            unknown.

    Returns:
        True or False; None if the response gives no answer, or none that can be compared.

    Raises:
        ValueError: the gold answer is empty; the response is no text, or too long; the function
            returned something else.
    """
    if grade is not None:
        return read_verdict(grade(graded_part(response), str(gold)))
    expected = _checked_gold(gold)
    several = read_several(tidy(expected)) is not None and not in_one_unit(tidy(expected))
    for reading in read_answers(_that_counts(response)):
        verdict = same(expected, reading.text, explicit=reading.explicit)
        if verdict is False and any(same(expected, other) for other in reading.others):
            return None
        if verdict is not None and not (reading.partial and verdict is False and several):
            return verdict
    return None


def read_verdict(value: Any) -> bool | None:
    """The judgement that a grading function returned.

    Args:
        value: True, False, 0, 1 or None, or an object with ``is_correct``.

    Raises:
        ValueError: anything else.
    """
    verdict = getattr(value, "is_correct", value)
    if verdict is None:
        return None
    item = verdict.item() if hasattr(verdict, "item") else verdict
    if isinstance(item, bool) or (isinstance(item, numbers.Real) and item in (0, 1)):
        return bool(item)
    raise ValueError(f"grade= returned {value!r:.80}; True, False or None (unknown) is needed")


def same_answer(one: str, other: str) -> bool:
    """Whether two bare answers are the same text, letter, number or expression, in any order."""
    directions = ((one, other), (other, one))
    return one == other or any(same(*pair, explicit=True) for pair in directions)


_NO_NUMBER = frozenset({"nan", "-nan", "snan", "<na>"})
"""What a missing number is as text."""


def _spelled(gold: object) -> str:
    try:
        return str(gold)
    except ValueError:  # Python's limit
        raise ValueError(
            "a gold answer is a number of more digits than Python writes; give it as text"
        ) from None


def _checked_gold(gold: object) -> str:
    if hasattr(gold, "item") and not getattr(gold, "shape", ()):
        gold = gold.item()  # a number of numpy or torch
    known = isinstance(gold, str | numbers.Real | Decimal) and not isinstance(gold, bool)
    text = _spelled(gold) if known else ""
    if not known or text.strip().lower() in _NO_NUMBER:
        raise ValueError(f"a gold answer is text or a number, got {gold!r:.80}")
    bare = gold_answer(text)
    if not any(char.isalnum() or char in "∞" for char in tidy(bare)):
        raise ValueError(
            f"gold answer {gold!r:.80} holds no number or expression to compare with, and no word"
        )
    return bare
