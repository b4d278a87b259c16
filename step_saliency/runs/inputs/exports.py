"""Conversations as chat sites export them: ChatGPT and DeepSeek (``mapping``), Claude.

ChatGPT and DeepSeek write a tree of messages, in which an edited question or a regenerated answer
begins a branch. What is read is the branch that was shown last: up to ``current_node`` where the
file says it, else along the newest child of each message. Notes say what of it is left out.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from step_saliency.runs.inputs.form import Form
from step_saliency.runs.inputs.reading import Reading, Turn, of_turns, with_thinking
from step_saliency.runs.inputs.shapes import checked_text, described
from step_saliency.runs.inputs.turns import turn_of

SPOKEN = frozenset({"text", "multimodal_text", "code"})
"""Types of a ChatGPT content that a person reads."""
SILENT = frozenset({"reasoning_recap", "user_editable_context", "model_editable_context"})
"""Types that say nothing of their own: how long it thought, what the site knows of the user."""
FRAGMENTS = {"REQUEST": "user", "RESPONSE": "assistant", "THINK": "thinking"}
"""DeepSeek's parts of a message, and who says them."""
BRANCHES = "branches that were not shown last"
LEFT_OUT = "left out"
"""Who says what is not read, in place of its text what it is."""


def _is_tree(data: Mapping[str, Any]) -> bool:
    nodes = data.get("mapping")
    return (
        isinstance(nodes, Mapping)
        and bool(nodes)
        and all(isinstance(node, Mapping) and "message" in node for node in nodes.values())
    )


def _read_tree(data: Mapping[str, Any]) -> list[Reading]:
    nodes: Mapping[str, Any] = data["mapping"]
    path = _path(nodes, data.get("current_node"))
    said: list[tuple[str, str]] = []
    for name in path:
        message = nodes[name]["message"]
        if isinstance(message, Mapping):
            said += _parts(message, f"mapping.{name}.message")
    shown = sum(isinstance(nodes[name]["message"], Mapping) for name in path)
    there = sum(isinstance(node["message"], Mapping) for node in nodes.values())
    left = {f"{text} in mapping" for who, text in said if who == LEFT_OUT}
    notes = (*([BRANCHES] if shown < there else []), *sorted(left))
    return [of_turns(_turns([part for part in said if part[0] != LEFT_OUT]), notes)]


def _path(nodes: Mapping[str, Any], last: object) -> list[str]:
    """Names of the nodes from the first message to the last that was shown.

    Raises:
        ValueError: parents or children are no names of nodes, or they go in a circle.
    """
    shown = last if isinstance(last, str) and last in nodes else _newest(nodes)
    path: list[str] = []
    while shown is not None and shown in nodes:
        if shown in path:
            raise ValueError(f"mapping: the parents of {shown!r} go in a circle")
        path.append(shown)
        above = nodes[shown].get("parent")
        shown = above if isinstance(above, str) else None
    return path[::-1]


def _newest(nodes: Mapping[str, Any]) -> str | None:
    """The last message along the newest child of each."""
    at = next((n for n, node in nodes.items() if str(node.get("parent")) not in nodes), None)
    seen: set[str] = set()
    while at is not None and at not in seen:
        seen.add(at)
        named: Any = nodes[at].get("children")
        children = [
            name
            for name in (named if isinstance(named, list) else [])
            if isinstance(name, str) and name in nodes
        ]
        at = children[-1] if children else at
    return at


def _parts(message: Mapping[str, Any], name: str) -> list[tuple[str, str]]:
    """(who, text) of what a message says, its thinking by ``"thinking"``."""
    if isinstance(message.get("fragments"), list):
        return [_fragment(part, f"{name}.fragments") for part in message["fragments"]]
    content: Any = message.get("content") or {}
    author: Any = message.get("author") or {}
    if not (isinstance(content, Mapping) and isinstance(author, Mapping) and "role" in author):
        raise ValueError(
            f"{name} must have a content and an author with a role, or fragments; got "
            f"{described(message)}"
        )
    more = message.get("metadata")
    hidden = isinstance(more, Mapping) and more.get("is_visually_hidden_from_conversation") is True
    kind, role = content.get("content_type", "text"), str(author.get("role"))
    if hidden or kind in SILENT:
        return []
    if kind == "thoughts":
        thoughts: Any = content.get("thoughts") or []
        texts = [part.get("content") or "" for part in thoughts if isinstance(part, Mapping)]
        return [("thinking", "\n".join(checked_text(text, f"{name}.thoughts") for text in texts))]
    if role == "tool" or kind not in SPOKEN:
        return [(LEFT_OUT, "messages of tools" if role == "tool" else f"content of type {kind!r}")]
    parts: Any = content.get("parts") or [content.get("text") or ""]
    if not isinstance(parts, list):
        raise ValueError(f"{name}.content.parts must be a list, got {described(parts)}")
    texts = [part for part in parts if isinstance(part, str)]
    pictures = [(LEFT_OUT, "parts that are no text")] if len(texts) < len(parts) else []
    return [(role, checked_text("".join(texts), f"{name}.content")), *pictures]


def _fragment(part: object, name: str) -> tuple[str, str]:
    if not isinstance(part, Mapping):
        raise ValueError(f"{name} must hold objects with type and content, got {described(part)}")
    who = FRAGMENTS.get(str(part.get("type")))
    if who is None:
        return LEFT_OUT, f"fragments of type {part.get('type')!r}"
    return who, checked_text(part.get("content") or "", f"{name}.content")


def _turns(said: Sequence[tuple[str, str]]) -> tuple[Turn, ...]:
    """Turns of what was said: thinking goes before the assistant's text that follows it."""
    turns: list[Turn] = []
    thinking: list[str] = []
    for who, text in said:
        if who == "thinking":
            thinking.append(text)
        elif text.strip():
            thought = "\n".join(thinking) if who == "assistant" else ""
            turns.append(Turn(who, *with_thinking(thought, text)))
            thinking = []
    return tuple(turns)


def _read_claude(data: Mapping[str, Any]) -> list[Reading]:
    messages: Any = data["chat_messages"]
    turns = []
    for i, message in enumerate(messages):
        name = f"chat_messages.{i}"
        if not isinstance(message, Mapping) or "sender" not in message:
            raise ValueError(f"{name} must be a message with a sender, got {described(message)}")
        content = message.get("content") or message.get("text") or ""
        role = "user" if message["sender"] == "human" else message["sender"]
        turns.append(turn_of({"role": role, "content": content}, name))
    return [of_turns(tuple(turns))]


TREE = Form(
    "conversations exported by ChatGPT or DeepSeek", _is_tree, _read_tree, "mapping|current_node"
)
CLAUDE = Form(
    "conversations exported by Claude",
    lambda data: isinstance(data.get("chat_messages"), list),
    _read_claude,
    "chat_messages",
)
