"""Where an answer to a word problem first goes wrong, by the numbers of its worked solution.

GSM8K's solutions name what they compute: ``9 * 2 = $<<9*2=18>>18``, and where they do not, they
mostly write it behind an equals sign (of its 1,319 test rows 18 have no annotation, and 214 have
results that are not annotated). With V both of these and the final answer, Q the numbers of the
question, and of each thinking step the numbers that it *states* (what stands behind an equals sign;
where there is none, all of its numbers but everyday ones),

    first off   the first step that states a number of neither V nor Q
    last on     the step after the last one that states a number of V: there the answer leaves the
                solution for good

No rater is needed for either, and they err to opposite sides. ``first off`` is too early where a
right detour computes a number that the solution does not have; ``last on`` is too late where a
wrong answer meets a value of the solution by chance or on a branch of its own. Where they agree,
the place is firm: hold a result of one against the other (`agreement`).

When it misleads: a solution that computes in another order or in one line has other values; answers
that are right by such a way are not wrong, so only those of wrong answers are asked for.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from step_saliency.tasks.numbers import read_number
from step_saliency.trace import Region, Trace

Rule = Literal["first off", "last on"]
_NUMBER = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+"
_ANY = re.compile(rf"(?<![\w.])(?>{_NUMBER})(?!\w*\d)")
_RESULT = re.compile(
    rf"=\s*(?:\\\(|\\\$|\\text\{{|[$€£(])*\s*(-?(?>{_NUMBER}))(?!\s*(?:[-+*/×÷^]|\\times|\\div|\\cdot|\d))"
)
_ANNOTATED = re.compile(r"<<[^<>]*=([^<>=]*)>>")
_COUNTS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen twenty"
)
_TENS_WORDS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_TENS = {word: 10 * ten for ten, word in enumerate(_TENS_WORDS, 2)}
_COMPOUND = re.compile(rf"\b({'|'.join(_TENS)})(?:[- ]({'|'.join(_COUNTS.split()[1:10])}))?\b")
_SHARE = re.compile(r"(?<![\w./])(\d{1,3})/(\d{1,3})(?![\w/])")
_WORDS = {
    "half": Fraction(1, 2),
    "third": Fraction(1, 3),
    "quarter": Fraction(1, 4),
    "twice": Fraction(2),
    "double": Fraction(2),
    "triple": Fraction(3),
    "dozen": Fraction(12),
    **{word: Fraction(number) for number, word in enumerate(_COUNTS.split())},
}
EVERYDAY = frozenset(map(Fraction, (0, 1, 2, 3, 4, 5, 7, 10, 12, 24, 30, 52, 60, 100, 365, 1000)))
"""Numbers that a step may write without having computed them: days of a week, percent, ..."""
_CENTS = Fraction(1, 200)
"""Half a hundredth: amounts are rounded to cents."""


def worked_values(solution: str) -> frozenset[Fraction]:
    """The values that a worked solution computes.

    Args:
        solution: With GSM8K's annotations ``<<9*2=18>>``, or with equations.

    Raises:
        ValueError: a solution without either.
    """
    return frozenset(ordered_values(solution))


def ordered_values(solution: str) -> tuple[Fraction, ...]:
    """The same in the order of the solution, each once, the final answer last.

    Args:
        solution: With GSM8K's annotations ``<<9*2=18>>``, or with equations.

    Raises:
        ValueError: a solution without either.
    """
    body, _, final = solution.partition("####")
    values = tuple(dict.fromkeys(n for line in body.split("\n") for n in _computed(line)))
    if not values:
        raise ValueError(
            f"{solution[:60]!r} has no annotations <<...=...>> as GSM8K's worked solutions have, "
            "and no equations, so that nothing says where an answer goes wrong"
        )
    answer = _value(final)
    return values if answer is None else tuple(dict.fromkeys((*values, answer)))


def question_values(question: str) -> frozenset[Fraction]:
    """The numbers of a question, in digits or in words; a percentage or ratio also as a share."""
    numbers = set(_numbers(question))
    numbers |= {_WORDS[word] for word in re.findall(r"[a-z]+", question.lower()) if word in _WORDS}
    shares = {
        Fraction(text.replace(",", "")) / 100
        for text in re.findall(rf"({_NUMBER})\s*(?:%|percent)", question)
    }
    shares |= {Fraction(int(a), int(b)) for a, b in _SHARE.findall(question) if int(b)}
    tens = {_TENS[ten] + _WORDS.get(one, 0) for ten, one in _COMPOUND.findall(question.lower())}
    return frozenset(numbers | shares | set(map(Fraction, tens)))


@dataclass(frozen=True)
class Stated:
    """A number that a text states, and the characters that it stands at."""

    value: Fraction
    start: int
    stop: int


def stated_at(step: str) -> tuple[Stated, ...]:
    """The numbers that a step says it found; without an equals sign, all but everyday ones."""
    results = tuple(_spans(_RESULT, step, group=1))
    return results or tuple(n for n in _spans(_ANY, step) if n.value not in EVERYDAY)


def stated(step: str) -> tuple[Fraction, ...]:
    """Values of `stated_at`."""
    return tuple(number.value for number in stated_at(step))


def first_wrong_step(question: str, solution: str, steps: Sequence[str], rule: Rule) -> int | None:
    """Where the thinking of a wrong answer leaves its worked solution.

    Args:
        question: The question.
        solution: Its worked solution.
        steps: Texts of the thinking steps of a wrong answer.
        rule: See the module docstring.

    Returns:
        Place among the thinking steps, from 0; None where all of them are in order, so that the
        answer goes wrong in its summary.
    """
    values = worked_values(solution)
    if rule == "first off":
        known = values | question_values(question)
        off = (i for i, step in enumerate(steps) if not all(_is_in(n, known) for n in stated(step)))
        return next(off, None)
    on = [i for i, step in enumerate(steps) if any(_is_in(n, values) for n in stated(step))]
    first = on[-1] + 1 if on else 0
    return first if first < len(steps) else None


def first_wrong_of(trace: Trace, question: str, solution: str, rule: Rule) -> int | None:
    """`first_wrong_step` of the trace of a wrong answer."""
    steps = [trace.steps[i].text for i in trace.region_steps(Region.THINKING)]
    return first_wrong_step(question, solution, steps, rule)


@dataclass(frozen=True)
class OffNumber:
    """The first number of a wrong answer that its worked solution does not account for.

    Attributes:
        step: Place of its step among the thinking steps, from 0.
        number: What the step states, in the characters of that step.
        due: First value of the solution, in its order, that the answer has not stated before; None
            where it has stated all.
    """

    step: int
    number: Stated
    due: Fraction | None


def off_number(question: str, solution: str, steps: Sequence[str]) -> OffNumber | None:
    """The number at which a wrong answer leaves its worked solution by rule ``first off``.

    Args:
        question: The question.
        solution: Its worked solution.
        steps: Texts of the thinking steps of a wrong answer.

    Returns:
        None where all thinking steps are in order.

    Raises:
        ValueError: a solution without annotations.
    """
    values = ordered_values(solution)
    known = {*values, *question_values(question)}
    before: list[Fraction] = []
    for place, step in enumerate(steps):
        for number in stated_at(step):
            if not _is_in(number.value, known):
                left = (v for v in values if not any(_is_in(n, (v,)) for n in before))
                return OffNumber(place, number, next(left, None))
            before.append(number.value)
    return None


def agreement(pairs: Collection[tuple[int | None, int | None]]) -> dict[str, float]:
    """How often two rules name the same step, and one that is at most one step away.

    Args:
        pairs: Places by each rule; None stands for the summary and agrees with itself alone.

    Raises:
        ValueError: no pairs.
    """
    if not pairs:
        raise ValueError("there are no answers to compare two rules on")
    same = [one == other for one, other in pairs]
    near = [
        one == other or (one is not None and other is not None and abs(one - other) <= 1)
        for one, other in pairs
    ]
    return {"same": sum(same) / len(pairs), "within_one": sum(near) / len(pairs)}


def _computed(line: str) -> Iterator[Fraction]:
    """Values that a line of a worked solution annotates, and that it writes behind equals signs."""
    yield from (n for n in map(_value, _ANNOTATED.findall(line)) if n is not None)
    yield from (n.value for n in _spans(_RESULT, re.sub(r"<<[^<>]*>>", "", line), group=1))


def _numbers(text: str) -> tuple[Fraction, ...]:
    return tuple(number.value for number in _spans(_ANY, text))


def _spans(pattern: re.Pattern[str], text: str, *, group: int = 0) -> Iterator[Stated]:
    for match in pattern.finditer(text):
        if (value := _value(match[group])) is not None:
            yield Stated(value, *match.span(group))


def _value(text: str) -> Fraction | None:
    number = read_number(text.strip().lstrip("$"))
    return None if number is None else number.value


def _is_in(number: Fraction, values: Collection[Fraction]) -> bool:
    """Whether a number is one of these, or one of them rounded to cents."""
    if number in values:
        return True
    return any(value.denominator > 1 and abs(number - value) <= _CENTS for value in values)
