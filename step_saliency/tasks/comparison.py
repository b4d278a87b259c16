r"""Are two answers the same? True, False, or None where that cannot be said.

    letters      B, (B), \text{B}, "B: the second one"            by the letter
    choices      \textbf{(D)}\ 24                                by the letter or by the value
    words        Evelyn, yes, no solution                          by the words
    numbers      3/5, 2 2/3, 1.5e3, 2516_7, 5 cm, 6.17\%           exactly, see `numbers`, `units`
    several      1, 2 · \{1, 2\} · (1, 2) · [1, 2) \cup (3, 4)     part by part, see `several`
    the rest     x^2 + 1, \frac{\pi}{6}, matrices                  by their value, see `symbolic`

A number where a letter or words are due (and the other way round) cannot be compared, unless it was
boxed: then all of it is the answer.
"""

import re
from dataclasses import replace
from itertools import product, starmap

from step_saliency.tasks.numbers import Number, equal_numbers, is_misspelled, read_number
from step_saliency.tasks.several import Several, depth, named, read_several, unwrapped
from step_saliency.tasks.symbolic import equal_expressions
from step_saliency.tasks.units import SIZES, factor, in_one_unit, is_percent, split_unit
from step_saliency.tasks.written import squeezed, tidy

_LETTER = re.compile(r"\(?\s*([A-J])\s*\)?")
_LED_LETTER = re.compile(
    r"(?:(?:option|choice|answer)\s+)?\(?\s*([A-Ja-j])\s*(?:[).:,]|-\s|$).*", re.DOTALL
)
_NAMED_LETTER = re.compile(
    r"(?:option|choice|answer)\s+\(?\s*([A-Ja-j])\b.*", re.DOTALL | re.IGNORECASE
)
_CHOICE = re.compile(r"\(([A-J])\)\s*(.*\w.*)", re.DOTALL)
_MEANINGS = {
    "dne": "nothing there",
    "does not exist": "nothing there",
    "all real number": "reals",
    "all real": "reals",
    "real number": "reals",
    "any real number": "reals",
    "mathbb r": "reals",
    "empty set": "no solution",
    "emptyset": "no solution",
    "no solution": "no solution",
}
"""What some words and signs say, without their plural."""
_TRUTH = {"yes": True, "no": False, "true": True, "false": False}
_PLAIN_WORD = re.compile(r"(?<![\\a-zA-Z])[^\W\d_]{3,}")
_FUNCTIONS = frozenset(
    [
        "sin",
        "cos",
        "tan",
        "cot",
        "sec",
        "csc",
        "log",
        "exp",
        "sqrt",
        "frac",
        "arcsin",
        "arccos",
        "arctan",
        "sinh",
        "cosh",
        "tanh",
        "max",
        "min",
        "mod",
        "infty",
        "pmatrix",
        "bmatrix",
        "vmatrix",
        "matrix",
        "array",
        "begin",
        "end",
        "cases",
        "det",
        "gcd",
        "lcm",
    ]
)
_SIDES = re.compile(r"(?<![<>!\\:])=(?!=)|\\approx(?![a-z])")
_RELATION = re.compile(r"[<>]|\\(?:le|ge|ne|neq|lt|gt|mathbb|setminus)(?![a-zA-Z])")
_SHORT_WORD = re.compile(
    r"(?<![\\a-zA-Z])(?:of|in|to|or|at|by|as|is|it|if|on|so|an)(?=\s+[a-zA-Z\d])"
    r"|(?<=[\d%])\s+a(?=\s+[a-z]{2})"
)
_UNENDED = re.compile(r"\.\d+\s*(?:…|\.{2,3}|\\[lc]?dots)")
_SUBSCRIPTED = re.compile(r"\d\s*_")
MAX_PARTS = 100
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
    if squeezed(expected) == squeezed(text) or _mean_the_same(expected, text):
        return True
    if max(depth(expected), depth(text)) > MAX_DEPTH:
        return None
    verdict = _compared(expected, text, explicit)
    unclear = any(map(_UNENDED.search, (gold, given))) or _one_is_solved(expected, text)
    return None if verdict is False and unclear else verdict


def _mean_the_same(gold: str, given: str) -> bool:
    meaning, other = (
        _MEANINGS.get(re.sub(r"[\W_]+", " ", text).strip().casefold().removesuffix("s"))
        for text in (gold, given)
    )
    return meaning is not None and meaning == other


def _compared(expected: str, text: str, explicit: bool) -> bool | None:
    sides = _sides(expected), _sides(text)
    if max(map(len, sides)) > 1:
        verdicts = [same(a, b, explicit=explicit) for a, b in product(*sides)]
        return True if True in verdicts else False if False in verdicts else None
    choice, given = _CHOICE.fullmatch(expected), _CHOICE.fullmatch(text)
    if choice and not given:
        is_letter = _LETTER.fullmatch(text) or re.match(r"[A-J][.):]\s", text)
        return same(choice[1] if is_letter else choice[2], text, explicit=explicit)
    if given and not choice and not _LETTER.fullmatch(expected):
        return same(expected, given[2], explicit=explicit)
    for compare in (_letters, _truths, _words):
        if compare is not _words or _is_words(expected) or _is_words(text):
            verdict, applies = compare(expected, text, explicit)
            if applies:
                return verdict
    return _mathematics(expected, text)


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


