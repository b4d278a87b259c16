"""Final answers of mathematics problems: found in a response, compared with the gold answer.

Expressions are read and compared by `math-verify`, so 1/2, 0.5 and \\frac{1}{2} are one answer.
Only what follows the thinking counts, where a response has a thinking part that ends.
"""

import threading

from math_verify import parse, verify

END_OF_THINKING = "</think>"


def final_answer(response: str) -> str | None:
    """The final answer as it is written in a response (the last boxed or announced expression).

    Args:
        response: Text of the response, with or without its thinking.

    Returns:
        The expression, or None if there is none.
    """
    expressions = parse(_summary(response), parsing_timeout=_seconds())
    return str(expressions[-1]) if expressions else None


def gold_answer(answer: str) -> str:
    """The bare gold answer: what follows ``####`` in a worked solution, else the text itself."""
    return answer.rsplit("####", 1)[-1].strip()


def is_correct(response: str, gold: str) -> bool:
    """Whether a response ends in the gold answer.

    Args:
        response: Text of the response.
        gold: Gold answer: a number, expression or worked solution with ``####``.

    Raises:
        ValueError: the gold answer holds no expression.
    """
    bare = gold_answer(gold)
    expected = parse(f"${bare.strip('$')}$", parsing_timeout=_seconds())
    if not expected:
        raise ValueError(f"gold answer {gold!r:.80} holds no number or expression to compare with")
    given = parse(_summary(response), parsing_timeout=_seconds())
    return bool(given) and (
        verify(expected, given, timeout_seconds=_seconds())
        or verify(expected, _without_unit(given[-1]), timeout_seconds=_seconds())
    )


def same_answer(one: str, other: str) -> bool:
    """Whether two bare answers are the same text, number or expression."""
    if one == other:
        return True
    left, right = (
        parse(f"${text.strip('$')}$", parsing_timeout=_seconds()) for text in (one, other)
    )
    return bool(left) and bool(right) and verify(left, right, timeout_seconds=_seconds())


def _seconds() -> int | None:
    """Time limit of one comparison, which signals can only enforce in the main thread."""
    return 5 if threading.current_thread() is threading.main_thread() else None


def _summary(response: str) -> str:
    return response.rsplit(END_OF_THINKING, 1)[-1]


def _without_unit(expression: object) -> list[object]:
    """The expression without a percent sign, which gold answers tend to leave out."""
    return parse(
        f"${str(expression).replace('%', '').rstrip(chr(92))}$", parsing_timeout=_seconds()
    )
