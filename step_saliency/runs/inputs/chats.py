"""Conversations: ``messages``, ``conversations``, prompts that are lists of turns (verl), pairs."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from step_saliency.runs.inputs.form import Form
from step_saliency.runs.inputs.names import at_path, from_json, question_of
from step_saliency.runs.inputs.reading import Reading, Turn, of_turns, with_thinking
from step_saliency.runs.inputs.shapes import checked_text, described, scalar_text
from step_saliency.runs.inputs.turns import (
    REASONING,
    is_conversation,
    thinking_field,
    turn_of,
    turns_of,
)

RESPONSES = (
    "responses",
    "response",
    "completion",
    "completions",
    "output",
    "outputs",
    "generation",
)


def _conversation(data: Mapping[str, Any], name: str) -> list[Reading]:
    turns = _with_system(turns_of(data[name], name), data)
    if turns and turns[-1].role == "user":
        return _continued(turns, data, name)
    return [replace(of_turns(turns), gold=_reference(data[name]))]


def _with_system(turns: tuple[Turn, ...], data: Mapping[str, Any]) -> tuple[Turn, ...]:
    """The turns after the system prompt that stands in a field of its own, if one does."""
    texts = (data.get(name) for name in ("system", "system_prompt"))
    system = next((text for text in texts if isinstance(text, str) and text.strip()), None)
    if system is None or any(turn.role == "system" for turn in turns):
        return turns
    return (Turn("system", checked_text(system, "system")), *turns)


def _reference(messages: Any) -> str | None:
    """The gold answer that the first message with one says beside its text (AM-DeepSeek-R1)."""
    said: Any = from_json(messages)
    told = (message for message in said if isinstance(message, Mapping))
    golds = (scalar_text(at_path(message, "info.reference_answer")) for message in told)
    return next(filter(None, golds), None)


def _continued(turns: tuple[Turn, ...], data: Mapping[str, Any], name: str) -> list[Reading]:
    """Turns that end with the user's, and the responses beside them, if there are any."""
    field = next((field for field in RESPONSES if field in data), None)
    if field is None:
        return [_open(turns, name)]
    values = data[field] if isinstance(data[field], list) else [data[field]]
    if not values:
        raise ValueError(f"{field} is an empty list")
    if is_conversation(values):
        return [of_turns((*turns, *turns_of(values, field)))]
    if field == "response" and isinstance(data[field], list):
        raise ValueError(f"response must be text, got {described(data[field])}")
    thought = thinking_field({key: data.get(key) for key in REASONING})
    thinking = ""
    if len(values) == 1 and thought is not None and isinstance(data[thought], str):
        thinking = data[thought]
    readings: list[Reading] = []
    for i, value in enumerate(values):
        label = field if len(values) == 1 else f"{field}.{i}"
        text, composed = with_thinking(thinking, checked_text(value, label))
        readings.append(of_turns((*turns, Turn("assistant", text, composed))))
    return readings


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


PROMPTS = ("prompt", "input")
CONVERSATION_NAMES = ("conversation", "contents")
"""Fields that are conversations if turns stand in them."""
PAIR = ("chosen", "rejected")


def _is_turn_prompt(data: Mapping[str, Any]) -> bool:
    return any(is_conversation(data.get(name)) for name in PROMPTS)


def _read_turn_prompt(data: Mapping[str, Any]) -> list[Reading]:
    return _conversation(data, next(n for n in PROMPTS if is_conversation(data.get(n))))


def _conversation_name(data: Mapping[str, Any]) -> str | None:
    if "conversations" in data:
        return "conversations"
    return next((name for name in CONVERSATION_NAMES if is_conversation(data.get(name))), None)


def _read_conversations(data: Mapping[str, Any]) -> list[Reading]:
    return _conversation(data, str(_conversation_name(data)))


def _is_pair(data: Mapping[str, Any]) -> bool:
    there = all(isinstance(data.get(name), str | Mapping | list) for name in PAIR)
    return there and not any(name in data for name in RESPONSES)


def _read_pair(data: Mapping[str, Any]) -> list[Reading]:
    """A preferred and a rejected response to the same turns, or whole conversations."""
    places = ("prompt", "messages", _conversation_name(data))
    held = next((name for name in places if name and data.get(name)), None)
    asked: tuple[Turn, ...] = ()
    if held is not None and not isinstance(data[held], str):
        asked = turns_of(data[held], held)
    else:
        question = question_of(data) or checked_text(data.get(held or "", ""), "prompt")
        asked = (Turn("user", question),) if question else ()
    return [replace(of_turns(_answered(asked, data, name)), source=name) for name in PAIR]


def _answered(asked: tuple[Turn, ...], data: Mapping[str, Any], name: str) -> tuple[Turn, ...]:
    value = data[name]
    if isinstance(value, str):
        turns: tuple[Turn, ...] = (Turn("assistant", checked_text(value, name)),)
    else:
        turns = turns_of(value, name) if isinstance(value, list) else (turn_of(value, name),)
    whole = any(turn.role == "user" for turn in turns)
    return _with_system(turns if whole else (*asked, *turns), data)


class _ChatForm(Form):
    """Thinking beside the turns is read where a response stands there too."""

    def reads(self, data: Mapping[str, Any]) -> set[str]:
        names = super().reads(data)
        return names if any(field in data for field in RESPONSES) else names - set(REASONING)


READ = "|".join(
    ("messages|conversations?|contents|prompt|input|system|system_prompt", *RESPONSES, *REASONING)
)

MESSAGES = _ChatForm(
    "conversations (messages)",
    lambda data: "messages" in data,
    lambda data: _conversation(data, "messages"),
    READ,
)
CONVERSATIONS = _ChatForm(
    "OpenThoughts conversations",
    lambda data: _conversation_name(data) is not None,
    _read_conversations,
    READ,
)
PAIRS = Form("chosen and rejected responses", _is_pair, _read_pair, f"{READ}|chosen|rejected")
TURN_PROMPTS = _ChatForm("verl prompts and responses", _is_turn_prompt, _read_turn_prompt, READ)
