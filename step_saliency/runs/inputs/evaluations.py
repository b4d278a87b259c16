"""Logs of evaluations: samples of lm-eval and of inspect-ai."""

from collections.abc import Mapping, Sequence
from typing import Any

from step_saliency.runs.inputs.form import Form
from step_saliency.runs.inputs.names import gold_of, question_of
from step_saliency.runs.inputs.reading import Reading, of_response, of_turns
from step_saliency.runs.inputs.shapes import checked_text, described, scalar_text
from step_saliency.runs.inputs.turns import turn_of, turns_of

METRICS = ("exact_match", "math_verify", "extractive_match", "acc", "is_correct")
SCORES = {"C": True, "I": False}
"""How inspect-ai writes correct and incorrect."""


def _read_lm_eval(data: Mapping[str, Any]) -> list[Reading]:
    answers = data["resps"]
    while isinstance(answers, list) and len(answers) == 1 and isinstance(answers[0], list):
        answers = answers[0]
    if not isinstance(answers, list) or not answers or not isinstance(answers[0], str):
        raise ValueError(
            f"resps must hold the texts of responses, got {described(answers)}; tasks that are "
            "scored by likelihood have none"
        )
    doc = data["doc"] if isinstance(data["doc"], Mapping) else {}
    question = question_of(doc)
    prompt = None if question else _first_prompt(data.get("arguments"))
    metric = next((data[m] for m in METRICS if data.get(m) is not None), None)
    return [
        of_response(
            checked_text(answer, "resps"),
            question=question,
            prompt=prompt,
            gold=scalar_text(data.get("target")) or gold_of(doc),
            stated=metric if len(answers) == 1 else None,
        )
        for answer in answers
    ]


def _first_prompt(arguments: Any) -> str:
    """The text that the model was given."""
    while isinstance(arguments, Mapping | Sequence) and not isinstance(arguments, str):
        values = list(arguments.values() if isinstance(arguments, Mapping) else arguments)
        arguments = values[0] if values else None
    if not isinstance(arguments, str):
        raise ValueError("neither doc nor arguments holds the question")
    return checked_text(arguments, "arguments")


def _read_inspect(data: Mapping[str, Any]) -> list[Reading]:
    data = _resolved(data, data["attachments"]) if data.get("attachments") else data
    target = data.get("target")
    gold = target[0] if isinstance(target, list) and len(target) == 1 else target
    facts = {"gold": scalar_text(gold) or None, "stated": _score(data.get("scores"))}
    asked = data["input"]
    messages = data.get("messages")
    if isinstance(messages, list) and len(messages) > 1:
        turns = turns_of(messages, "messages")
        ends = [i for i, turn in enumerate(turns) if turn.role == "assistant"]
        if ends:
            return [of_turns(turns[: ends[-1] + 1], **facts)]
    choices = data["output"].get("choices") if isinstance(data.get("output"), Mapping) else None
    if not choices:
        raise ValueError(f"the sample has no answer: output is {described(data.get('output'))}")
    answer = turn_of(choices[0].get("message"), "output.choices.0.message")
    if isinstance(asked, str):
        asked = [{"role": "user", "content": asked}]
    return [of_turns((*turns_of(asked, "input"), answer), **facts)]


def _score(scores: Any) -> Any:
    """Judgement of the first scorer."""
    first = next(iter(scores.values()), None) if isinstance(scores, Mapping) else None
    value = first.get("value") if isinstance(first, Mapping) else None
    return SCORES.get(value, value) if isinstance(value, str) else value


def _resolved(value: Any, attachments: Any) -> Any:
    """A sample with its long texts in their places, of which inspect-ai keeps a list."""
    if isinstance(value, str) and value.startswith("attachment://"):
        return attachments.get(value.removeprefix("attachment://"), value)
    if isinstance(value, Mapping):
        return {k: v if k == "attachments" else _resolved(v, attachments) for k, v in value.items()}
    return [_resolved(part, attachments) for part in value] if isinstance(value, list) else value


def _is_inspect(data: Mapping[str, Any]) -> bool:
    return (
        "input" in data
        and "target" in data
        and ("output" in data or "messages" in data)
        and ("epoch" in data or "scores" in data or isinstance(data.get("output"), Mapping))
    )


LM_EVAL = Form(
    "lm-eval samples",
    lambda data: "resps" in data and "doc" in data,
    _read_lm_eval,
    "resps|filtered_resps|doc|target|arguments",
)
INSPECT = Form(
    "inspect-ai samples",
    _is_inspect,
    _read_inspect,
    "input|target|output|messages|scores|attachments|events|store|metadata|choices",
)
