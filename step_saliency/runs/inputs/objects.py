"""One object of an input file: which form it has, and what it says."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from step_saliency.runs.inputs.form import Form
from step_saliency.runs.inputs.forms import OWN, form_of
from step_saliency.runs.inputs.mapping import with_fields
from step_saliency.runs.inputs.names import (
    GOLD,
    IDS,
    QUESTIONS,
    VERDICTS,
    WORKED,
    at_path,
    gold_of,
    named,
    unread_gold,
    unread_texts,
    verdict_of,
    with_plain_names,
)
from step_saliency.runs.inputs.plain import ENDS, ONE, PROBLEMS, SEVERAL, THINKING
from step_saliency.runs.inputs.reading import Reading
from step_saliency.runs.inputs.saved import SAVED
from step_saliency.runs.inputs.turns import REASONING, holds_turns

NEVER_NULL = (*ONE, *SEVERAL, "messages", "conversations", "generations", "resps")
"""Fields that hold the response; one that is null is no reason to have the model answer."""
NAMES = frozenset(
    (*QUESTIONS, *GOLD, *WORKED, *VERDICTS, *IDS, *ONE, *SEVERAL, *THINKING, *ENDS)
) | {"prompt", "messages", "conversations", "conversation", "problem_id", "system"}
"""Names of fields that may be written in capitals too."""
NO_FIELDS: Mapping[str, str] = {}


def is_row(data: Mapping[str, Any], fields: Mapping[str, str] = NO_FIELDS) -> bool:
    """Whether an object has the fields of a row, or one of those that were named."""
    plain = with_plain_names(data, NAMES)
    if any(at_path(plain, name) is not None for name in fields.values()):
        return True
    return form_of(plain) is not PROBLEMS or any(n in plain for n in (*QUESTIONS, "prompt"))


def read_object(
    data: Mapping[str, Any], fields: Mapping[str, str] = NO_FIELDS, *, answer: bool = False
) -> tuple[Form, list[Reading]]:
    """The form of an object, and what it says.

    Args:
        data: The object.
        fields: Names of its fields by role, see `step_saliency.runs.roles`.
        answer: Let the model answer also where a field may hold a response that was not read.

    Raises:
        ValueError: it cannot be read, or holds a question beside what may be the response to it.
    """
    renamed = with_fields(data, fields) if fields else data
    there = {name: value for name, value in renamed.items() if value is not None}
    form = form_of(there)
    readings = [_completed(reading, there) for reading in form.read(there)]
    if any(reading.kind == "problem" for reading in readings) and not answer:
        _check_open(renamed, form)
    return form, readings


def unread_fields(data: Mapping[str, Any], form: Form, fields: Mapping[str, str]) -> list[str]:
    """Fields that may hold a trace and were not read."""
    mapped = {name.partition(".")[0] for name in fields.values()}
    return unread_texts(data, form.reads(data) | mapped)


def form_stamp(form: Form, readings: list[Reading], fields: Mapping[str, str]) -> str:
    """What a row's digest holds beside the row: nothing for rows in our own form."""
    plain = form.name in OWN and form is not SAVED
    if plain and not fields and not any(reading.composed for reading in readings):
        return ""
    return form.name + json.dumps(dict(fields), sort_keys=True)


def _completed(reading: Reading, data: Mapping[str, Any]) -> Reading:
    """With the gold answer and the judgement of the row, where the form has none of its own."""
    gold = gold_of(data) if reading.gold is None else reading.gold
    stated = verdict_of(data) if reading.stated is None else reading.stated
    several = unread_gold(data) if gold is None else None
    note = (f"the gold answer in {several}, which is no single text or number",) if several else ()
    return replace(reading, gold=gold or "", stated=stated, notes=(*reading.notes, *note))


def _check_open(data: Mapping[str, Any], form: Form) -> None:
    """Raise ValueError for a question beside something that may be the response to it."""
    null = [name for name in NEVER_NULL if name in data and data[name] is None]
    if null:
        raise ValueError(
            f"{null[0]} must be text, got null; to have the model answer the question: --answer"
        )
    unread = unread_texts(data, form.reads(data))
    if unread:
        raise ValueError(
            f"a question, and what may be the response to it: {named(data, unread)}; name the "
            f"response with --field {_hint(data, unread[0])}, or have the model answer with "
            "--answer"
        )


def _hint(data: Mapping[str, Any], unread: str) -> str:
    """What to write behind --field, where thinking may stand beside turns and an answer."""
    if unread not in REASONING:
        return f"response={unread}"
    held = ("messages", "conversations", "conversation", "prompt", "input")
    turns = next((name for name in held if holds_turns(data.get(name))), None)
    answer = next((name for name in ENDS if name in data), "NAME")
    asked = f"messages={turns}," if turns else ""
    return f"{asked}thinking={unread},response={answer}"
