"""What a row says, whatever its form: question, response or conversation, judgement."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from step_saliency.segment.thinking import holds_thinking

Kind: TypeAlias = Literal["trace", "messages", "response", "problem"]


@dataclass(frozen=True)
class Turn:
    """One message of a conversation.

    Attributes:
        role: system, user, assistant, tool or the like.
        content: What was said, the thinking before it in ``<think>`` marks.
        thought: This thinking, where these marks are ours since it stood in a field of its own.
        notes: What of the message was left out.
    """

    role: str
    content: str
    thought: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One response, conversation, saved trace or open question that a row holds.

    Attributes:
        kind: What has to be done to get a trace.
        question: Text of the question, empty if there is none.
        prompt: The exact text that was read before the response, if it is known.
        turns: The conversation, its last turn the response.
        response: Text of the response.
        thought: Its thinking, where the marks around it are ours.
        trace: A saved trace, as `Trace.from_dict` takes it.
        gold: Gold answer, empty if there is none; None leaves it to the row's fields.
        stated: A judgement that came with the row, as it was written.
        source: Which of the row's responses it is, where they have names.
        sample: Which one it is by number, where others were left out.
        unjudged: Whether no judgement of the row counts, since they differ.
        notes: What of the row was left out.
    """

    kind: Kind
    question: str = ""
    prompt: str | None = None
    turns: tuple[Turn, ...] = ()
    response: str = ""
    thought: str = ""
    trace: Mapping[str, Any] | None = None
    gold: str | None = None
    stated: Any = None
    source: str = ""
    sample: int | None = None
    unjudged: bool = False
    notes: tuple[str, ...] = ()

    @property
    def composed(self) -> bool:
        """Whether the marks of the thinking are ours."""
        return bool(self.thought)


def of_turns(turns: tuple[Turn, ...], notes: tuple[str, ...] = (), **facts: Any) -> Reading:
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
        thought=turns[-1].thought,
        notes=(*notes, *(note for turn in turns for note in turn.notes)),
        **facts,
    )


def of_response(
    response: str, reasoning: str = "", notes: tuple[str, ...] = (), **facts: Any
) -> Reading:
    """A response, its thinking in it or beside it.

    Raises:
        ValueError: it is empty.
    """
    text, thought, left_out = with_thinking(reasoning, response)
    if not text.strip():
        raise ValueError(f"the response is empty: {response!r:.40}")
    notes = (*notes, *left_out)
    return Reading(kind="response", response=text, thought=thought, notes=notes, **facts)


def spoken(texts: Sequence[object], name: str) -> tuple[list[int], tuple[str, ...]]:
    """Which of several responses say something (all, if none does), and a note on the others.

    Args:
        texts: What the responses say.
        name: Field that they stand in.
    """
    silent = [
        i
        for i, text in enumerate(texts)
        if text is None or (isinstance(text, str) and not text.strip())
    ]
    if not silent or len(silent) == len(texts):
        return list(range(len(texts))), ()
    n_null = sum(texts[i] is None for i in silent)
    what = "null" if n_null == len(silent) else "empty or null" if n_null else "empty"
    return [i for i in range(len(texts)) if i not in silent], (f"{name} that are {what}",)


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


_OPEN, _BETWEEN = "<think>\n", "\n</think>\n\n"
TWICE = "thinking in a field of its own, since the text beside it has thinking in it"


def with_thinking(reasoning: str, content: str) -> tuple[str, str, tuple[str, ...]]:
    """Thinking and answer as one response, the thinking if its marks are ours, and notes."""
    inner = reasoning.strip().removeprefix("<think>").removesuffix("</think>").strip()
    if not inner:
        return content, "", ()
    if holds_thinking(content):
        return content, "", () if inner in content else (TWICE,)
    return f"{_OPEN}{inner}{_BETWEEN}{content.strip()}", inner, ()


def without_marks(response: str, thought: str) -> tuple[str, str]:
    """Thinking and answer of a response whose marks are ours."""
    return thought, response[len(f"{_OPEN}{thought}{_BETWEEN}") :]
