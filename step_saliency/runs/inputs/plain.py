"""A question and its response by plain names, NeMo-Skills among them, or a question alone."""

import re
from collections.abc import Mapping
from typing import Any

from step_saliency.runs.inputs.form import Form
from step_saliency.runs.inputs.names import HINTS, VERDICTS, named, question_of
from step_saliency.runs.inputs.reading import Reading, is_marked, of_response
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
    return [
        of_response(*_one_of_several(text, f"{several}.{i}"), stated=stated, **facts)
        for i, (text, stated) in enumerate(zip(texts, _judged(data, len(texts)), strict=True))
    ]


def _one_of_several(value: Any, name: str) -> tuple[str, str]:
    """Text and thinking of a response in a list: text, or an object as engines write it."""
    field = _field(value, TEXTS) if isinstance(value, Mapping) else None
    if field is None:
        return checked_text(value, name), ""
    return checked_text(value[field], f"{name}.{field}"), _thinking(value)


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
    return Reading(kind="problem", question=asked)


def _marked_field(data: Mapping[str, Any]) -> str | None:
    """The only field under whose name a response may stand that has its thinking marked in it."""
    names = [name for name, value in data.items() if isinstance(value, str) and is_marked(value)]
    if "answer" in names:
        return "answer"
    return names[0] if len(names) == 1 and HINTS.search(names[0]) else None


def _is_nemo(data: Mapping[str, Any]) -> bool:
    return "generation" in data or "generated_solution" in data


READ = rf"prompt|{'|'.join((*SEVERAL, *THINKING))}"
"""Of several fields that may be the response, the first is read; the others count as not read."""


class _PlainForm(Form):
    def reads(self, data: Mapping[str, Any]) -> set[str]:
        one = _field(data, ONE)
        if one is None and _field(data, SEVERAL) is None:
            one = _marked_field(data) or "answer"
        return super().reads(data) | ({one} if one is not None else set())


NEMO = _PlainForm("NeMo-Skills generations", _is_nemo, _read, READ)
RESPONSES = _PlainForm(
    "questions and responses",
    lambda data: any(name in data for name in (*ONE, *SEVERAL)),
    _read,
    READ,
)
PROBLEMS = _PlainForm("questions", lambda data: True, _read, READ)
