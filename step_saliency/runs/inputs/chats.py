"""Conversations: ``messages``, ``conversations``, prompts that are lists of turns (verl), pairs."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from step_saliency.runs.inputs.beside import (
    CONVERSATIONS,
    PROMPTS,
    RESPONSES,
    conversation_of,
    opening_of,
    responses_of,
    source_of,
    thought_of,
    unused,
)
from step_saliency.runs.inputs.form import Form
from step_saliency.runs.inputs.names import at_path, question_of
from step_saliency.runs.inputs.reading import Reading, Turn, of_turns, spoken, with_thinking
from step_saliency.runs.inputs.shapes import checked_text, described, scalar_text
from step_saliency.runs.inputs.turns import (
    REASONING,
    holds_turns,
    is_conversation,
    turn_of,
    turns_of,
    with_system,
)
from step_saliency.runs.inputs.written import from_text


def _conversation(data: Mapping[str, Any], name: str) -> list[Reading]:
    turns = with_system(turns_of(data[name], name), data)
    source = source_of(data, name)
    if turns and source not in (name, None):
        return _continued(turns, data, str(source))
    if source is None and turns and turns[-1].role == "user":
        field = next((field for field in RESPONSES if field in data), None)
        return [_open(turns, name)] if field is None else _continued(turns, data, field)
    return [replace(of_turns(turns), gold=_reference(data[name]))]


def _reference(messages: Any) -> str | None:
    """The gold answer that the first message with one says beside its text (AM-DeepSeek-R1)."""
    said: Any = from_text(messages)
    told = (message for message in said if isinstance(message, Mapping))
    golds = (scalar_text(at_path(message, "info.reference_answer")) for message in told)
    return next(filter(None, golds), None)


def _continued(turns: tuple[Turn, ...], data: Mapping[str, Any], field: str) -> list[Reading]:
    """What was asked, and the responses in a field beside it, in place of an answer there."""
    values = data[field] if isinstance(data[field], list) else [data[field]]
    if not values:
        raise ValueError(f"{field} is an empty list")
    opening = ""
    if turns[-1].role == "assistant":
        opening = opening_of(turns[-1].content, responses_of(data).get(field, ())) or ""
        turns = turns[:-1]
    if is_conversation(values):
        first, *others = turns_of(values, field)
        return [of_turns((*turns, replace(first, content=opening + first.content), *others))]
    if field == "response" and isinstance(data[field], list):
        raise ValueError(f"response must be text, got {described(data[field])}")
    thinking = thought_of(data, values)
    places, empty = spoken(values, field)
    names = [field] if len(values) == 1 else [f"{field}.{i}" for i in range(len(values))]
    said = {i: _said(values[i], thinking, opening, names[i]) for i in places}
    return [of_turns((*turns, turn), empty, sample=i) for i, turn in said.items()]


def _said(value: object, thinking: str, opening: str, name: str) -> Turn:
    text, thought, notes = with_thinking(thinking, checked_text(value, name))
    return Turn("assistant", text if thought else opening + text, thought, notes)


def _open(turns: tuple[Turn, ...], name: str) -> Reading:
    """A question that stands in a list of turns."""
    if len([turn for turn in turns if turn.role != "system"]) > 1:
        raise ValueError(
            f"the last message must be the assistant's response, got role {turns[-1].role!r} "
            f"({name} has {len(turns)} messages and no response stands beside it)"
        )
    system = any(turn.role == "system" for turn in turns)
    notes = (f"the system prompt in {name} (set one with --system)",) if system else ()
    return Reading(kind="problem", question=turns[-1].content, notes=notes)


PAIR = ("chosen", "rejected")


def _is_in(*names: str) -> Callable[[Mapping[str, Any]], bool]:
    """Test for rows whose conversation stands in one of these fields."""
    return lambda data: conversation_of(data) in names


def _read_conversation(data: Mapping[str, Any]) -> list[Reading]:
    return _conversation(data, str(conversation_of(data)))


def _is_pair(data: Mapping[str, Any]) -> bool:
    there = all(isinstance(data.get(name), str | Mapping | list) for name in PAIR)
    return there and not any(name in data for name in RESPONSES)


def _read_pair(data: Mapping[str, Any]) -> list[Reading]:
    """A preferred and a rejected response to the same turns, or whole conversations."""
    places = ("prompt", *CONVERSATIONS[:2], conversation_of(data))
    held = next((name for name in places if name and data.get(name)), None)
    asked: tuple[Turn, ...] = ()
    if held is not None and (holds_turns(data[held]) or not isinstance(data[held], str)):
        asked = turns_of(data[held], held)
    else:
        question = question_of(data) or checked_text(data.get(held or "", ""), "prompt")
        asked = (Turn("user", question),) if question else ()
    return [replace(of_turns(_answered(asked, data, name)), source=name) for name in PAIR]


def _answered(asked: tuple[Turn, ...], data: Mapping[str, Any], name: str) -> tuple[Turn, ...]:
    value = from_text(data[name]) if holds_turns(data[name]) else data[name]
    if isinstance(value, str):
        turns: tuple[Turn, ...] = (Turn("assistant", checked_text(value, name)),)
    else:
        turns = turns_of(value, name) if isinstance(value, list) else (turn_of(value, name),)
    whole = any(turn.role == "user" for turn in turns)
    return with_system(turns if whole else (*asked, *turns), data)


class _ChatForm(Form):
    """Of responses beside the turns, and of thinking, those that were not used are not read."""

    def reads(self, data: Mapping[str, Any]) -> set[str]:
        name = conversation_of(data)
        return super().reads(data) - (set() if name is None else unused(data, name))


READ = "|".join(
    ("messages|conversations?|contents|prompt|input|system|system_prompt", *RESPONSES, *REASONING)
)

MESSAGES = _ChatForm("conversations (messages)", _is_in("messages"), _read_conversation, READ)
CONVERSATION = _ChatForm(
    "OpenThoughts conversations",
    _is_in("conversations", "conversation", "contents"),
    _read_conversation,
    READ,
)
PAIRS = Form("chosen and rejected responses", _is_pair, _read_pair, f"{READ}|chosen|rejected")
TURN_PROMPTS = _ChatForm("verl prompts and responses", _is_in(*PROMPTS), _read_conversation, READ)
