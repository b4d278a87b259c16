"""From a row to a trace."""

from typing import Any

from step_saliency.options import FormatName, SplitterLike
from step_saliency.runs.inputs.reading import Reading, without_marks
from step_saliency.runs.inputs.rows import Row
from step_saliency.segment.thinking import format_of_model, with_marks
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
        format: As for `Trace.from_text`. Marks of this format stand around thinking that stood in a
            field of its own; by ``"auto"`` those that the prompt or the chat template speaks of,
            and those of ``think`` where there are none.
        splitter: As for `Trace.from_text`.

    Raises:
        ValueError: as `Trace.from_text` and its neighbours.
    """
    says = row.says
    if says.trace is not None:
        return Trace.from_dict(says.trace)
    marks = _marks(says, tokenizer, format) if says.composed else format
    cut: dict[str, Any] = {"format": marks, "splitter": splitter}
    response = says.response
    if says.composed and marks != "think":
        response = with_marks(marks, *without_marks(response, says.thought))
    if says.kind == "messages":
        said = [*(turn.content for turn in says.turns[:-1]), response]
        messages = [
            {"role": turn.role, "content": text}
            for turn, text in zip(says.turns, said, strict=True)
        ]
        return Trace.from_messages(tokenizer, messages, **cut)
    return Trace.from_text(
        tokenizer,
        question=says.question,
        prompt=_start_of_text(tokenizer) if says.prompt == "" else says.prompt,
        response=response,
        **cut,
    )


def _marks(says: Reading, tokenizer: Any, format: FormatName) -> FormatName:  # noqa: A002
    """Format whose marks stand around thinking of a field of its own."""
    if format == "plain":  # says that there are no marks, and the field that there is thinking
        return "think"
    if format != "auto":
        return format
    template = getattr(tokenizer, "chat_template", None)
    return format_of_model(says.prompt or "", str(template or ""))  # type: ignore[return-value]


def _start_of_text(tokenizer: Any) -> str:
    """What a model reads before a text that nothing asked for."""
    mark = tokenizer.bos_token or tokenizer.eos_token
    if not mark:
        raise ValueError("no question stands in the row, and the tokenizer has no mark to begin at")
    return str(mark)
