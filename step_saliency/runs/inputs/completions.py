"""What APIs answer: chat completions, the Responses and Messages APIs, Gemini, results of batches.

Where a row holds a request beside its answer, the question is read from there.
"""

from collections.abc import Mapping
from typing import Any

from step_saliency.runs.inputs.form import Form
from step_saliency.runs.inputs.names import question_of
from step_saliency.runs.inputs.reading import Reading, Turn, of_response, of_turns, spoken
from step_saliency.runs.inputs.shapes import checked_text, described
from step_saliency.runs.inputs.turns import REASONING, SYSTEM, turn_of, turns_of, with_system

ECHOED = ("instructions",)
REQUESTED = (*SYSTEM, *ECHOED, "systemInstruction", "system_instruction")
"""Fields of a request that hold its system prompt; the Responses API writes its own again."""
UNASKED = "no question stands in the row, so its response is read without one"


def _request(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """The request, where it stands beside the answer, else the row."""
    places = (data.get(name) for name in ("request", "body", "params"))
    request = next((place for place in places if isinstance(place, Mapping)), data)
    return request["body"] if isinstance(request.get("body"), Mapping) else request


def _prompt(data: Mapping[str, Any]) -> str | None:
    """The text that was completed."""
    prompt = _request(data).get("prompt")
    return checked_text(prompt, "prompt") if isinstance(prompt, str) and prompt else None


def _asked(data: Mapping[str, Any]) -> tuple[Turn, ...]:
    """What was asked, where the request stands beside the answer."""
    request = _request(data)
    for name in ("messages", "input", "prompt", "contents"):
        if isinstance(request.get(name), list):
            turns = turns_of([_with_role(turn, "user") for turn in request[name]], name)
            return with_system(turns, request, REQUESTED)
    question = question_of(request) or question_of(data) or _prompt(data)
    return with_system((Turn("user", question),) if question else (), request, REQUESTED)


def _with_role(turn: object, role: str) -> object:
    """A turn of Gemini, which may leave its role out."""
    is_bare = isinstance(turn, Mapping) and "parts" in turn and not turn.get("role")
    return {**turn, "role": role} if isinstance(turn, Mapping) and is_bare else turn


def _answered(asked: tuple[Turn, ...], answer: Turn, **facts: Any) -> Reading:
    if asked:
        return of_turns((*asked, answer), **facts)
    if not answer.content.strip():
        raise ValueError("the response is empty")
    return Reading(
        kind="response",
        prompt="",
        response=answer.content,
        thought=answer.thought,
        notes=(UNASKED, *facts.pop("notes", ()), *answer.notes),
        **facts,
    )


def _read_completion(data: Mapping[str, Any]) -> list[Reading]:
    return _read_body(data, _asked(data), _prompt(data))


def _choice(choice: object, name: str) -> Turn:
    if not isinstance(choice, Mapping):
        raise ValueError(f"{name} must be an object, got {described(choice)}")
    if "delta" in choice:
        raise ValueError(f"{name} is a part of a stream (delta); store whole completions")
    held = "message" if "message" in choice else "text"
    if held in choice and choice[held] is None:
        return Turn("assistant", "")
    if held == "text":
        return Turn("assistant", checked_text(choice.get("text"), f"{name}.text"))
    return turn_of(choice["message"], f"{name}.message")


def _read_body(
    data: Mapping[str, Any], asked: tuple[Turn, ...], prompt: str | None = None
) -> list[Reading]:
    """One answer of an API, whichever it is; texts complete the prompt as it stands."""
    if "choices" in data:
        return _read_choices(_list(data["choices"], "choices"), asked, prompt)
    if "candidates" in data:
        candidates = _list(data["candidates"], "candidates")
        places, empty = spoken([_parts(candidate) for candidate in candidates], "candidates")
        turns = [_candidate(candidates[i], f"candidates.{i}") for i in places]
        return [
            _answered(asked, turn, sample=i, notes=empty)
            for i, turn in zip(places, turns, strict=True)
        ]
    output = data.get("output")
    if isinstance(output, list):
        return [_answered(asked, _output_items(output))]
    if isinstance(output, Mapping) and "message" in output:  # Bedrock
        return [_answered(asked, turn_of(output["message"], "output.message"))]
    if data.get("role") == "assistant" or "message" in data:
        return [_answered(asked, turn_of(data.get("message", data), "message"))]
    if isinstance(data.get("response"), str):  # Ollama, without a conversation
        thinking = {name: data[name] for name in REASONING if name in data}
        said = {"role": "assistant", "content": data["response"], **thinking}
        return [_answered(asked, turn_of(said, "response"))]
    raise ValueError(f"the answer is in no known form, got {described(data)}")


def _read_choices(choices: list[Any], asked: tuple[Turn, ...], prompt: str | None) -> list[Reading]:
    turns = [None if one is None else _choice(one, f"choices.{i}") for i, one in enumerate(choices)]
    places, empty = spoken([turn and turn.content for turn in turns], "choices")
    if prompt and not any(isinstance(one, Mapping) and "message" in one for one in choices):
        return [
            of_response(turn.content, prompt=prompt, sample=i, notes=empty)
            for i, turn in enumerate(turns)
            if turn is not None and i in places
        ]
    return [
        _answered(asked, _there(turns[i], f"choices.{i}"), sample=i, notes=empty) for i in places
    ]


def _there(turn: Turn | None, name: str) -> Turn:
    if turn is None:
        raise ValueError(f"{name} must be an object, got null")
    return turn


def _parts(candidate: object) -> object:
    """What a candidate of Gemini says; nothing where it was stopped before it said anything."""
    if not isinstance(candidate, Mapping):
        return candidate
    content = candidate.get("content")
    return content.get("parts") or None if isinstance(content, Mapping) else None


def _candidate(candidate: object, name: str) -> Turn:
    if not isinstance(candidate, Mapping):
        raise ValueError(f"{name} must be an object, got {described(candidate)}")
    if not isinstance(candidate.get("content"), Mapping) or not candidate["content"].get("parts"):
        reason = candidate.get("finishReason") or described(candidate)
        raise ValueError(f"{name} has no text: {reason}")
    return turn_of(_with_role(candidate["content"], "model"), f"{name}.content")


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
    if not isinstance(body, Mapping) or body.get("error") or set(body) == {"type"}:
        raise ValueError(f"the request failed: {described(result.get('type') or body)}")
    rest = {name: value for name, value in data.items() if name not in ("response", "result")}
    return _read_body(body, with_system(_asked(rest), body, ECHOED), _prompt(rest))


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
    if "custom_id" in data:
        return held is None or isinstance(held, Mapping)
    return isinstance(held, Mapping) and (_is_answer(held) or _is_completion(held))


def _is_answer(data: Mapping[str, Any]) -> bool:
    if data.get("role") == "assistant" and "content" in data:
        return True
    candidates, output = data.get("candidates"), data.get("output")
    if isinstance(candidates, list) and any(_is_candidate(one) for one in candidates):
        return True
    if isinstance(output, Mapping) and isinstance(output.get("message"), Mapping):
        return True
    if isinstance(data.get("response"), str) and {"model", "done"} <= set(data):
        return True
    if isinstance(data.get("message"), Mapping) and "model" in data:
        return True
    return data.get("object") == "response" and isinstance(data.get("output"), list)


def _is_candidate(candidate: object) -> bool:
    return isinstance(candidate, Mapping) and bool({"content", "finishReason"} & set(candidate))


def _read_answer(data: Mapping[str, Any]) -> list[Reading]:
    held = ("output", "content", "message")
    return _read_body(data, _asked({k: v for k, v in data.items() if k not in held}))


READ = (
    f"{'|'.join(REQUESTED)}|choices|candidates|response|result|request|body|params|messages|contents|prompt|output|"
    "message|content|thinking|reasoning|error|object"
)
BATCH = Form("results of an API batch", _is_batch, _read_batch, READ)
COMPLETION = Form("chat completions", _is_completion, _read_completion, READ)
ANSWER = Form("answers of an API", _is_answer, _read_answer, READ)
