"""One object of an input file: which form it has, and what it says."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from step_saliency.runs.inputs.datasets import pairs_of
from step_saliency.runs.inputs.form import Form
from step_saliency.runs.inputs.forms import OWN, form_of
from step_saliency.runs.inputs.judgements import Judged, agreed, is_said, judged_as
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
    verdicts_of,
    with_plain_names,
)
from step_saliency.runs.inputs.plain import ENDS, ONE, PROBLEMS, SEVERAL, THINKING
from step_saliency.runs.inputs.reading import Reading
from step_saliency.runs.inputs.saved import SAVED
from step_saliency.runs.inputs.turns import REASONING, holds_turns

NEVER_NULL = (
    *ONE,
    *SEVERAL,
    "messages",
    "conversations",
    "generations",
    "resps",
    "thinking_trajectories",
)
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
    readings = [_judged(reading, there, fields) for reading in readings]
    silent = form.silent(renamed)
    readings = [replace(reading, notes=(*reading.notes, *silent)) for reading in readings]
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
    unjudged = any(reading.unjudged for reading in readings)
    if plain and not fields and not unjudged and not any(r.composed for r in readings):
        return ""
    stamp = form.name + json.dumps(dict(fields), sort_keys=True)
    return f"{stamp} judgements differ" if unjudged else stamp


def _completed(reading: Reading, data: Mapping[str, Any]) -> Reading:
    """With the gold answer of the row, where the form has none of its own."""
    gold = gold_of(data) if reading.gold is None else reading.gold
    several = unread_gold(data) if gold is None else None
    note = (f"the gold answer in {several}, which is no single text or number",) if several else ()
    return replace(reading, gold=gold or "", notes=(*reading.notes, *note))


def _judged(reading: Reading, data: Mapping[str, Any], fields: Mapping[str, str]) -> Reading:
    """With the judgement of the row: one that was named, or where the form has none of its own."""
    chosen = data.get("is_correct") if "correct" in fields else None
    if is_said(chosen) and not isinstance(chosen, list):
        return judged_as(reading, Judged(chosen))
    if reading.stated is not None or reading.unjudged:
        return reading
    judged = agreed(verdicts_of(data))
    return reading if judged == Judged() else judged_as(reading, judged)


def _check_open(data: Mapping[str, Any], form: Form) -> None:
    """Raise ValueError for a question beside something that may be the response to it."""
    _check_null(data, NEVER_NULL)
    unread = unread_texts(data, form.reads(data))
    if unread:
        raise ValueError(
            f"a question, and what may be the response to it: {named(data, unread)}; name the "
            f"response with --field {_hint(data, unread[0])}, or have the model answer with "
            "--answer"
        )
    _check_null(data, [name for pair in pairs_of(data) for name in pair[1:]])


def _check_null(data: Mapping[str, Any], names: Iterable[str]) -> None:
    null = [name for name in names if name in data and data[name] is None]
    if null:
        raise ValueError(
            f"{null[0]} must be text, got null; to have the model answer the question: --answer"
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