def _letters(gold: str, given: str, explicit: bool) -> tuple[bool | None, bool]:
    if not (letter := _LETTER.fullmatch(gold)):
        return None, False
    led = _LED_LETTER.fullmatch(given) or _NAMED_LETTER.fullmatch(given)
    if led:
        return led[1].upper() == letter[1], True
    return None, True


def _truths(gold: str, given: str, explicit: bool) -> tuple[bool | None, bool]:
    if gold.lower() not in _TRUTH:
        return None, False
    word = re.match(r"\W*(\w+)", given)
    truth = _TRUTH.get(word[1].lower()) if word else None
    return (None if truth is None else truth == _TRUTH[gold.lower()]), True


def _words(gold: str, given: str, explicit: bool) -> tuple[bool | None, bool]:
    """Words against words; words against anything else only where all of it is the answer."""
    one, other = _folded(gold), _folded(given)
    if one == other:
        return True, True
    if read_number(gold) is not None and read_number(given) is not None:
        return None, False
    if not _is_words(gold):
        if read_number(given) is not None:
            return None, False
        return (False if explicit else None), True
    if re.search(rf"\b{re.escape(one)}\b", other):
        return None, True
    if _is_words(given):
        return False, True
    return (False if explicit else None), True


def _folded(text: str) -> str:
    words = re.sub(r"^(?:the|an?)\s+", "", re.sub(r"[\W_]+", " ", text).strip().casefold())
    return re.sub(r"(?<=\w{3})(?<!s)s\b", "", words)


def _is_words(text: str) -> bool:
    return not re.search(r"[\d\\^=+*<>]", text) and any(
        word not in _FUNCTIONS for word in _PLAIN_WORD.findall(text)
    )


def _mathematics(gold: str, given: str) -> bool | None:
    gold, given = _values(gold, given)
    given = _with_point(given) if _numbers(gold, gold)[1] else given
    if squeezed(gold) == squeezed(given):
        return True
    verdict, applies = _numbers(gold, given)
    if applies:
        return verdict
    left, right = read_several(gold), read_several(given)
    if (left or right) and bool(_RELATION.search(gold)) != bool(_RELATION.search(given)):
        return None  # an interval may be written as an inequality
    if left and right:
        return _same_parts(left, right)
    if left or right:
        return _part_alone(left or right, given if left else gold)
    inner = [_without_brackets(text) for text in (gold, given)]
    if inner != [gold, given]:
        return _mathematics(*inner)
    return _expressions(gold, given)


_DECIMAL_COMMA = re.compile(r"([-+]?)(\d{1,3}(?:\.\d{3})+|\d+),(\d+)(?![\d,])(.*)", re.DOTALL)


def _with_point(text: str) -> str:
    """A number with a decimal comma (3,5 or 1.234,5) with a point; 1,234 has none."""
    match = _DECIMAL_COMMA.fullmatch(text)
    if match is None or re.match(r"\s*,", match[4]):
        return text
    sign, whole, decimals, rest = match.groups()
    groups = len(decimals) == 3 and "." not in whole and len(whole) <= 3 and whole[0] != "0"
    return text if groups else f"{sign}{whole.replace('.', '')}.{decimals}{rest}"


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


def _numbers(gold: str, given: str) -> tuple[bool | None, bool]:
    """Verdict on two numbers with their units, and whether they are numbers."""
    sums = in_one_unit(gold), in_one_unit(given)
    if any(sums):
        pairs = product(sums[0] or [gold], sums[1] or [given])
        found = [verdict for verdict, applies in starmap(_numbers, pairs) if applies]
        return True if True in found else None if None in found else False, bool(found)
    sides = [(read_number(text), *split_unit(text)) for text in (gold, given)]
    numbers = [number or read_number(body) for number, body, _ in sides]
    if numbers[0] is not None and numbers[0].base is not None and is_misspelled(given):
        return False, True
    units = ["" if number else unit for number, _, unit in sides]
    if numbers[0] is None or numbers[1] is None:
        return None, False
    verdict = _measured(*_in_full(numbers[0], units[0]), *_in_full(numbers[1], units[1]))
    if not verdict and _measured(numbers[0], units[0], numbers[1], units[1]):
        return None, True  # 3 against 3 million: the question may ask for millions
    return verdict, True


def _in_full(number: Number, unit: str) -> tuple[Number, str]:
    """A number with the word of size that stands before its unit: 3 million is 3000000."""
    word, _, rest = unit.partition(" ")
    if word not in SIZES:
        return number, unit
    return _in_full(replace(number, value=number.value * SIZES[word], decimals=None), rest)


