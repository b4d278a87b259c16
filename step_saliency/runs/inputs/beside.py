"""Which field holds the response, where turns and other texts stand beside each other in a row?

A field whose texts another one holds too says nothing of its own. Of several that differ, the one
whose texts are marked as thinking is the response. Where that does not decide, a whole conversation
beside other responses is refused, since a judgement in the row may be that of any of them; beside
an open one the first response is taken, and the others count as not read.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from step_saliency.runs.inputs.names import named
from step_saliency.runs.inputs.plain import ONE, SEVERAL
from step_saliency.runs.inputs.reading import Turn, with_thinking
from step_saliency.runs.inputs.turns import (
    REASONING,
    holds_turns,
    is_conversation,
    thinking_field,
    turn_of,
)
from step_saliency.runs.inputs.written import from_text
from step_saliency.segment.marks import rows
from step_saliency.segment.thinking import holds_thinking

PROMPTS = ("prompt", "input")
CONVERSATIONS = ("messages", "conversations", "conversation", "contents", *PROMPTS)
"""Fields of turns; but for the first two they may hold text as well."""
_FIRST = (
    "responses",
    "response",
    "completion",
    "completions",
    "output",
    "outputs",
    "generation",
)
RESPONSES = tuple(dict.fromkeys((*_FIRST, *ONE, *SEVERAL)))
"""Fields that hold responses, in the order in which they are taken."""


def conversation_of(data: Mapping[str, Any]) -> str | None:
    """The field of turns that is read, if there is one."""
    names = [
        name
        for name in CONVERSATIONS
        if name in data and (name in CONVERSATIONS[:2] or holds_turns(data[name]))
    ]
    if len(names) < 2:
        return names[0] if names else None
    try:
        source = source_of(data, names[0])
    except ValueError:
        source = None
    return source if source in names else names[0]


def source_of(data: Mapping[str, Any], name: str) -> str | None:
    """The field that holds the response to a conversation: itself, or one beside it.

    Args:
        data: The row.
        name: Field of the conversation.

    Raises:
        ValueError: several may hold it.
    """
    held = responses_of(data)
    others = [text for field, texts in held.items() if field != name for text in texts]
    is_whole = name in held and opening_of(held[name][0], others) is None
    if not is_whole:
        held.pop(name, None)
    own = _not_covered(held, name)
    marked = [field for field in own if any(map(holds_thinking, held[field]))]
    if len(own) < 2 or len(marked) == 1:
        return next(iter(marked or own), None)
    if is_whole:
        raise ValueError(
            f"several fields may hold the response: {named(data, own)}; name it with --field "
            f"messages={name},response=NAME, or a whole conversation with --field messages=NAME"
        )
    return (marked or own)[0]


def unused(data: Mapping[str, Any], name: str) -> set[str]:
    """Fields with responses, or thinking beside them, that are not those of the conversation."""
    held = responses_of(data)
    try:
        source = source_of(data, name) or ""
    except ValueError:
        source = ""
    texts = held.get(source, ())
    if source != name and name in held and opening_of(held[name][0], texts) is not None:
        held.pop(name)
    used = {text.strip() for text in texts}
    others = {field for field, said in held.items() if not {t.strip() for t in said} <= used}
    return (others - {source}) | (set() if _thought(data, source) else set(REASONING))


def responses_of(data: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Texts of the fields that hold a response or end with one, thinking before each."""
    fields = (*(name for name in RESPONSES if name in data), *CONVERSATIONS)
    texts = {name: _texts(data, name) for name in fields if name in data}
    return {name: held for name, held in texts.items() if held}


def thought_of(data: Mapping[str, Any], values: Sequence[object]) -> str:
    """Thinking in a field beside the only response; empty if there is none."""
    name = thinking_field({key: data.get(key) for key in REASONING})
    thought = None if name is None else data[name]
    return thought if len(values) == 1 and isinstance(thought, str) else ""


def opening_of(text: str, responses: Collection[str]) -> str | None:
    """What a turn has opened that responses beside it go on with; None if it is one by itself.

    It is empty where they open their thinking themselves.
    """
    row = next((row for row in rows() if row.open and row.open in text), None)
    if not responses or row is None or row.close in text:
        return None
    if any(row.open in response for response in responses):
        return "" if text.strip() == row.open else None
    goes_on = text.strip() == row.open or any(row.close in response for response in responses)
    return text if goes_on else None


def asked_of(messages: object, responses: object) -> object:
    """Messages without the answer that they end with, unless that only opens the thinking."""
    turns = from_text(messages)
    last = _answer(turns, "messages")
    if last is None or not isinstance(turns, list):
        return messages
    values = responses if isinstance(responses, list) else [responses]
    texts = [text for text in values if isinstance(text, str)]
    return messages if opening_of(last.content, texts) is not None else turns[:-1]


def _texts(data: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = data[name]
    if name in CONVERSATIONS or is_conversation(value):
        last = _answer(value, name)
        return (last.content,) if last is not None and last.content.strip() else ()
    values = value if isinstance(value, list) else [value]
    thinking = thought_of(data, values)
    texts = (text for text in values if isinstance(text, str) and text.strip())
    return tuple(with_thinking(thinking, text)[0] for text in texts)


def _answer(value: object, name: str) -> Turn | None:
    """The last turn of a conversation, if it is the assistant's and can be read."""
    turns = from_text(value)
    if not is_conversation(turns):
        return None
    try:
        last = turn_of(turns[-1], name)  # type: ignore[index]
    except ValueError:
        return None
    return last if last.role == "assistant" else None


def _not_covered(held: Mapping[str, tuple[str, ...]], name: str) -> list[str]:
    """Fields that hold a text which no field before them does; the conversation comes first."""
    said = {field: {text.strip() for text in texts} for field, texts in held.items()}
    fields = sorted(said, key=lambda field: (-len(said[field]), field != name))
    return [
        field
        for field in said
        if not any(said[field] <= said[other] for other in fields[: fields.index(field)])
    ]


def _thought(data: Mapping[str, Any], source: str) -> str:
    """Thinking beside the response in this field."""
    value = data.get(source)
    if value is None or source in CONVERSATIONS:
        return ""
    return thought_of(data, value if isinstance(value, list) else [value])
