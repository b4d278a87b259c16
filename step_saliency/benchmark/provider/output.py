"""A trace as inspect-ai's output.

Steps of thinking are reasoning content, those of the summary the text, format marks neither. A
response without marks of any format is text alone: what is thinking there is a guess. ``stop``
means that the model ended it, ``max_tokens`` that the length asked for did, ``model_length`` that
the context did.
"""

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
from step_saliency.segment.regions import Region
from step_saliency.trace import Trace


def output_of(request: Request, answer: Answer, *, model: str) -> ModelOutput:
    """What inspect-ai is given for a request.

    Args:
        request: The request.
        answer: Its answer.
        model: Name of the model.
    """
    trace = answer.trace
    written = int(trace.meta["response_tokens"])
    reasoning, text = _parts(trace, request.group.frame.suffix)
    content: list[Any] = [ContentReasoning(reasoning=reasoning)] if reasoning else []
    message = ChatMessageAssistant(
        content=[*content, ContentText(text=text)] if content else text,
        model=model,
        source="generate",
    )
    stop = _stop_reason(trace, written, request.group.decoding.max_new_tokens)
    return ModelOutput(
        model=model,
        choices=[ChatCompletionChoice(message=message, stop_reason=stop)],
        usage=_usage(trace, written),
        metadata=_metadata(request, answer),
    )


def opened(prompt_end: str) -> str:
    """The mark of thinking that a prompt ends in; empty if it ends in none."""
    end = prompt_end.rstrip()
    return next((row.open for row in rows() if row.open and end.endswith(row.open)), "")


def spoken(trace: Trace) -> str:
    """The response without the mark that ended it."""
    text = trace.response
    return next((text.removesuffix(mark) for mark in END_MARKS if text.endswith(mark)), text)


def _parts(trace: Trace, prompt_end: str) -> tuple[str, str]:
    """Text of the thinking and of the summary."""
    if detect_format(prompt=prompt_end, response=trace.response) == "plain":
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
    thinking = sum(len(step) for step in trace.steps if step.region is Region.THINKING)
    read = len(trace) - written
    return ModelUsage(
        input_tokens=read,
        output_tokens=written,
        total_tokens=read + written,
        reasoning_tokens=thinking,
    )


def _metadata(request: Request, answer: Answer) -> dict[str, Any]:
    """In JSON types: the text as written, the mark before it, seeds, flow, facts of its call."""
    return {
        "response": spoken(answer.trace),
        "opened": opened(request.group.frame.suffix),
        "question_number": request.number,
        "sample": request.sample,
        "seed": request.group.decoding.seed,
        **dict(request.group.changes),
        "steps": answer.trace.n_steps,
        "kept": answer.is_kept,
        "call": dict(answer.facts),
    }
