"""What a row says, whatever its form: question, response or conversation, judgement."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

Kind: TypeAlias = Literal["trace", "messages", "response", "problem"]


@dataclass(frozen=True)
class Turn:
    """One message of a conversation.

    Attributes:
        role: system, user, assistant, tool or the like.
        content: What was said, the thinking before it in ``<think>`` marks.
        composed: Whether these marks are ours, since the thinking stood in a field of its own.
    """

    role: str
    content: str
    composed: bool = False


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One response, conversation, saved trace or open question that a row holds.

    Attributes:
        kind: What has to be done to get a trace.
        question: Text of the question, empty if there is none.
        prompt: The exact text that was read before the response, if it is known.
        turns: The conversation, its last turn the response.
        response: Text of the response.
        composed: Whether the marks of the thinking are ours.
        trace: A saved trace, as `Trace.from_dict` takes it.
        gold: Gold answer, empty if there is none; None leaves it to the row's fields.
        stated: A judgement that came with the row, as it was written.
        source: Which of the row's responses it is, where they have names.
        notes: What of the row was left out.
    """

    kind: Kind
    question: str = ""
    prompt: str | None = None
    turns: tuple[Turn, ...] = ()
    response: str = ""
    composed: bool = False
    trace: Mapping[str, Any] | None = None
    gold: str | None = None
    stated: Any = None
    source: str = ""
    notes: tuple[str, ...] = ()


def of_turns(turns: tuple[Turn, ...], **facts: Any) -> Reading:
    """A conversation: its last turn is the response.

    Raises:
        ValueError: there is no turn before the response, or the last is not the assistant's.
    """
    if not turns or turns[-1].role != "assistant":
        last = repr(turns[-1].role) if turns else "none"
        raise ValueError(
            f"the last message must be the assistant's response, got role {last} "
            f"({len(turns)} messages)"
        )
    if len(turns) == 1:
        raise ValueError("a conversation needs a question and a response, got 1 message")
    if not turns[-1].content.strip():
        raise ValueError("the response is empty: the last message says nothing")
    asked = [turn.content for turn in turns if turn.role == "user"]
    return Reading(
        kind="messages",
        turns=turns,
        question=asked[-1] if asked else "",
        response=turns[-1].content,
        composed=turns[-1].composed,
        **facts,
    )


def of_response(response: str, reasoning: str = "", **facts: Any) -> Reading:
    """A response, its thinking in it or beside it.

    Raises:
        ValueError: it is empty.
    """
    text, composed = with_thinking(reasoning, response)
    if not text.strip():
        raise ValueError(f"the response is empty: {response!r:.40}")
    return Reading(kind="response", response=text, composed=composed, **facts)


END_MARKS = (
    "</think>",
    "<|channel|>",
    "<|end_of_thought|>",
    "[/THINK]",
    "◁/think▷",
    "</thought>",
    "</seed:think>",
    "<|END_THINKING|>",
    "<|im_start|>answer",
    "</thinking>",
    "</reasoning>",
    "assistantfinal",
)
"""Marks by which a text shows that it has its thinking in it."""


def is_marked(text: str) -> bool:
    """Whether a text has its thinking in it."""
    return any(mark in text for mark in END_MARKS)


_BETWEEN = "\n</think>\n\n"


def with_thinking(reasoning: str, content: str) -> tuple[str, bool]:
    """Thinking and answer as one response, and whether its marks are ours."""
    if not reasoning.strip() or is_marked(content):
        return content, False
    inner = reasoning.strip().removeprefix("<think>").removesuffix("</think>").strip()
    return f"<think>\n{inner}{_BETWEEN}{content.strip()}", True


def without_marks(composed: str) -> tuple[str, str]:
    """Thinking and answer of a response whose marks are ours."""
    thinking, _, answer = composed.removeprefix("<think>\n").rpartition(_BETWEEN)
    return thinking, answer
