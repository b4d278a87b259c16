"""A trace as inspect-ai's output.

Steps of thinking are reasoning content, those of the summary the text, format marks neither. A
response without marks of any format is text alone: what is thinking there is a guess. ``stop``
means that the model ended it, ``max_tokens`` that the length asked for did, ``model_length`` that
the context did. Of a response that went on from words, what is new is given.
"""

from dataclasses import replace
from typing import Any

from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessageAssistant,
    ContentReasoning,
    ContentText,
    ModelOutput,
    ModelUsage,
)

from step_saliency.benchmark.provider.requests import Answer, Request
from step_saliency.segment.choice import detect_format
from step_saliency.segment.marks import END_MARKS, rows
from step_saliency.segment.pieces import TokenPieces
from step_saliency.segment.regions import Region
from step_saliency.trace import Trace


def output_of(
    request: Request, answer: Answer, *, model: str, tokenizer: Any = None
) -> ModelOutput:
    """What inspect-ai is given for a request.

    Args:
        request: The request.
        answer: Its answer.
        model: Name of the model.
        tokenizer: Its tokenizer, for a response that went on from words.
    """
    trace = answer.trace if request.continued is None else _new_part(answer.trace, tokenizer)
    written = int(trace.meta["response_tokens"])
    reasoning, text = _parts(trace, request.group.frame.suffix, answer.trace.response)
    content: list[Any] = [ContentReasoning(reasoning=reasoning)] if reasoning else []
    message = ChatMessageAssistant(
        content=[*content, ContentText(text=text)] if content else text,
        model=model,
        source="generate",
    )
    stop = _stop_reason(trace, written, request.limit)
    return ModelOutput(
        model=model,
        choices=[ChatCompletionChoice(message=message, stop_reason=stop)],
        usage=_usage(trace, written),
        metadata=_metadata(request, answer, trace),
    )


def full_context(request: Request, *, model: str) -> ModelOutput:
    """What inspect-ai is given where a response cannot go on: no words, for want of room.

    Args:
        request: The request.
        model: Name of the model.
    """
    output = ModelOutput.from_content(model, "", stop_reason="model_length")
    output.usage = ModelUsage(input_tokens=0, output_tokens=0, total_tokens=0, reasoning_tokens=0)
    output.metadata = {**_asked(request), "response": "", "call": {"seconds": 0.0}}
    return output


def _new_part(trace: Trace, tokenizer: Any) -> Trace:
    """A trace whose steps and response have the text of the new tokens alone."""
    start = len(trace) - int(trace.meta["response_tokens"])
    pieces = ["" for _ in range(start)] + TokenPieces(tokenizer).pieces(trace.tokens.tolist())[
        start:
    ]
    steps = [replace(step, text="".join(pieces[step.start : step.stop])) for step in trace.steps]
    return replace(trace, steps=tuple(steps), response="".join(pieces))


def opened(prompt_end: str) -> str:
    """The mark of thinking that a prompt ends in; empty if it ends in none."""
    end = prompt_end.rstrip()
    return next((row.open for row in rows() if row.open and end.endswith(row.open)), "")


def spoken(trace: Trace) -> str:
    """The response without the mark that ended it."""
    text = trace.response
    return next((text.removesuffix(mark) for mark in END_MARKS if text.endswith(mark)), text)


def _parts(trace: Trace, prompt_end: str, response: str) -> tuple[str, str]:
    """Text of the thinking and of the summary; the whole response tells its format."""
    if detect_format(prompt=prompt_end, response=response) == "plain":
        return "", spoken(trace)
    of = {
        region: "".join(step.text for step in trace.steps if step.region is region)
        for region in (Region.THINKING, Region.SUMMARY)
    }
    return of[Region.THINKING].strip(), of[Region.SUMMARY].strip()


def _stop_reason(trace: Trace, written: int, most: int) -> Any:
    if trace.meta["finished"]:
        return "stop"
    return "max_tokens" if written >= most else "model_length"


def _usage(trace: Trace, written: int) -> ModelUsage:
    read = len(trace) - written
    thinking = sum(
        max(0, step.stop - max(step.start, read))
        for step in trace.steps
        if step.region is Region.THINKING
    )
    return ModelUsage(
        input_tokens=read,
        output_tokens=written,
        total_tokens=read + written,
        reasoning_tokens=thinking,
    )


def _metadata(request: Request, answer: Answer, trace: Trace) -> dict[str, Any]:
    """In JSON types: the text as written, the mark before it, seeds, flow, facts of its call."""
    return {
        "response": spoken(trace),
        **_asked(request),
        "steps": trace.n_steps,
        "kept": answer.is_kept,
        "call": dict(answer.facts),
    }


def _asked(request: Request) -> dict[str, Any]:
    return {
        "opened": opened(request.group.frame.suffix),
        "question_number": request.number,
        "sample": request.sample,
        "seed": request.seed,
        **dict(request.group.changes),
    }
