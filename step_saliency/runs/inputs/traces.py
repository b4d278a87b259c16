"""From a row to a trace."""

from typing import Any

from step_saliency.options import FormatName, SplitterLike
from step_saliency.runs.inputs.rows import Row
from step_saliency.trace import Trace

TRACE_FIELDS = ("tokens", "starts", "regions", "texts", "question", "response", "meta")


def trace_of_row(
    row: Row,
    tokenizer: Any,
    *,
    format: FormatName,  # noqa: A002
    splitter: SplitterLike,
) -> Trace:
    """The trace that a row holds, or that its response or messages give.

    Args:
        row: A row of any kind but a problem.
        tokenizer: The model's.
        format: As for `Trace.from_text`; a response whose thinking stood in a field of its own has
            the marks of ``think``.
        splitter: As for `Trace.from_text`.

    Raises:
        ValueError: as `Trace.from_text` and its neighbours.
    """
    says = row.says
    if says.trace is not None:
        return Trace.from_dict(says.trace)
    cut: dict[str, Any] = {"format": "think" if says.composed else format, "splitter": splitter}
    if says.kind == "messages":
        messages = [{"role": turn.role, "content": turn.content} for turn in says.turns]
        return Trace.from_messages(tokenizer, messages, **cut)
    return Trace.from_text(
        tokenizer,
        question=says.question,
        prompt=_start_of_text(tokenizer) if says.prompt == "" else says.prompt,
        response=says.response,
        **cut,
    )


def _start_of_text(tokenizer: Any) -> str:
    """What a model reads before a text that nothing asked for."""
    mark = tokenizer.bos_token or tokenizer.eos_token
    if not mark:
        raise ValueError("no question stands in the row, and the tokenizer has no mark to begin at")
    return str(mark)
