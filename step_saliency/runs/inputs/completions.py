"""What APIs answer: chat completions, the Responses and Messages APIs, results of batches."""

from collections.abc import Mapping
from typing import Any

from step_saliency.runs.inputs.form import Form
from step_saliency.runs.inputs.names import question_of
from step_saliency.runs.inputs.reading import Reading, Turn, of_turns
from step_saliency.runs.inputs.shapes import checked_text, described
from step_saliency.runs.inputs.turns import turn_of, turns_of

UNASKED = "no question stands in the row, so its response is read without one"


def _asked(data: Mapping[str, Any]) -> tuple[Turn, ...]:
    """What was asked, where the request stands beside the answer."""
    places = (data.get(name) for name in ("request", "body", "params"))
    request = next((place for place in places if isinstance(place, Mapping)), data)
    request = request["body"] if isinstance(request.get("body"), Mapping) else request
    for name in ("messages", "input", "prompt"):
        if isinstance(request.get(name), list):
            return turns_of(request[name], name)
    question = question_of(request) or question_of(data)
    prompt = request.get("prompt")
    if not question and isinstance(prompt, str):
        question = checked_text(prompt, "prompt")
    return (Turn("user", question),) if question else ()


def _answered(asked: tuple[Turn, ...], answer: Turn) -> Reading:
    if asked:
        return of_turns((*asked, answer))
    if not answer.content.strip():
        raise ValueError("the response is empty")
    return Reading(
        kind="response",
        prompt="",
        response=answer.content,
        composed=answer.composed,
        notes=(UNASKED,),
    )


def _read_completion(data: Mapping[str, Any]) -> list[Reading]:
    return _read_body(data, _asked(data))


def _choice(choice: object, name: str) -> Turn:
    if not isinstance(choice, Mapping):
        raise ValueError(f"{name} must be an object, got {described(choice)}")
    if "delta" in choice:
        raise ValueError(f"{name} is a part of a stream (delta); store whole completions")
    if "message" not in choice:
        return Turn("assistant", checked_text(choice.get("text"), f"{name}.text"))
    return turn_of(choice["message"], f"{name}.message")


def _read_body(data: Mapping[str, Any], asked: tuple[Turn, ...]) -> list[Reading]:
    """One answer of an API, whichever it is."""
    if "choices" in data:
        choices = _list(data["choices"], "choices")
        return [_answered(asked, _choice(one, f"choices.{i}")) for i, one in enumerate(choices)]
    if isinstance(data.get("output"), list):
        return [_answered(asked, _output_items(data["output"]))]
    if data.get("role") == "assistant" or "message" in data:
        return [_answered(asked, turn_of(data.get("message", data), "message"))]
    raise ValueError(f"the answer is in no known form, got {described(data)}")


def _list(value: object, name: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise ValueError(f"{name} must be a list of answers, got {described(value)}")
    return value


def _output_items(items: list[Any]) -> Turn:
    """Items of the Responses API: thinking and text as parts of one message."""
    parts: list[Any] = []
    for i, item in enumerate(items):
        if not isinstance(item, Mapping):
            raise ValueError(f"output.{i} must be an object, got {described(item)}")
        if item.get("type") == "reasoning":
            held = item.get("content") or item.get("summary") or ""
            parts.append({"type": "reasoning", "text": held})
        elif item.get("type") == "message":
            content = item.get("content")
            parts += content if isinstance(content, list) else [content or ""]
    return turn_of({"role": "assistant", "content": parts}, "output")


def _read_batch(data: Mapping[str, Any]) -> list[Reading]:
    result = data.get("response", data.get("result"))
    if not isinstance(result, Mapping):
        raise ValueError(f"the request failed: {described(data.get('error') or result)}")
    body = result.get("body", result.get("message", result))
    if not isinstance(body, Mapping) or body.get("error"):
        raise ValueError(f"the request failed: {described(body)}")
    rest = {name: value for name, value in data.items() if name not in ("response", "result")}
    return _read_body(body, _asked(rest))


def _is_completion(data: Mapping[str, Any]) -> bool:
    """Choices of a completion; those of a multiple-choice question are texts."""
    if str(data.get("object", "")).startswith(("chat.completion", "text_completion")):
        return "choices" in data
    choices = data.get("choices")
    return isinstance(choices, list) and any(
        isinstance(choice, Mapping) and {"message", "delta", "finish_reason"} & set(choice)
        for choice in choices
    )


def _is_batch(data: Mapping[str, Any]) -> bool:
    held = data.get("response", data.get("result"))
    return "custom_id" in data and (held is None or isinstance(held, Mapping))


def _is_answer(data: Mapping[str, Any]) -> bool:
    if data.get("role") == "assistant" and "content" in data:
        return True
    if isinstance(data.get("message"), Mapping) and "model" in data:
        return True
    return data.get("object") == "response" and isinstance(data.get("output"), list)


def _read_answer(data: Mapping[str, Any]) -> list[Reading]:
    held = ("output", "content", "message")
    return _read_body(data, _asked({k: v for k, v in data.items() if k not in held}))


READ = (
    "choices|response|result|request|body|params|messages|prompt|output|message|content|"
    "error|object"
)
BATCH = Form("results of an API batch", _is_batch, _read_batch, READ)
COMPLETION = Form("chat completions", _is_completion, _read_completion, READ)
ANSWER = Form("answers of an API", _is_answer, _read_answer, READ)
