"""Conversations: turns under the names that APIs and data sets give them, content in its forms."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from step_saliency.runs.inputs.names import is_switch
from step_saliency.runs.inputs.reading import Turn, with_thinking
from step_saliency.runs.inputs.shapes import Shape, Text, checked, checked_text, described
from step_saliency.runs.inputs.written import from_text

ROLES = {
    "human": "user",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "function": "tool",
    "observation": "tool",
    "ipython": "tool",
}
REASONING = ("reasoning_content", "reasoning", "thinking", "thought", "reasoning_details")
"""Fields of a message that hold the thinking before its content."""
SYSTEM = ("system", "system_prompt")
"""Fields that hold a system prompt beside the turns."""
TEXT_PARTS = frozenset({"text", "output_text", "input_text", "summary_text", "reasoning_text"})
THINKING_PARTS = frozenset(
    {"reasoning", "thinking", "thought", "reasoning.text", "reasoning.summary"}
)
SILENT_PARTS = frozenset(
    {
        "tool_use",
        "tool_call",
        "function_call",
        "refusal",
        "redacted_thinking",
        "reasoning.encrypted",
    }
)


_TURNS = re.compile(r"""\s*\[\s*\{\s*['"]\w+['"]\s*:""")
_ROLE = re.compile(
    r"""['"](?:role|from)['"]\s*:\s*['"]"""
    r"""(?:system|developer|user|human|assistant|gpt|model|tool)['"]"""
)


class _Message(Shape):
    role: Text


def thinking_field(data: Mapping[str, Any], names: Sequence[str] = REASONING) -> str | None:
    """The first of these fields that holds thinking: not empty, and no switch such as ``on``."""
    return next((n for n in names if data.get(n) and not is_switch(data[n])), None)


def turns_of(messages: object, name: str) -> tuple[Turn, ...]:
    """Turns of a conversation: ``role``/``content`` or ``from``/``value``.

    Args:
        messages: What the field holds.
        name: Its name, for messages.

    Raises:
        ValueError: it is no list of messages, nor one that is written as text.
    """
    messages = from_text(messages)
    if not isinstance(messages, Sequence) or isinstance(messages, str):
        raise ValueError(f"{name} must be a list of messages, got {described(messages)}")
    return tuple(turn_of(message, f"{name}.{i}") for i, message in enumerate(messages))


def is_conversation(value: object) -> bool:
    """Whether a value is a list of turns, whatever is in them."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(turn, Mapping) and {"role", "from"} & set(turn) for turn in value)
    )


def holds_turns(value: object) -> bool:
    """Whether a value is a list of turns, or a text that is written as one."""
    if isinstance(value, str):
        return _TURNS.match(value) is not None and _ROLE.search(value) is not None
    return is_conversation(value)


def turn_of(message: object, name: str) -> Turn:
    """One message; null content is empty, content in parts is joined.

    Raises:
        ValueError: it has no role, or its content is neither text nor parts of text.
    """
    if not isinstance(message, Mapping):
        raise ValueError(
            f"{name} must be a message with role and content, got {described(message)}"
        )
    said = {"role": message.get("from"), **message} if "from" in message else message
    role = checked(_Message, said, name=name).role
    held = next((said[key] for key in ("content", "value", "parts") if key in said), None)
    content, inner = content_of(held, f"{name}.content")
    field = thinking_field(said)
    reasoning = inner if field is None else "".join(content_of(said[field], f"{name}.{field}"))
    return Turn(_role(role, held), *with_thinking(reasoning, content))


def _role(role: str, held: object) -> str:
    """The role of a message; a user's that holds nothing but results of tools is a tool's."""
    parts = held if isinstance(held, list) else []
    kinds = {part.get("type") if isinstance(part, Mapping) else None for part in parts}
    return "tool" if role == "user" and kinds == {"tool_result"} else ROLES.get(role, role)


def with_system(
    turns: tuple[Turn, ...], data: Mapping[str, Any], names: Sequence[str] = SYSTEM
) -> tuple[Turn, ...]:
    """The turns after the system prompt that stands in a field of its own, if one does.

    A system turn that says something else is kept, and a note says so.

    Raises:
        ValueError: the field holds something else than text.
    """
    texts = ((name, _system_text(data.get(name), name)) for name in names)
    name, system = next(((name, text) for name, text in texts if text.strip()), ("", ""))
    if not system or not turns:
        return turns
    there = [turn.content.strip() for turn in turns if turn.role == "system"]
    if not there:
        return (Turn("system", system), *turns)
    if system.strip() in there:
        return turns
    note = f"the system prompt in {name}, since a system turn says another"
    return (replace(turns[0], notes=(*turns[0].notes, note)), *turns[1:])


def _system_text(value: object, name: str) -> str:
    """Text of a system prompt: text, parts of text, or an object with parts (Gemini)."""
    if isinstance(value, Mapping):
        value = value.get("parts", value.get("text"))
        value = [value] if isinstance(value, Mapping) else value
    return content_of(value, name)[0] if isinstance(value, str | list) else ""


def content_of(content: object, name: str) -> tuple[str, str]:
    """Text and thinking of a content: text, null, or a list of parts.

    Raises:
        ValueError: it is something else, or has a part that is not text.
    """
    if content is None:
        return "", ""
    if isinstance(content, str):
        return checked_text(content, name), ""
    if not isinstance(content, list):
        raise ValueError(f"{name} must be text, null or a list of parts, got {described(content)}")
    texts: list[str] = []
    thoughts: list[str] = []
    for i, part in enumerate(content):
        text, thought = _part(part, f"{name}.{i}")
        texts.append(text)
        thoughts.append(thought)
    return "".join(texts), "\n".join(filter(None, thoughts))


def _part(part: object, name: str) -> tuple[str, str]:
    if isinstance(part, str):
        return checked_text(part, name), ""
    if not isinstance(part, Mapping):
        raise ValueError(f"{name} must be text or an object with a type, got {described(part)}")
    kind = part.get("type")
    if kind is not None and not isinstance(kind, str):
        raise ValueError(f"{name}.type must be text, got {described(kind)}")
    if kind in SILENT_PARTS:
        return "", ""
    if isinstance(part.get("reasoningContent"), Mapping):  # Bedrock
        return "", _told(part["reasoningContent"].get("reasoningText") or "", name)
    if kind in THINKING_PARTS or part.get("thought") is True:
        if part.get("redacted") is True:
            return "", _told(part.get("summary") or "", name)
        return "", _first_text(part, ("reasoning", "thinking", "text", "summary", "content"), name)
    if kind is None and "functionCall" in part:
        return "", ""
    if kind is None or kind in TEXT_PARTS:
        return _first_text(part, ("text", "content"), name), ""
    if kind == "tool_result":
        return content_of(part.get("content"), f"{name}.content")[0], ""
    raise ValueError(f"{name} is a part of type {described(kind)}; only text and thinking are read")


def _told(held: object, name: str) -> str:
    """Text, or that of one part or of parts."""
    return content_of([held] if isinstance(held, Mapping) else held, name)[0]


def _first_text(part: Mapping[str, Any], keys: Sequence[str], name: str) -> str:
    """The first of these fields that is there: text, or parts of text."""
    key = next((key for key in keys if part.get(key) is not None), None)
    if key is None:
        raise ValueError(f"{name} holds no text, got {described(part)}")
    return content_of(part[key], f"{name}.{key}")[0]
