"""Names under which rows keep a question, a gold answer, a judgement; text that was not read."""

import re
from collections.abc import Collection, Mapping
from string import ascii_uppercase
from typing import Any

from step_saliency.runs.inputs.reading import is_marked
from step_saliency.runs.inputs.shapes import checked_text, described, scalar_text
from step_saliency.runs.inputs.written import from_text

QUESTIONS = ("question", "problem", "query", "instruction", "input", "question_content")
GOLD = (
    "gold_answer",
    "gold",
    "expected_answer",
    "ground_truth",
    "reward_model.ground_truth",
    "reference_answer",
    "verification_info.ground_truth",
    "metadata.expected_answer",
    "correct_answer",
    "gt_answer",
    "target",
    "gts",
    "gt",
    "answer",
    "final_answer",
)
WORKED = ("ground_truth_solution", "solution")
"""Worked gold solutions, whose last boxed answer is taken where there is no gold answer."""
CHOICES = ("choices", "options")
"""Texts of which a gold answer may name one by its number."""
VERDICTS = ("is_correct", "correct", "symbolic_correct", "acc", "graded_list")
IDS = ("id", "trace_id", "unique_id")
HINTS = re.compile(
    r"respon|reason|think|thought|trac|traject|\bcot\b|_cot|cot_|chain|generat|output|complet|"
    r"solution|attempt|rationale|explan|analysis|reply|message|conversation|resps|predict|"
    r"rollout|sample|transcript|dialog|chosen|rejected",
    re.IGNORECASE,
)
"""Names under which a trace may stand."""
FACTS = re.compile(
    r"_model$|_type$|_source$|_reason$|_is_\w+$|^(model|source|url|license|usage|metadata|meta|"
    r"extra_info|sampling_params|reward_model|is_reasoning_complete|finish_reasons?|generator|"
    r"predicted_answer|user_message|responseid|stopreason|"
    r"api_metadata|.*_count|.*_hash|n_\w+|num_\w+|.*_tokens|.*_id|id)$",
    re.IGNORECASE,
)
"""Names of what is known about a row, whatever it looks like."""
LONG = 200
"""Characters from which a text may be a trace whatever its name is."""
_SWITCHES = frozenset({"on", "off", "true", "false", "yes", "no", "low", "medium", "high", "none"})
"""What a field says that switches thinking on or off, or is a label."""


def is_switch(value: object) -> bool:
    """Whether a value says that there was thinking, or how much, and not what was thought."""
    return isinstance(value, bool) or (
        isinstance(value, str) and value.strip().lower() in _SWITCHES
    )


def plain_name(name: str) -> str:
    """``correct_answer`` for ``Correct Answer``."""
    return "_".join(name.lower().split())


def with_plain_names(data: Mapping[str, Any], known: Collection[str]) -> Mapping[str, Any]:
    """A row in which ``Problem`` or ``Correct Answer`` has its name in lower case, where known.

    Args:
        data: The row.
        known: Names that are read.
    """
    plain = {name: plain_name(name) for name in data if isinstance(name, str)}
    new = {name: to for name, to in plain.items() if to != name and to in known and to not in data}
    if not new or len(set(new.values())) < len(new):
        return data
    return {new.get(name, name): value for name, value in data.items()}


def at_path(data: Mapping[str, Any], path: str) -> Any:
    """Value of a field, or of a field in it (``doc.question``, ``resps.0``); None if absent.

    A field that is written as text is looked into too (``verification_info.ground_truth``).
    """
    if path in data:
        return data[path]
    plain = plain_name(path)
    if plain in data:
        return data[plain]
    value: Any = data
    for part in path.split("."):
        value = from_text(value)
        if isinstance(value, Mapping):
            value = value.get(part)
        elif isinstance(value, list | tuple) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    return value


def question_of(data: Mapping[str, Any], names: Collection[str] = QUESTIONS) -> str:
    """Text of the question, empty if the row has none.

    Raises:
        ValueError: the field holds something else than text.
    """
    name = next((name for name in names if data.get(name)), None)
    if name is None:
        return ""
    text = checked_text(data[name], name)
    extra = data.get("input")
    if name == "instruction" and isinstance(extra, str) and extra.strip():
        return f"{text}\n\n{checked_text(extra, 'input')}"
    return text


