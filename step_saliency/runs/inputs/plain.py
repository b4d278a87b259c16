"""A question and its response by plain names, NeMo-Skills among them, or a question alone."""

import re
from collections.abc import Mapping
from typing import Any

from step_saliency.runs.inputs.form import Form
from step_saliency.runs.inputs.names import HINTS, VERDICTS, named, question_of
from step_saliency.runs.inputs.reading import Reading, is_marked, of_response, spoken
from step_saliency.runs.inputs.shapes import checked_text, described
from step_saliency.runs.inputs.turns import thinking_field

ONE = (
    "response",
    "generation",
    "generated_solution",
    "completion",
    "output",
    "model_output",
    "model_response",
    "llm_response",
)
SEVERAL = ("responses", "completions", "outputs", "output_list")
LONG_SOLUTION = 4000
"""Characters from which a worked solution may be the trace of a model."""
CHAT_MARKS = re.compile(r"<\|im_start\|>|<\|start_header_id\|>|<｜User｜>|\[INST\]|<\|user\|>")
"""By these a question shows that it is the whole prompt, in a model's own template."""
TEXTS = ("text", "response", "generated_text", "content", "output")
"""Fields of one of several responses that is an object."""
THINKING = (
    "reasoning_content",
    "reasoning",
    "thinking",
    "thought",
    "thoughts",
    "chain_of_thought",
    "cot",
    "complex_cot",
    "thinking_trajectory",
    "reasoning_trace",
)
ENDS = ("answer", "solution", "attempt", "final_answer", "content")
"""Fields that, beside thinking, may be the end of the response or the gold answer."""


def _field(data: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    """The first of these fields that holds something, or else is there."""
    there = [name for name in names if name in data]
    return next((name for name in there if data[name] is not None), there[0] if there else None)


def _read(data: Mapping[str, Any]) -> list[Reading]:
    one, several = _field(data, ONE), _field(data, SEVERAL)
    prompt = None if data.get("prompt") in (None, "") else checked_text(data["prompt"], "prompt")
    question = question_of(data)
    if prompt is None and CHAT_MARKS.search(question):
        question, prompt = "", question
    elif one == "llm_response" and not question:  # of SYNTHETIC-1, whose prompt is the question
        question, prompt = prompt or "", None
    if one is None and several is None:
        return [_without_response(data, question, prompt)]
    if not question and prompt is None:
        raise ValueError(
            f"a response but no question ({', '.join(map(str, list(data)[:8]))}); name its "
            "field with --field question=NAME"
        )
    facts: dict[str, Any] = {"question": question, "prompt": prompt, "notes": _left_out(data)}
    if one is not None:
        return [of_response(checked_text(data[one], one), _thinking(data), **facts)]
    texts = data[str(several)]
    if isinstance(texts, str):
        texts = [texts]
    if not isinstance(texts, list) or not texts:
        raise ValueError(f"{several} must be a list of texts, got {described(texts)}")
    places, empty = spoken([_said(text) for text in texts], str(several))
    facts["notes"] = (*facts["notes"], *empty)
    judged = _judged(data, len(texts))
    return [
        of_response(
            *_one_of_several(texts[i], f"{several}.{i}"), stated=judged[i], sample=i, **facts
        )
        for i in places
    ]


def _said(value: Any) -> Any:
    """What a response in a list says, in its text or else in its thinking."""
    field = _field(value, TEXTS) if isinstance(value, Mapping) else None
    return value if field is None else value[field] or _thinking(value) or value[field]


def _one_of_several(value: Any, name: str) -> tuple[str, str]:
    """Text and thinking of a response in a list: text, or an object as engines write it."""
    field = _field(value, TEXTS) if isinstance(value, Mapping) else None
    if field is None:
        return checked_text(value, name), ""
    thinking = _thinking(value)
    text = "" if thinking and value[field] is None else value[field]
    return checked_text(text, f"{name}.{field}"), thinking


def _left_out(data: Mapping[str, Any]) -> tuple[str, ...]:
    names = [name for name in ("system", "system_prompt") if str(data.get(name) or "").strip()]
    return tuple(f"the system prompt in {name}; store turns as messages" for name in names)


def _judged(data: Mapping[str, Any], n: int) -> list[Any]:
    """A judgement of each of several responses, where a list of them stands in the row."""
    lists = (data[name] for name in VERDICTS if isinstance(data.get(name), list))
    return next((judged for judged in lists if len(judged) == n), [None] * n)


def _thinking(data: Mapping[str, Any]) -> str:
    name = thinking_field(data, THINKING)
    return "" if name is None else checked_text(data[name], name)


def _without_response(data: Mapping[str, Any], question: str, prompt: str | None) -> Reading:
    thinking = thinking_field(data, THINKING)
    if thinking is not None:
        ends = [name for name in ENDS if data.get(name) is not None]
        raise ValueError(
            f"thinking but no response: {named(data, [thinking, *ends])}; name the end of "
            f"the response with --field thinking={thinking},response=NAME, or read the thinking "
            f"alone with --field response={thinking}"
        )
    marked = _marked_field(data)
    if marked is not None and (question or prompt):
        note = f"the response is read from {marked}, where its thinking is marked"
        return of_response(
            checked_text(data[marked], marked),
            question=question,
            prompt=prompt,
            notes=() if marked == "answer" else (note,),
        )
    asked = question or prompt or ""
    if not asked.strip():
        fields = ", ".join(map(str, data)) or "nothing"
        raise ValueError(
            f"has no question, response or messages: {fields[:300]}; name them with --field "
            "question=NAME,response=NAME"
        )
    return Reading(kind="problem", question=asked, notes=_long_solution(data))


def _long_solution(data: Mapping[str, Any]) -> tuple[str, ...]:
    """A worked solution is no response; one of this length may be the trace (LIMO)."""
    text = data.get("solution")
    if not isinstance(text, str) or len(text) < LONG_SOLUTION:
        return ()
    return ("solution, long enough to be the trace (--field response=solution)",)


def _marked_field(data: Mapping[str, Any]) -> str | None:
    """The only field under whose name a response may stand that has its thinking marked in it."""
    names = [name for name, value in data.items() if isinstance(value, str) and is_marked(value)]
    if "answer" in names:
        return "answer"
    return names[0] if len(names) == 1 and HINTS.search(names[0]) else None


def _is_nemo(data: Mapping[str, Any]) -> bool:
    return "generation" in data or "generated_solution" in data


class _PlainForm(Form):
    """Of several fields that may be the response, or its thinking, the first is read."""

    def reads(self, data: Mapping[str, Any]) -> set[str]:
        one, several = _field(data, ONE), _field(data, SEVERAL)
        if one is not None:
            texts = {one, thinking_field(data, THINKING)}
        else:
            texts = {several or _marked_field(data) or "answer"}
        return super().reads(data) | {name for name in texts if name is not None}


NEMO = _PlainForm("NeMo-Skills generations", _is_nemo, _read, "prompt")
RESPONSES = _PlainForm(
    "questions and responses",
    lambda data: any(name in data for name in (*ONE, *SEVERAL)),
    _read,
    "prompt",
)
PROBLEMS = _PlainForm("questions", lambda data: True, _read, "prompt")
