"""Conversations: ``messages``, ``conversations``, prompts that are lists of turns (verl)."""

from collections.abc import Mapping
from typing import Any

from step_saliency.runs.inputs.form import Form
from step_saliency.runs.inputs.reading import Reading, Turn, of_turns, with_thinking
from step_saliency.runs.inputs.shapes import checked_text, described
from step_saliency.runs.inputs.turns import REASONING, is_conversation, turns_of

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
    turns = turns_of(data[name], name)
    system = data.get("system")
    if isinstance(system, str) and system.strip() and not any(t.role == "system" for t in turns):
        turns = (Turn("system", checked_text(system, "system")), *turns)
    if turns and turns[-1].role == "user":
        return _continued(turns, data, name)
    return [of_turns(turns)]


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
    thoughts = [data.get(key) for key in REASONING if isinstance(data.get(key), str)]
    thinking = str(thoughts[0]) if len(values) == 1 and thoughts else ""
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


def _is_turn_prompt(data: Mapping[str, Any]) -> bool:
    return is_conversation(data.get("prompt"))


def _read_turn_prompt(data: Mapping[str, Any]) -> list[Reading]:
    return _conversation(data, "prompt")


class _ChatForm(Form):
    """Thinking beside the turns is read where a response stands there too."""

    def reads(self, data: Mapping[str, Any]) -> set[str]:
        names = super().reads(data)
        return names if any(field in data for field in RESPONSES) else names - set(REASONING)


READ = rf"messages|conversations|prompt|system|{'|'.join((*RESPONSES, *REASONING))}"

MESSAGES = _ChatForm(
    "conversations (messages)",
    lambda data: "messages" in data,
    lambda data: _conversation(data, "messages"),
    READ,
)
CONVERSATIONS = _ChatForm(
    "OpenThoughts conversations",
    lambda data: "conversations" in data,
    lambda data: _conversation(data, "conversations"),
    READ,
)
TURN_PROMPTS = _ChatForm("verl prompts and responses", _is_turn_prompt, _read_turn_prompt, READ)
