r"""One spelling for answers that are written in several: LaTeX, markdown, Unicode, units in words.

``tidy`` takes away what does not change an answer (dollars, ``\left``, bold, trailing stops,
wrappers such as ``\text{}``) and spells signs as LaTeX does. It never evaluates anything.
"""

import re
import unicodedata

from step_saliency.tasks.announced import closing_brace

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_SIGNS = {
    "−": "-",
    "–": "-",
    "×": r" \times ",
    "·": r" \cdot ",
    "÷": "/",
    "π": r" \pi ",
    "∞": r" \infty ",
    "±": r" \pm ",
    "≤": r" \le ",
    "≥": r" \ge ",
    "≈": r" \approx ",
    "∪": r" \cup ",
    "∈": r" \in ",
    "°": r" degrees",
    "¢": " cents",
    "∅": r" \emptyset ",
    "，": ",",
}
_DROPPED = re.compile(
    r"\\(?:left|right|bigl|bigr|big|Big|displaystyle|limits|quad|qquad)(?![a-zA-Z])"
    r"|(?<!\\)\\[!,;:()\[\]]|(?<!\\)\\\s|\*\*|__|`|~|\\?\$|[€£](?=\s*\d)"
)
_WRAPPER = re.compile(
    r"\\(?:text|textbf|textit|textrm|texttt|mathrm|mathbf|mathit|mathsf|mbox|operatorname|"
    r"boxed|fbox)\s*\{"
)
_ENDS = " \t\r\n.,;:?。；：？、"
_NAMES = (
    (re.compile(r"\\[dtc]frac(?![a-zA-Z])"), r"\\frac"),
    (re.compile(r"\\(?:leq|leqslant)(?![a-zA-Z])"), r"\\le "),
    (re.compile(r"\\(?:geq|geqslant)(?![a-zA-Z])"), r"\\ge "),
    (re.compile(r"\^\s*\{?\s*\\circ\s*\}?"), " degrees"),
    (re.compile(r"\\varnothing(?![a-zA-Z])"), r"\\emptyset "),
    (re.compile(r"\\%"), "%"),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"(?<![\\a-zA-Z])pi(?![a-zA-Z])"), r"\\pi "),
    (re.compile(r"(?<![\\a-zA-Z])(?:infinity|infty|inf|oo)(?![a-zA-Z])"), r"\\infty "),
    (re.compile(r"(?<![\\a-zA-Z])sqrt(?=\s*[({\d])"), r"\\sqrt"),
    (re.compile(r"√\s*(\d+|[a-z]|(?=[({]))"), r"\\sqrt{\1}"),
    (re.compile(r"\\sqrt\{\}\s*(?=[({])"), r"\\sqrt"),
    (re.compile(r"\\sqrt\s*\(([^()]*)\)"), r"\\sqrt{\1}"),
)
_SPACES = re.compile(r"\s+")


def tidy(answer: str) -> str:
    """An answer without what does not change it, in one spelling."""
    text = _plain_characters(answer)
    text = _THIN_SPACE.sub("", text)
    text = _unwrapped(_DROPPED.sub(" ", text))
    for pattern, spelling in _NAMES:
        text = pattern.sub(spelling, text)
    text = re.sub(r"(?<=\{) | (?=\})", "", _SPACES.sub(" ", text))
    return text.rstrip(_ENDS).lstrip(" ,;:：").strip()


_THIN_SPACE = re.compile(r"(?<=\d,)\\!\s*(?=\d)|(?<=\d)\\[,!]\s*(?=\d{3})")


def squeezed(text: str) -> str:
    """A tidy answer without any spaces or spare braces: what is equal here is the same answer."""
    bare = re.sub(r"(?<!\d) | (?!\d)", "", text)  # 2 2/3 is not 22/3
    bare = re.sub(r"([\^_])\{(\w)\}", r"\1\2", bare)
    return re.sub(r"\\frac\{(\w)\}\{(\w)\}", r"\\frac\1\2", bare)


def _plain_characters(answer: str) -> str:
    text = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺]+", lambda m: f"^{{{m[0].translate(_SUPERSCRIPTS)}}}", answer)
    text = re.sub("[₀-₉]+", lambda m: f"_{{{m[0].translate(_SUBSCRIPTS)}}}", text)
    text = re.sub("[½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞]", _vulgar_fraction, text)
    for sign, spelling in _SIGNS.items():
        text = text.replace(sign, spelling)
    return unicodedata.normalize("NFKC", text)


def _vulgar_fraction(match: re.Match[str]) -> str:
    return " " + unicodedata.normalize("NFKC", match[0]).replace("\u2044", "/")


def _unwrapped(text: str) -> str:
    """The text without ``\\text{}`` and its like, however deep."""
    while match := _WRAPPER.search(text):
        stop = closing_brace(text, match.end())
        if stop is None:
            return text[: match.start()] + " " + text[match.end() :]
        text = f"{text[: match.start()]} {text[match.end() : stop]} {text[stop + 1 :]}"
    return text
