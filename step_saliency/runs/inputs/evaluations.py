"""Logs of evaluations: samples of lm-eval and of inspect-ai, details of lighteval.

Where several metrics or scorers judged a response, their judgement counts if they agree.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from step_saliency.runs.inputs.form import Form
from step_saliency.runs.inputs.judgements import Judged, agreed, is_said, of_several
from step_saliency.runs.inputs.names import (
    GOLD,
    QUESTIONS,
    WORKED,
    gold_of,
    question_of,
    with_plain_names,
)
from step_saliency.runs.inputs.reading import Reading, of_response, of_turns, spoken
from step_saliency.runs.inputs.shapes import checked_text, described, scalar_text
from step_saliency.runs.inputs.turns import turn_of, turns_of
from step_saliency.tasks.verdicts import verdict

METRICS = ("exact_match", "math_verify", "extractive_match", "acc", "is_correct")
SCORES = {"C": True, "I": False}
"""How inspect-ai writes correct and incorrect."""


def _read_lm_eval(data: Mapping[str, Any]) -> list[Reading]:
    answers = data["resps"]
    while isinstance(answers, list) and len(answers) == 1 and isinstance(answers[0], list):
        answers = answers[0]
    if not isinstance(answers, list) or not any(isinstance(text, str) for text in answers):
        raise ValueError(
            f"resps must hold the texts of responses, got {described(answers)}; tasks that are "
            "scored by likelihood have none"
        )
    doc = data["doc"] if isinstance(data["doc"], Mapping) else {}
    doc = with_plain_names(doc, (*QUESTIONS, *GOLD, *WORKED))
    question = question_of(doc)
    prompt = None if question else _first_prompt(data.get("arguments"))
    judged = _judged_by_metrics(data)
    if len(answers) > 1:
        judged = of_several(judged, "lm-eval's metrics")
    places, empty = spoken(answers, "resps")
    return [
        of_response(
            checked_text(answers[i], "resps"),
            question=question,
            prompt=prompt,
            gold=scalar_text(data.get("target")) or gold_of(doc),
            stated=judged.stated,
            unjudged=judged.unjudged,
            sample=i,
            notes=(*empty, *judged.notes),
        )
        for i in places
    ]


def _judged_by_metrics(data: Mapping[str, Any]) -> Judged:
    """What the metrics of lm-eval judged; others than those known count where they judge too."""
    listed = data.get("metrics")
    others = [name for name in listed if isinstance(name, str)] if isinstance(listed, list) else []
    known = {name: data.get(name) for name in METRICS}
    if not any(map(is_said, known.values())):
        return Judged()
    judging = {name: data.get(name) for name in others if verdict(data.get(name)) is not None}
    return agreed({**known, **judging})


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
    judged = _judged_by_scorers(data.get("scores"))
    facts: dict[str, Any] = {"gold": scalar_text(gold) or None, **judged._asdict()}
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


def _judged_by_scorers(scores: Any) -> Judged:
    """What the scorers that say right or wrong judged, or else what the first one says."""
    given = scores if isinstance(scores, Mapping) else {}
    values = {
        str(name): SCORES.get(score["value"], score["value"])
        if isinstance(score["value"], str)
        else score["value"]
        for name, score in given.items()
        if isinstance(score, Mapping) and "value" in score
    }
    judging = {name: value for name, value in values.items() if verdict(value) is not None}
    return agreed(judging) if judging else Judged(next(iter(values.values()), None))


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


def _part(data: Mapping[str, Any], name: str) -> Any:
    """A column of lighteval's details, whose names had underscores around them."""
    return data.get(name, data.get(f"__{name}__"))


def _read_lighteval(data: Mapping[str, Any]) -> list[Reading]:
    doc, said = _part(data, "doc"), _part(data, "model_response")
    texts = said.get("text")
    if not isinstance(texts, list) or not texts:
        raise ValueError(
            f"model_response.text must hold the texts of responses, got {described(texts)}; tasks "
            "that are scored by likelihood have none"
        )
    thoughts = said.get("reasonings") or [None] * len(texts)
    question = checked_text(doc.get("query"), "doc.query")
    metric = _part(data, "metric")
    judged = _judged_by_details(metric, len(texts))
    said = [thought or text for text, thought in zip(texts, thoughts, strict=True)]
    places, empty = spoken(said, "model_response.text")
    return [
        of_response(
            checked_text(texts[i], f"model_response.text.{i}"),
            checked_text(thoughts[i] or "", f"model_response.reasonings.{i}"),
            question=question,
            gold=_choice(doc),
            stated=judged.stated,
            unjudged=judged.unjudged,
            sample=i,
            notes=(*empty, *judged.notes),
        )
        for i in places
    ]


def _judged_by_details(metric: Any, n_texts: int) -> Judged:
    """What the metrics of lighteval judged, those that are no judgements left out."""
    given = metric if isinstance(metric, Mapping) else {}
    metrics = {str(name): value for name, value in given.items()}
    judging = {name: value for name, value in metrics.items() if verdict(value) is not None}
    judged = agreed(judging if len(metrics) > 1 else metrics)
    return judged if n_texts == 1 else of_several(judged, "metric")


def _choice(doc: Mapping[str, Any]) -> str | None:
    """The right one of the choices, if there is one only."""
    index, choices = doc.get("gold_index"), doc.get("choices")
    index = index[0] if isinstance(index, list) and len(index) == 1 else index
    if not isinstance(index, int) or not isinstance(choices, list) or not index < len(choices):
        return None
    return scalar_text(choices[index])


def _is_lighteval(data: Mapping[str, Any]) -> bool:
    return all(isinstance(_part(data, name), Mapping) for name in ("doc", "model_response"))


LIGHTEVAL = Form(
    "details of lighteval",
    _is_lighteval,
    _read_lighteval,
    "(__)?(doc|model_response|metric)(__)?",
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
