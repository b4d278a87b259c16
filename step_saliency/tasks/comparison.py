r"""Are two answers the same? True, False, or None where that cannot be said.

    letters      B, (B), \text{B}, "B: the second one"            by the letter, see `words`
    choices      \textbf{(D)}\ 24                                by the letter or by the value
    words        Evelyn, yes, no solution                          by the words
    numbers      3/5, 2 2/3, 1.5e3, 2516_7, 5 cm, 6.17\%           exactly, see `quantities`
    several      1, 2 · \{1, 2\} · (1, 2) · [1, 2) \cup (3, 4)     part by part, see `parts`
    the rest     x^2 + 1, \frac{\pi}{6}, matrices                  by their value, see `expressions`

A number where a letter or words are due (and the other way round) cannot be compared, unless it was
boxed: then all of it is the answer.
"""

import re
from itertools import product

from step_saliency.tasks.expressions import equal_values
from step_saliency.tasks.parts import part_alone, same_parts
from step_saliency.tasks.quantities import same_quantities, with_point
from step_saliency.tasks.several import depth, named, read_several, unwrapped
from step_saliency.tasks.words import (
    LETTER,
    is_truth,
    is_words,
    same_choices,
    same_letters,
    same_meaning,
    same_truths,
    same_words,
)
from step_saliency.tasks.written import squeezed, tidy

_CHOICE = re.compile(r"\(([A-J])\)\s*(.*\w.*)", re.DOTALL)
_SIDES = re.compile(r"(?<![<>!\\:])=(?!=)|\\approx(?![a-z])")
_RELATION = re.compile(r"[<>]|\\(?:le|ge|ne|neq|lt|gt|mathbb|setminus)(?![a-zA-Z])")
_UNENDED = re.compile(r"\.\d+\s*(?:…|\.{2,3}|\\[lc]?dots)")
MAX_DEPTH = 50
"""Brackets in brackets up to which an answer is read."""
MAX_LENGTH = 4000
"""Longer answers are compared letter by letter only."""


def same(gold: str, given: str, *, explicit: bool = False) -> bool | None:
    """Whether an answer is the gold answer.

    Args:
        gold: The bare gold answer.
        given: The answer as it was written.
        explicit: Whether the answer was set apart by a mark, so that all of it is the answer.
    """
    if max(len(gold), len(given)) > MAX_LENGTH:
        return True if gold.strip() == given.strip() else None
    expected, text = tidy(gold), tidy(given)
    if not expected or not text:
        return None
    if squeezed(expected) == squeezed(text) or same_meaning(expected, text):
        return True
    if max(depth(expected), depth(text)) > MAX_DEPTH:
        return None
    verdict = _compared(expected, text, explicit)
    unclear = any(map(_UNENDED.search, (gold, given))) or _one_is_solved(expected, text)
    return None if verdict is False and unclear else verdict


def _compared(expected: str, text: str, explicit: bool) -> bool | None:
    sides = _sides(expected), _sides(text)
    if max(map(len, sides)) > 1:
        verdicts = [same(a, b, explicit=explicit) for a, b in product(*sides)]
        return True if True in verdicts else False if False in verdicts else None
    verdict, applies = same_choices(expected, text)
    if applies:
        return verdict
    choice, given = _CHOICE.fullmatch(expected), _CHOICE.fullmatch(text)
    if choice and not given:
        is_letter = LETTER.fullmatch(text) or re.match(r"[A-J][.):]\s", text)
        return same(choice[1] if is_letter else choice[2], text, explicit=explicit)
    if given and not choice and not LETTER.fullmatch(expected):
        return same(expected, given[2], explicit=explicit)
    if _same_in_any_order(expected, text):
        return True
    for compare in (same_letters, same_truths, same_words):
        if compare is not same_words or is_words(expected) or is_words(text):
            verdict, applies = compare(expected, text, explicit)
            if applies:
                return verdict
    return _mathematics(expected, text)


def _same_in_any_order(gold: str, given: str) -> bool:
    """Whether two lists of words (red, blue) hold the same ones; yes and no have an order."""
    left, right = read_several(gold), read_several(given)
    if left is None or right is None or not {left.kind, right.kind} <= {"list", "set"}:
        return False
    if not all(is_words(part) and not is_truth(part) for part in left.parts + right.parts):
        return False
    return same_parts(left, right, _same_part) is True


def _sides(text: str) -> list[str]:
    """An exact value and its rounding (5/6, which is about 0.833), or the answer alone."""
    exact, sign, rounded = text.rpartition("\\approx ")
    return [exact.strip(), rounded.strip()] if sign and exact.strip() else [text]


def _one_is_solved(gold: str, given: str) -> bool:
    """Whether of two equations in the same variables one is solved for a variable alone."""
    names = _variables(gold)
    if len(names) < 2 or names != _variables(given):
        return False
    both = _SIDES.search(gold) and _SIDES.search(given)
    return bool(both) and bool(named(gold)[0]) != bool(named(given)[0])


def _variables(text: str) -> set[str]:
    return set(re.findall(r"[a-zA-Z]", re.sub(r"\\[a-zA-Z]+", "", text)))


def _mathematics(gold: str, given: str) -> bool | None:
    gold, given = _values(gold, given)
    given = with_point(given) if same_quantities(gold, gold)[1] else given
    if squeezed(gold) == squeezed(given):
        return True
    verdict, applies = same_quantities(gold, given)
    if applies:
        return verdict
    left, right = read_several(gold), read_several(given)
    if (left or right) and bool(_RELATION.search(gold)) != bool(_RELATION.search(given)):
        return None  # an interval may be written as an inequality
    if left and right:
        return same_parts(left, right, _same_part)
    if left or right:
        return part_alone(left or right, given if left else gold, _same_part)
    inner = [_without_brackets(text) for text in (gold, given)]
    if inner != [gold, given]:
        return _mathematics(*inner)
    return equal_values(gold, given)


def _values(gold: str, given: str) -> tuple[str, str]:
    """Both without the name that they are given for; two names stay, if they differ."""
    if not _variables(gold):  # 3 \cdot 4 = 12
        gold = _SIDES.split(gold)[-1].strip() or gold
    (name, value), (other, given_value) = (_named_once(text) for text in (gold, given))
    if name and other:
        return (value, given_value) if name == other else (gold, given)
    if not name and not read_several(given) and not _SIDES.search(gold):
        given_value = _SIDES.split(given_value)[-1].strip() or given_value
    return value, given_value


def _named_once(text: str) -> tuple[str, str]:
    """As `named`, but where the answer itself goes on with ``=`` it is left as it is."""
    name, value = named(text)
    return ("", text) if name and _SIDES.search(value) else (name, value)


def _without_brackets(text: str) -> str:
    inside, brackets = unwrapped(text)
    return inside if brackets in ("()", "{}") and inside else text


def _same_part(gold: str, given: str) -> bool | None:
    return same(gold, given, explicit=True)