def _measured(gold: Number, gold_unit: str, given: Number, given_unit: str) -> bool | None:
    if is_percent(gold_unit) != is_percent(given_unit) and not (gold_unit and given_unit):
        return _percents(gold, gold_unit, given)
    if {gold_unit, given_unit} == {"cent", ""} and not equal_numbers(gold, given):
        cents, dollars = (gold, given) if gold_unit else (given, gold)
        return cents.value == 100 * dollars.value
    scale = factor(gold_unit, given_unit)
    if scale is False:
        return False
    if scale is None:
        return None if equal_numbers(gold, given) else False
    if scale == 1:
        return equal_numbers(gold, given)
    return gold.value == given.value * scale


def _percents(gold: Number, gold_unit: str, given: Number) -> bool | None:
    """One side has a percent sign: 50% is 0.5, and is written 50 where the sign is left out."""
    hundredth = gold.value / 100 if is_percent(gold_unit) else gold.value
    other = given.value if is_percent(gold_unit) else given.value / 100
    if hundredth == other:
        return True
    if equal_numbers(gold, given):
        return True if abs(gold.value) >= 1 else None
    return False


def _same_parts(gold: Several, given: Several) -> bool | None:
    if max(len(gold.parts), len(given.parts)) > MAX_PARTS:
        return None
    kinds = {gold.kind, given.kind}
    if kinds == {"tuple"}:
        return gold.brackets == given.brackets and _in_order(gold.parts, given.parts)
    if kinds <= {"list", "set"} or kinds == {"union"}:
        return _in_any_order(gold.parts, given.parts)
    if kinds == {"list", "tuple"}:
        ordered = _in_order(gold.parts, given.parts)
        return None if ordered is False and _in_any_order(gold.parts, given.parts) else ordered
    return False


def _part_alone(parts: Several | None, plain: str) -> bool | None:
    """Several parts against one: the same if the parts are one value, written several times."""
    if parts is not None and parts.kind == "tuple" and _numbers(",".join(parts.parts), plain)[0]:
        return None  # (1,234) against 1234: a pair, or a number in brackets
    if parts is not None and parts.kind == "tuple" and "\\begin{" in plain:
        return None  # a point, or the column of its coordinates
    if parts is not None and parts.kind in ("list", "set") and len(parts.parts) <= MAX_PARTS:
        verdicts = [_mathematics_or_words(plain, part) for part in parts.parts]
        if all(verdicts):
            return True
    return False if _is_readable(plain) else None


def _in_order(gold: tuple[str, ...], given: tuple[str, ...]) -> bool | None:
    if len(gold) != len(given):
        return False
    verdicts = [_mathematics_or_words(a, b) for a, b in zip(gold, given, strict=True)]
    return False if False in verdicts else None if None in verdicts else True


def _in_any_order(gold: tuple[str, ...], given: tuple[str, ...]) -> bool | None:
    """Each part has a partner; parts that are written twice count once."""
    unclear = False
    for these, those in ((gold, given), (given, gold)):
        for part in these:
            verdicts = [_mathematics_or_words(part, other) for other in those]
            if True not in verdicts:
                if None not in verdicts:
                    return False
                unclear = True
    return None if unclear else True


def _mathematics_or_words(gold: str, given: str) -> bool | None:
    return same(gold, given, explicit=True)


def _is_readable(text: str) -> bool:
    """Whether a part that is no list can be read as one value."""
    return _numbers(text, text)[1] or not _prose(text)


def _prose(text: str) -> bool:
    return any(word.lower() not in _FUNCTIONS for word in _PLAIN_WORD.findall(text))


def _expressions(gold: str, given: str) -> bool | None:
    (left, unit), (right, given_unit) = split_unit(gold), split_unit(given)
    if _prose(left) or _prose(right) or any(map(_SHORT_WORD.search, (gold, given))):
        return None
    if _SUBSCRIPTED.search(left) or _SUBSCRIPTED.search(right):
        return None  # math-verify drops the base of a number
    scale = factor(unit, given_unit)
    if scale is False:
        return False
    if scale is not None and scale != 1:
        right = rf"\frac{{{scale.numerator}}}{{{scale.denominator}}} \cdot ({right})"
    verdict = equal_expressions(_latex(left), _latex(right))
    if {unit, given_unit} == {"degree", ""} and "\\pi" in left + right:
        return verdict or None  # the other side may be in radians
    return None if verdict and scale is None else verdict


def _latex(text: str) -> str:
    """An expression in which numbers are written so that nothing in them is read as a product."""
    number = read_number(text)
    if number is not None and number.base is None:
        value = number.value
        if number.decimals is None and value.denominator != 1:
            return rf"\frac{{{value.numerator}}}{{{value.denominator}}}"
    return re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)