def gold_of(data: Mapping[str, Any]) -> str | None:
    """Gold answer, by the first field that has one."""
    for name in GOLD:
        value = at_path(data, name)
        listed = from_text(value)
        quoted = listed is value or '"' in value or "'" in value
        if isinstance(listed, list) and len(listed) == 1 and quoted:
            value = listed[0]
        text = scalar_text(value)
        if text is not None and text.strip() and not is_marked(text):
            return _choice(data, value) or text
    texts = [data[name] for name in WORKED if isinstance(data.get(name), str)]
    return next(filter(None, map(_last_answer, filter(scalar_text, texts))), None)


def _choice(data: Mapping[str, Any], value: Any) -> str | None:
    """Letter and text of the choice that a gold answer names by its number from 0 (MMLU)."""
    held = next((data[name] for name in CHOICES if data.get(name) is not None), None)
    choices = from_text(held)
    if not isinstance(choices, list) or not all(isinstance(text, str) for text in choices):
        return None
    is_text = isinstance(value, str)
    if isinstance(value, bool) or (is_text and (value in choices or not value.isdecimal())):
        return None
    if isinstance(value, float) and not value.is_integer():
        return None
    place = int(value)
    if not 0 <= place < min(len(choices), len(ascii_uppercase)):
        return None
    return f"({ascii_uppercase[place]}) {choices[place]}"


def unread_gold(data: Mapping[str, Any]) -> str | None:
    """Field of a gold answer that is no single text or number, so that none can be taken."""
    values = ((name, at_path(data, name)) for name in GOLD)
    return next((name for name, v in values if _says_more(v) or _is_torn(data, name)), None)


def _is_torn(data: Mapping[str, Any], path: str) -> bool:
    """Whether an object that is written as text speaks of this field and cannot be read."""
    head, dot, leaf = path.partition(".")
    text = data.get(head)
    return bool(dot) and isinstance(text, str) and leaf in text and from_text(text) is text


def _says_more(value: Any) -> bool:
    """Whether a value says something, but as no text or number; a missing value says nothing."""
    if value is None or value in ("", [], {}) or (isinstance(value, float) and value != value):
        return False
    return scalar_text(value) is None


def _last_answer(text: str) -> str | None:
    """The last boxed answer of a worked solution, or a text short enough to be an answer."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return text if len(text) <= 40 and text.strip() else None
    depth = 0
    for place in range(start + 6, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if not depth:
            return text[start + 7 : place] or None
    return None


def verdicts_of(data: Mapping[str, Any]) -> dict[str, Any]:
    """Judgements of a row as they are written, by the names of their fields."""
    others = {name: data.get(name) for name in VERDICTS if name != "is_correct"}
    said = {name: v for name, v in others.items() if isinstance(v, bool) or _says_truth(v)}
    value = data.get("is_correct")
    return {"is_correct": value, **said} if value is not None and value == value else said


def verdict_of(data: Mapping[str, Any]) -> Any:
    """The first of these; None if there is none."""
    return next(iter(verdicts_of(data).values()), None)


def _says_truth(value: object) -> bool:
    return isinstance(value, str) and value.strip().lower() in ("true", "false")


def unread_texts(data: Mapping[str, Any], read: Collection[str]) -> list[str]:
    """Fields that may hold a trace and were not read.

    Args:
        data: The row.
        read: Names of the fields that were read.
    """
    known = {*read, *VERDICTS, *IDS, *QUESTIONS, "system", "tools"}
    return [name for name in data if name not in known and _may_be_trace(name, data[name])]


def _may_be_trace(name: str, value: Any) -> bool:
    text = _longest_text(value, depth=4)
    if is_marked(text):
        return True
    if is_switch(text) and re.search("reason|think", name, re.IGNORECASE):
        return False
    if name in GOLD or name in WORKED or FACTS.search(name):
        return False
    return bool(text.strip()) and (len(text) > LONG or HINTS.search(name) is not None)


def _longest_text(value: Any, *, depth: int) -> str:
    if isinstance(value, str):
        return value
    if not depth or not isinstance(value, list | tuple | Mapping):
        return ""
    parts = value.values() if isinstance(value, Mapping) else value
    texts = (_longest_text(part, depth=depth - 1) for part in list(parts)[:100])
    return max(texts, key=len, default="")


def named(data: Mapping[str, Any], names: Collection[str]) -> str:
    """Fields and what they hold, for messages."""
    return ", ".join(f"{name} ({described(data[name])})" for name in list(names)[:3])
