"""Which number should have stood where a wrong answer to a word problem first goes wrong?

With V the values of the worked solution in their order and Q the numbers of the question, by rule
``first off`` of `analyses.material.worked`,

    x    the first number that a thinking step states and that is in neither V nor Q
    v    the first value of V that the answer has not stated before x

and the model is asked at the first digit in which v, written as x is, differs from x: log-odds of
the token that v has there against that of x.

Assumptions: x stands in the place of v. That holds for an answer that follows the solution and
computes wrongly; an answer that leaves a step out, takes the steps in another order or computes
something else may have had another number in mind. v has the thousands separators of x and no
digit behind the point that it does not need.

When it misleads: numbers of a right detour are off too. What the solution computes and the answer
only thinks of (without writing it) counts as not stated, so that v comes too early.
"""

from fractions import Fraction
from typing import Any

from analyses.instruments.number_forks import Fork, TokenText
from analyses.material.worked import off_number
from step_saliency.trace import Region, Trace


def number_error(tokenizer: Any, trace: Trace, question: str, solution: str) -> Fork | None:
    """Where a wrong answer states its first number that is off, against the one that was due.

    Args:
        tokenizer: The model's.
        trace: A wrong answer.
        question: The question.
        solution: Its worked solution.

    Returns:
        None where no thinking step states a number that is off, no value is due, one of the two
        numbers is the beginning of the other or they part at another sign than a digit, or where
        the tokens part at no single place (`TokenText.fork`).

    Raises:
        ValueError: a solution without annotations.
    """
    whole = TokenText(tokenizer, trace.tokens.tolist())
    steps = [trace.steps[i] for i in trace.region_steps(Region.THINKING)]
    spans = [(whole.start_of(step.start), whole.start_of(step.stop)) for step in steps]
    off = off_number(question, solution, [whole.text[a:b] for a, b in spans])
    if off is None or off.due is None:
        return None
    begin = spans[off.step][0]
    start, stop = begin + off.number.start, begin + off.number.stop
    due = written_like(off.due, whole.text[start:stop])
    if due is None or not part_at_digits(whole.text[start:stop], due):
        return None
    return whole.fork(start, stop, due)


def written_like(value: Fraction, number: str) -> str | None:
    """A value in the form of a number; None where it has no end in decimals.

    Args:
        value: The value.
        number: Whose thousands separators it takes over.
    """
    scale = 1
    while scale < 10**6 and (value * scale).denominator > 1:
        scale *= 10
    if (value * scale).denominator > 1:
        return None
    whole, rest = divmod(abs(value * scale).numerator, scale)
    digits = f"{whole:,}" if "," in number else str(whole)
    decimals = f".{rest:0{len(str(scale)) - 1}d}" if rest else ""
    return f"{'-' if value < 0 else ''}{digits}{decimals}"


def part_at_digits(one: str, other: str) -> bool:
    """Whether the first characters in which two numbers differ are digits of both."""
    pairs = zip(one, other, strict=False)
    at = next(((a, b) for a, b in pairs if a != b), None)
    return at is not None and all(character.isdecimal() for character in at)
