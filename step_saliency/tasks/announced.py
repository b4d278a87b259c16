r"""What does a text give as its final answer? Readings as they are written, the likeliest first.

    1. the last ``\boxed{...}`` or ``\fbox{...}`` (several side by side are one list)
    2. ``<|begin_of_box|>...<|end_of_box|>``, ``<answer>...</answer>``, or ``#### 42``
    3. the last announcement: "The answer is 3/5.", "**Answer:** B", "答案：8"
    4. the last line that holds an answer by itself: "**5/9**", "(B)", "so $x = 5$", "8 coins"

The first of these that is there is taken. Within it there may be several readings of the same
words ("8 coins": the line, the number), of which the first that can be compared counts. A number is
read with what belongs to it (:mod:`step_saliency.tasks.terms`).

When it misleads: without a box or an announcement the last number of the text is taken at its word,
unless another number stands in bold on a line of its own; then there is no answer. Behind a
preposition it may only describe the answer ("64 for 16 glasses"); the others are kept with it.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from step_saliency.tasks.several import named
from step_saliency.tasks.terms import CJK, NUMBER, terms
from step_saliency.tasks.units import Quantity, quantities


@dataclass(frozen=True)
class Reading:
    """One reading of a final answer.

    Attributes:
        text: The answer as it is written.
        explicit: Whether it was set apart by a mark (a box), so that all of it is the answer.
        certain: Whether it gives an answer at all; a whole sentence may say anything.
        partial: Whether it is the last number of a sentence, which may give others before it.
        others: What may be the answer in its place.
    """

    text: str
    explicit: bool = False
    certain: bool = True
    partial: bool = False
    others: tuple[str, ...] = ()


Reader: TypeAlias = Callable[[str], Iterator[Reading]]

_BOX = re.compile(r"\\(?:boxed|fbox|framebox)\s*(?:\{|(?=[^\s{]))")
_BETWEEN_BOXES = re.compile(r"[\s$,;.&\\()\[\]]*(?:and|or|und|et|y|和|或)?[\s$,;&\\()\[\]]*")
_GLM_BOX = re.compile(r"<\|begin_of_box\|>(.*?)<\|end_of_box\|>", re.DOTALL)
_TAG = re.compile(r"</?answer>")
_SAID = 4
"""Words from which on a marked answer is a sentence that gives it."""
_HASHES = re.compile(r"####[ \t]*(\S[^\n]*)")
_ANNOUNCEMENT = re.compile(
    r"(?:\b(?:(?:final|correct|right|best)\s+)?(?:answer|choice|option)"
    r"|\bfinal\s+(?:result|value))(?:\s+(?:to|for)\s+[^.:\n]{1,60}?)?"
    r"\s*(?:\b(?:is|are|(?:would|should|must|will)\s+be)\b\s*[:：]?|[:：=]|\n)"
    r"|(?:答案|正解|答え|정답|답)\s*(?:应该|应)?\s*(?:[是为はは은는]\s*[:：]?|[:：])"
    r"|\b(?:respuesta|réponse|antwort|risposta|resposta|ответ)(?:\s+(?:final|finale))?"
    r"\s*(?:[:：]|\b(?:es|est|ist|è|é)\b)",
    re.IGNORECASE,
)
_MARKUP = re.compile(r"\*{1,3}|__|`")
_SET_APART = re.compile(rf"{_MARKUP.pattern}|\$|\\[()]")
"""What may stand around a number before its unit."""
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)|[。！？]")
_REASON = re.compile(
    r"\s*,?\s+(?:because|since|which|who|where|when|so that|as (?:it|the|we|this|shown)|"
    r"given that)\b.*",
    re.IGNORECASE | re.DOTALL,
)
_LEAD = re.compile(
    r"(?:(?:therefore|thus|hence|simply|exactly|approximately|about|just|equal to|option|choice|"
    r"letter|the|an?(?=\s\w{2}))\b[\s,:]*)+",
    re.IGNORECASE,
)
_MATHS = re.compile(
    r"\$\$(.+?)\$\$|\$([^$\n]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]",
    re.DOTALL,
)
_BOLD = re.compile(r"\*\*([^*\n]{1,80})\*\*")
_NUMBER = re.compile(rf"(?:(?<![\w.])|(?<={CJK}))[-−]?{NUMBER}", re.IGNORECASE)
_LEADING = re.compile(rf"[$\\(]*({_NUMBER.pattern})[$\\)]*(?=\s+(?:[^\W\d_]|\())", re.IGNORECASE)
_RESULT = re.compile(
    r"[=≈:,;]|\b(?:is|are|or|and|times|plus|minus|than|i\.e|makes?|gives?|equals?)\b"
    r"|\b(?:to|by|x)\s+\d",
    re.IGNORECASE,
)
"""What may come before another number that is the answer: 5 times 7 is 35."""
_ASIDE = re.compile(r"\([^()]*\)")
_CASE = re.compile(
    r"(?<=[\w)}\]$%])\s+(?:for|when|if|at|with|where|given)\s+\$?[a-zA-Z]\s*=\s*[^,;=]*\Z"
)
"""What is given behind an answer: 3 for n = 5."""
_CIRCUMSTANCE = re.compile(
    r"\b(?:for|in|at|after|within|per|over|during|of|on|from|with|about|approximately|roughly)\s+"
    r"(?:(?:the|these|those|all|only|just|about|every)\s+)?[$€£]?\Z|\([^()]*\Z",
    re.IGNORECASE,
)
"""What stands before a number that may describe the answer: 64 for 16 glasses, 5 (mod 7)."""
_DENIAL = re.compile(r"\b(?:not|isn't|never)\b|不是|并非|不等于|ではな|じゃな|아니")
_LETTER_LINE = re.compile(
    r"\W*(?:option|choice)?\s*(?:\(([A-J])\)|([A-J])(?=\s*$|[.):]))", re.IGNORECASE
)
_ALONE = re.compile(r"(?:\*\*|__)\s*([-−$\\(\[]*\d(?!\d*[.)]\s)[^*_]*?)(?:\*\*|__)\.?")
"""A line that is a number in bold and nothing else."""
_WORD = re.compile(r"(?<![\\a-zA-Z])[^\W\d_]{2,}")
_ENVIRONMENT = re.compile(r"\\(?:begin|end)\{\w+\}")
_BULLET = re.compile(r"\A(?:[-*•–]|[-=]*>|=+|≈|\d+[.)](?=\s+\S))\s+")
_FORMULA = re.compile(r"[\s\da-zA-Zα-ω+\-−–*/^_=<>≤≥≈().,{}\[\]|\\$√∞°%!:·×÷±'′⁰¹²³⁴-⁹⁻&…¼-¾⅐-⅞]+")
"""What may stand in a line that is a formula and nothing else."""
_SEPARATOR = re.compile(r"\s*,\s*(?:(?:and|or)\s+)?|\s+(?:and|or)\s+", re.IGNORECASE)
_SHORT = 80
_REACH = 4000
"""Characters that are read of the end of a text, or behind an announcement."""
_GAP = 40
"""Characters that may stand between boxes of one list."""


def read_answers(text: str) -> list[Reading]:
    """Readings of the final answer of a text; none where there is no answer."""
    cut = _cut_box(text)
    if cut is not None:
        return list(_boxed(text[:cut]))
    return _first(text, (_boxed, _tagged)) or _unmarked(text)


def _first(text: str, readers: tuple[Reader, ...]) -> list[Reading]:
    """What the first reader gives that gives any."""
    for reader in readers:
        readings = list(dict.fromkeys(r for r in reader(text) if r.text.strip(" \n\t.$*")))
        if readings:
            return readings
    return []


def _unmarked(text: str) -> list[Reading]:
    return _first(_TAG.sub("", text), (_announced, _bare))


def announces(text: str) -> bool:
    """Whether a text sets its answer apart: in a box that closes, by a mark, or in words."""
    cut = _cut_box(text)
    readers = (_boxed, _tagged, _announced) if cut is None else (_boxed,)
    return any(r.text.strip(" \n\t.$*") for reader in readers for r in reader(text[:cut]))


def boxes(text: str) -> list[tuple[int, int, str]]:
    """Start, stop and content of each closed box, in order."""
    spans: list[tuple[int, int, str]] = []
    closings = _closings(text)
    position = 0
    while match := _BOX.search(text, position):
        position = match.end()
        if text[position - 1] != "{":
            bare = _BARE_BOX.match(text, position)
            spans += [(match.start(), bare.end(), bare[0])] if bare else []
        elif stop := closings.get(position):
            spans.append((match.start(), stop + 1, text[position:stop]))
            position = stop + 1
    return spans


_BARE_BOX = re.compile(r"[^\s$.,;\\]+")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)


def _closings(text: str) -> dict[int, int]:
    """Where each group closes, by where it begins (behind its brace)."""
    closings: dict[int, int] = {}
    opened: list[int] = []
    for match in _BRACE.finditer(text):
        if match[0] == "{":
            opened.append(match.end())
        elif match[0] == "}" and opened:
            closings[opened.pop()] = match.start()
    return closings


def closing_brace(text: str, start: int) -> int | None:
    """Where the group that begins at ``start`` (behind its brace) closes; None if it never does."""
    stop = _closings(text[start - 1 :]).get(1)
    return None if stop is None else stop + start - 1


def _cut_box(text: str) -> int | None:
    """Where a last box begins that never closes: it was cut off, and so may its content be."""
    start = max(text.rfind(name) for name in ("\\boxed{", "\\fbox{"))
    if start < 0 or closing_brace(text, text.index("{", start) + 1) is not None:
        return None
    return start


def _boxed(text: str) -> Iterator[Reading]:
    spans = [span for span in boxes(text) if span[2].strip()]
    group = spans[-1:]
    for span in reversed(spans[:-1]):
        between = text[span[1] : group[0][0]]
        if len(between) > _GAP or not _BETWEEN_BOXES.fullmatch(between):
            break
        group.insert(0, span)
    contents = list(dict.fromkeys(content.strip() for _, _, content in group))
    if contents:
        yield Reading(", ".join(contents), explicit=True)


def _tagged(text: str) -> Iterator[Reading]:
    stop = text.rfind("</answer>")
    start = text.rfind("<answer>", 0, max(stop, 0))
    hashes = _HASHES.findall(text)
    boxed = _GLM_BOX.findall(text)
    if boxed and boxed[-1].strip():
        yield Reading(boxed[-1].strip(), explicit=True)
    elif start >= 0:
        yield from _between_tags(_TAG.sub("", text[start:stop]).strip())
    elif hashes:
        yield Reading(hashes[-1].strip(), explicit=True)


def _between_tags(content: str) -> Iterator[Reading]:
    """An answer between tags is all of what stands there, unless that is a sentence."""
    words = len(_WORD.findall(content))
    if words < _SAID:
        yield Reading(content, explicit=True)
    if words:
        yield from _unmarked(content)


def _announced(text: str) -> Iterator[Reading]:
    plain = _MARKUP.sub("", text)
    for match in reversed(list(_ANNOUNCEMENT.finditer(plain))):
        sentence = _CASE.sub("", _sentence(plain[match.end() :]))
        if re.search(r"\w", sentence):
            yield Reading(sentence)
            yield from _leading(sentence)
            yield from _inside(sentence)
            return


def _leading(sentence: str) -> Iterator[Reading]:
    """The number that a sentence begins with, where others are circumstances: 12 in 3 days."""
    match = _LEADING.match(sentence)
    if match is None:
        return
    measured = _measured(sentence, *match.span(1))
    stop = measured.stop if measured else match.end()
    if _RESULT.search(_ASIDE.sub("", sentence[stop:])):
        return
    if measured:
        yield Reading(_without_dollars(sentence[measured.start : measured.stop]))
    if not (measured and measured.is_sum):
        yield Reading(match[1].strip())


def _sentence(text: str) -> str:
    line = next(
        (line for line in text[:_REACH].split("\n") if re.search(r"[\w∞]", line)), ""
    ).strip()
    if line in (r"\[", r"\(", "$$"):
        line = ""
    maths = _MATHS.match(text[:_REACH].lstrip(" \n:>-"))
    if maths and "\n" in maths[0]:
        return next(group for group in maths.groups() if group)
    end = next((m for m in _SENTENCE_END.finditer(line) if _is_end(line, m.start())), None)
    sentence = line[: end.start()] if end else line
    reduced = _REASON.sub("", sentence)
    lead = _LEAD.match(reduced)
    rest = reduced[lead.end() :] if lead else reduced
    return (rest if re.search(r"\w", rest) else reduced).strip()


def _is_end(line: str, place: int) -> bool:
    """Whether a stop ends a sentence: it stands in no formula, and in no sum (5 ft. 3 in.)."""
    in_sum = any(q.is_sum and q.start < place < q.stop for q in quantities(line))
    return not in_sum and line[:place].count("$") % 2 == 0


def _bare(text: str) -> Iterator[Reading]:
    lines = _lines(text[-_REACH:])
    for line in reversed(lines):
        readings = list(_line(line))
        if readings:
            alone = [match[1] for match in map(_ALONE.fullmatch, lines) if match]
            if not alone or readings[0].text.strip("$ ") == alone[-1].strip("$ "):
                yield from readings
            return
    whole = _MARKUP.sub("", text).strip()
    if whole and len(whole) <= _SHORT and "\n" not in whole:
        yield Reading(whole, certain=False)


def _lines(text: str) -> list[str]:
    """Lines, displayed formulas made one line each."""
    joined = re.sub(
        r"\$\$.+?\$\$|\\\[.+?\\\]", lambda m: " ".join(m[0].split()), text, flags=re.DOTALL
    )
    return [line.strip() for line in joined.split("\n") if line.strip()]


def _line(line: str) -> Iterator[Reading]:
    plain = _MARKUP.sub("", line)
    letter = _LETTER_LINE.match(plain)
    if letter:
        yield Reading(letter[1] or letter[2])
    for match in reversed(list(_BOLD.finditer(line))):
        bold = match[1]
        if bold.endswith(":") and not line.endswith("**"):
            continue  # a heading
        if re.search(r"\d", bold) or _LETTER_LINE.match(bold):
            measured = _measured(line, *match.span(1))
            if not (measured and measured.is_sum):  # **3** hours and **20** minutes
                yield Reading(bold.strip())
                yield from _inside(bold)
            break
    if re.search(r"[\dπ∞]", plain) and not _WORD.search(_ENVIRONMENT.sub("", plain)):
        whole = _BULLET.sub("", line.strip("*` "), count=1)
        if "," in plain or _FORMULA.fullmatch(whole):
            yield Reading(whole)
    yield from _inside(plain)
    if len(plain) <= _SHORT and re.search(r"\d", plain):
        yield Reading(plain, partial=True)


def _inside(sentence: str) -> Iterator[Reading]:
    """The last formula or number of a sentence, whichever comes last."""
    if _DENIAL.search(sentence):
        return
    sentence = _CASE.sub("", sentence)
    formulas = [(m.start(), m.end()) for m in _MATHS.finditer(sentence)]
    spans = list(terms(sentence))
    if formulas and (not spans or spans[-1][0] < formulas[-1][1]):
        spans = formulas
    measured = _measured(sentence, *spans[-1]) if spans else None
    if measured:
        before = [span for span in spans if span[1] <= measured.start]
        yield _last_of(sentence, [*before, (measured.start, measured.stop)])
    if spans and not (measured and measured.is_sum):
        yield _last_of(sentence, spans)


def _measured(sentence: str, start: int, stop: int) -> Quantity | None:
    """The time, length or weight that the number between two places is, or is a part of."""
    plain = _SET_APART.sub(lambda match: " " * len(match[0]), sentence)
    number = plain[start:stop]
    start, stop = stop - len(number.lstrip()), start + len(number.rstrip())
    return next((q for q in quantities(plain) if q.start <= start and stop <= q.stop), None)


def _last_of(sentence: str, spans: list[tuple[int, int]]) -> Reading:
    """The formulas or numbers in a row that a sentence ends in, or the last one."""
    texts = [_without_dollars(sentence[start:stop]) for start, stop in spans]
    first = _first_listed(sentence, spans)
    if first is not None:
        names = {name for name, _ in map(named, texts[first:]) if name}
        return Reading(
            ", ".join(texts[first:]),
            others=tuple(texts[first:]) if len(names) > 1 else (),
        )
    is_number = not _MATHS.fullmatch(sentence, *spans[-1])
    described = _CIRCUMSTANCE.search(sentence[: spans[-1][0]])
    others = tuple(texts[:-1]) if is_number and described else ()
    return Reading(texts[-1], partial=is_number or len(texts) > 1, others=others)


def _without_dollars(text: str) -> str:
    maths = _MATHS.fullmatch(text)
    if maths:
        return next(group for group in maths.groups() if group).strip()
    return _SET_APART.sub("", text)


def _first_listed(sentence: str, spans: list[tuple[int, int]]) -> int | None:
    """Where the list begins that a sentence ends in ("1, 2 and 3"); "in step 2, 29" has none."""
    first, words = len(spans) - 1, []
    while first:
        between = sentence[spans[first - 1][1] : spans[first][0]]
        if not (separator := _SEPARATOR.fullmatch(between)):
            break
        words.append(separator[0].strip(" ,").lower())
        first -= 1
    return first if len(words) > 1 or "and" in words or "or" in words else None
