"""Thinking that stands beside the answer, in a field of its own: written before it, with marks.

The marks are those of a format: named by the caller, else told by the prompt, else the first of the
table that the chat template speaks of, else ``<think>``.

When it misleads: line breaks around marks are those of R1 and Qwen; other models write others or
none. Where the tokens matter give the content as the model wrote it.
"""

from collections.abc import Mapping
from typing import Any

from step_saliency.segment.choice import detect_format, format_of_prompt
from step_saliency.segment.marks import FormatMarks, row_of, rows

FIELDS = ("reasoning_content", "reasoning", "thinking")
"""Fields of a message that hold the thinking before its content."""

_HARMONY = "<|channel|>analysis<|message|>{}<|end|><|start|>assistant<|channel|>final<|message|>{}"


def thought_of(message: Mapping[str, Any]) -> str:
    """The thinking in the first field that holds some, without marks; empty if none does."""
    held = (message.get(name) for name in FIELDS)
    thought = next((text for text in held if isinstance(text, str) and text.strip()), "").strip()
    for row in rows():
        if row.open:
            thought = thought.removeprefix(row.open).removesuffix(row.close)
    return thought.strip()


def holds_thinking(content: str) -> bool:
    """Whether a content has thinking in it, by its marks; those around the answer do not tell."""
    name = detect_format(response=content)
    row = row_of(name)
    if row is None:
        return name != "plain"
    return bool(row.open) and (row.open in content or row.close in content)


def format_of_model(prompt: str, template: str) -> str:
    """Format in which a model writes its thinking.

    Args:
        prompt: What it reads before it answers.
        template: Its chat template; empty without one.
    """
    told = format_of_prompt(prompt)
    if told is not None:
        return told
    if "<|channel|>" in template:
        return "harmony"
    return next((row.name for row in rows() if row.open and row.close in template), "think")


def with_marks(format: str, thought: str, answer: str) -> str:  # noqa: A002
    """Thinking and answer as one response.

    Raises:
        ValueError: the format has no marks to stand around thinking.
    """
    if format == "harmony":
        return _HARMONY.format(thought, answer)
    if format == "harmony_text":
        return f"analysis{thought}assistantfinal{answer}"
    row = row_of(format)
    if row is None or not row.open:
        raise ValueError(
            f"format={format!r} has no marks that open the thinking, which stands in a field of "
            f"its own ({' or '.join(FIELDS)}): {thought[:60]!r}. Name a format that has, such as "
            "'think' or 'harmony', or write the thinking into the content"
        )
    return f"{row.open}\n{thought}\n{row.close}\n\n{_wrapped(row, answer)}"


def _wrapped(row: FormatMarks, answer: str) -> str:
    first, last = row.answer[:2] if row.wraps else ("", "")
    if first in answer:
        return answer
    return f"{first}\n{answer}\n{last}"
