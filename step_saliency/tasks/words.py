"""Letters of choices, yes and no, words: whether two answers that hold them say the same.

A comparison says its verdict and whether it applies at all; None is what cannot be said.
"""

import re

from step_saliency.tasks.numbers import read_number

LETTER = re.compile(r"\(?\s*([A-J])\s*\)?")
_LED_LETTER = re.compile(
    r"(?:(?:option|choice|answer)\s+)?\(?\s*([A-Ja-j])\s*(?:[).:,]|-\s|$).*", re.DOTALL
)
_NAMED_LETTER = re.compile(
    r"(?:option|choice|answer)\s+\(?\s*([A-Ja-j])\b.*", re.DOTALL | re.IGNORECASE
)
_AND_ANOTHER = re.compile(
    r"[\s).:]*(?:,?\s*(?:and|or)\b|[,;/&+])(?:\s*(?:option|choice))?[\s(]*[A-HJ]\b(?!')"
)
"""Behind the letter of a choice: another one, so that the first is not all of the answer."""
_CHOICES = re.compile(
    r"[(\[{]?\s*[A-J]\)?(?:[\s(]*(?:(?:[,;/&+、]|\band\b|\bor\b)[\s(]*)+[A-J]\)?)+[\W_]*"
)
_GLUED = re.compile(r"[A-J]{2,}")
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


def same_meaning(gold: str, given: str) -> bool:
    """Whether two answers are known ways to say the same, such as DNE and "does not exist"."""
    meaning, other = (
        _MEANINGS.get(re.sub(r"[\W_]+", " ", text).strip().casefold().removesuffix("s"))
        for text in (gold, given)
    )
    return meaning is not None and meaning == other


def same_letters(gold: str, given: str, explicit: bool) -> tuple[bool | None, bool]:
    """Verdict on the letter of a choice, and whether the gold answer is one."""
    if not (letter := LETTER.fullmatch(gold)):
        return None, False
    led = _LED_LETTER.fullmatch(given) or _NAMED_LETTER.fullmatch(given)
    if _CHOICES.fullmatch(given):
        return False, True
    if led and _AND_ANOTHER.match(given, led.end(1)):
        return None, True
    if led:
        return led[1].upper() == letter[1], True
    return None, True


def same_choices(gold: str, given: str) -> tuple[bool | None, bool]:
    """Verdict on the letters of several choices, one of them at least written apart (A, C)."""
    lists = [bool(_CHOICES.fullmatch(text)) for text in (gold, given)]
    glued = [bool(_GLUED.fullmatch(text)) for text in (gold, given)]
    if not any(lists) or sum(lists) + sum(glued) < 2:
        return None, False
    letters = [re.findall("[A-J]", text) for text in (gold, given)]
    if set(letters[0]) != set(letters[1]):
        return False, True
    written = letters[glued.index(True)] if any(glued) else []
    ordered = written != sorted(written)  # CAB may be an order, or a word
    return (None if ordered and letters[0] != letters[1] else True), True


def is_truth(text: str) -> bool:
    """Whether a text is yes, no, true or false."""
    return text.lower() in _TRUTH


def same_truths(gold: str, given: str, explicit: bool) -> tuple[bool | None, bool]:
    """Verdict on yes, no, true or false, and whether the gold answer is one of them."""
    if gold.lower() not in _TRUTH:
        return None, False
    word = re.match(r"\W*(\w+)", given)
    truth = _TRUTH.get(word[1].lower()) if word else None
    return (None if truth is None else truth == _TRUTH[gold.lower()]), True


def same_words(gold: str, given: str, explicit: bool) -> tuple[bool | None, bool]:
    """Verdict on words, and whether they are to be compared as such.

    Args:
        gold: The tidy gold answer.
        given: The tidy answer.
        explicit: Whether all of it is the answer, so that words are no number and no formula.
    """
    one, other = _folded(gold), _folded(given)
    if one == other:
        return True, True
    if read_number(gold) is not None and read_number(given) is not None:
        return None, False
    if not is_words(gold):
        if read_number(given) is not None:
            return None, False
        return (False if explicit else None), True
    if re.search(rf"\b{re.escape(one)}\b", other):
        return None, True
    if is_words(given):
        return False, True
    return (False if explicit else None), True


def _folded(text: str) -> str:
    words = re.sub(r"^(?:the|an?)\s+", "", re.sub(r"[\W_]+", " ", text).strip().casefold())
    return re.sub(r"(?<=\w{3})(?<!s)s\b", "", words)


def is_words(text: str) -> bool:
    """Whether a text is words and no formula."""
    return not re.search(r"[\d\\^=+*<>]", text) and any(
        word not in _FUNCTIONS for word in _PLAIN_WORD.findall(text)
    )


def has_prose(text: str) -> bool:
    """Whether words stand in a text that are no names of functions."""
    return any(word.lower() not in _FUNCTIONS for word in _PLAIN_WORD.findall(text))
