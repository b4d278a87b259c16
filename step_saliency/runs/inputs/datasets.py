"""Rows of reasoning data: OpenThoughts, OpenR1, s1K, Dolphin-R1; outputs of Qwen2.5-Math."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from step_saliency.runs.inputs.beside import RESPONSES, responses_of
from step_saliency.runs.inputs.form import Form
from step_saliency.runs.inputs.judgements import Judged, agreed
from step_saliency.runs.inputs.names import gold_of, is_switch, question_of
from step_saliency.runs.inputs.reading import (
    Reading,
    Turn,
    of_response,
    of_turns,
    spoken,
    with_thinking,
)
from step_saliency.runs.inputs.shapes import (
    Shape,
    Text,
    checked,
    checked_text,
    described,
    scalar_text,
)
from step_saliency.runs.inputs.turns import ROLES, is_conversation, turns_of
from step_saliency.runs.inputs.written import from_text

THINKING = re.compile(r"(\w+)_(?:reasoning|thinking_trajectory)")
ANSWERS = ("solution", "attempt", "response", "answer")
JUDGES = ("correctness_math_verify", "correctness_llama")
GRADES = {"yes": True, "no": False}


class _Generations(Shape):
    generations: list[Text]


def _read_generations(data: Mapping[str, Any]) -> list[Reading]:
    question = question_of(data)
    texts = data["generations"]
    if isinstance(texts, list) and any(texts):
        texts = ["" if text is None else text for text in texts]
    checked(_Generations, {"generations": texts})
    if not texts:
        raise ValueError("generations is an empty list")
    places, empty = spoken(data["generations"], "generations")
    judged = _judged(data, len(texts))
    return [
        of_response(
            texts[i],
            question=question,
            stated=judged[i].stated,
            unjudged=judged[i].unjudged,
            sample=i,
            notes=(*empty, *judged[i].notes),
        )
        for i in places
    ]


def _judged(data: Mapping[str, Any], n: int) -> list[Judged]:
    """What the judges that said anything judged of each of the generations."""
    lists = {name: data[name] for name in JUDGES if isinstance(data.get(name), list)}
    whole = {name: judged for name, judged in lists.items() if len(judged) == n}
    return [agreed({name: judged[i] for name, judged in whole.items()}) for i in range(n)]


class Pair(NamedTuple):
    """A response whose thinking and answer are fields of a row.

    Attributes:
        source: What both names begin with.
        thinking: Field of the thinking.
        answer: Field of the answer.
    """

    source: str
    thinking: str
    answer: str


def pairs_of(data: Mapping[str, Any]) -> Iterator[Pair]:
    """Responses of a row by the names of its fields, whatever these hold."""
    for name in data:
        match = THINKING.fullmatch(name)
        answers = [f"{match[1]}_{end}" for end in ANSWERS] if match else []
        there = [answer for answer in answers if answer in data]
        if match and there:
            spoken = next((answer for answer in there if _says(data[answer])), there[0])
            yield Pair(match[1], name, spoken)


def _says(value: object) -> bool:
    """Whether a field says something; what is no text is an error where it is read."""
    return value is not None and not (isinstance(value, str) and not value.strip())


def _whole(data: Mapping[str, Any]) -> list[Pair]:
    """Responses that have both their thinking and their answer."""
    return [
        pair for pair in pairs_of(data) if _says(data[pair.thinking]) and _says(data[pair.answer])
    ]


def _read_pairs(data: Mapping[str, Any]) -> list[Reading]:
    question, pairs = question_of(data), _whole(data)
    if not pairs:
        names = ", ".join(name for pair in pairs_of(data) for name in pair[1:])
        raise ValueError(f"no response has both its thinking and its answer ({names})")
    return [
        of_response(
            checked_text(data[pair.answer], pair.answer),
            checked_text(data[pair.thinking], pair.thinking),
            question=question,
            source=pair.source,
            stated=_grade(data.get(f"{pair.source}_grade")),
        )
        for pair in pairs
    ]


def _grade(grade: object) -> object:
    """A grade of s1K, which says yes or no."""
    return GRADES.get(grade.strip().lower(), grade) if isinstance(grade, str) else grade


class _Trajectories(Shape):
    thinking_trajectories: list[Text]


def _read_trajectories(data: Mapping[str, Any]) -> list[Reading]:
    question = question_of(data)
    attempts = data["attempt"] if isinstance(data["attempt"], list) else [data["attempt"]]
    thoughts = checked(_Trajectories, data).thinking_trajectories
    if not thoughts or len(attempts) not in (1, len(thoughts)):
        raise ValueError(
            f"thinking_trajectories is {described(thoughts)}, attempt {described(data['attempt'])}"
        )
    attempts = attempts if len(attempts) == len(thoughts) else attempts * len(thoughts)
    return [
        of_response(checked_text(attempt, "attempt"), thought, question=question)
        for thought, attempt in zip(thoughts, attempts, strict=True)
    ]


class _PairForm(Form):
    """Of a response that lacks its thinking or its answer, the other is not read."""

    def reads(self, data: Mapping[str, Any]) -> set[str]:
        fields = {name for pair in _whole(data) for name in pair[1:]}
        return fields | super().reads(data)

    def silent(self, data: Mapping[str, Any]) -> tuple[str, ...]:
        return tuple(
            f"{name} that is {'null' if data[name] is None else 'empty'}"
            for pair in pairs_of(data)
            for name in pair[1:]
            if not _says(data[name])
        )


def _pair_form(name: str, ending: str) -> Form:
    return _PairForm(
        name,
        lambda data: any(pair.thinking.endswith(ending) for pair in pairs_of(data)),
        _read_pairs,
        r"\w+_(?:grade|grade_reason)",
    )


class _GenerationsForm(Form):
    """Messages are read where they end in one of the generations, or in what was asked."""

    def reads(self, data: Mapping[str, Any]) -> set[str]:
        generations = data.get("generations")
        texts = generations if isinstance(generations, list) else []
        said = {text.strip() for text in texts if isinstance(text, str)}
        others = {text.strip() for text in responses_of(data).get("messages", ())} - said
        return super().reads(data) - ({"messages"} if others else set())


class _Samples(Shape):
    code: list[Text]


def _read_qwen_eval(data: Mapping[str, Any]) -> list[Reading]:
    written = data["code"]
    if any(written):
        written = ["" if text is None else text for text in written]
    texts, scores = checked(_Samples, {"code": written}).code, data.get("score")
    if not texts:
        raise ValueError("code is an empty list")
    judged = scores if isinstance(scores, list) and len(scores) == len(texts) else [None]
    judged = judged * (len(texts) // len(judged))
    facts: dict[str, Any] = {"question": question_of(data), "gold": scalar_text(data["gt"])}
    places, empty = spoken(data["code"], "code")
    return [of_response(texts[i], stated=judged[i], sample=i, notes=empty, **facts) for i in places]


DOLPHIN_FIELDS = ("messages", "reasoning", "answer", "model")


def _is_dolphin(data: Mapping[str, Any]) -> bool:
    """Whether turns that end with the user's stand beside what a model thought and answered.

    Without the model's name, ``answer`` may as well be the gold answer.
    """
    beside = all(isinstance(data.get(name), str) for name in DOLPHIN_FIELDS[1:])
    if not beside or any(name in data for name in RESPONSES):
        return False
    turns: Any = from_text(data.get("messages"))
    if not is_conversation(turns) or is_switch(data["reasoning"]):
        return False
    role = turns[-1].get("role", turns[-1].get("from"))
    return isinstance(role, str) and ROLES.get(role, role) == "user"


def _read_dolphin(data: Mapping[str, Any]) -> list[Reading]:
    reasoning, answer = (checked_text(data[name], name) for name in ("reasoning", "answer"))
    said = Turn("assistant", *with_thinking(reasoning, answer))
    gold = gold_of({name: value for name, value in data.items() if name != "answer"})
    return [of_turns((*turns_of(data["messages"], "messages"), said), gold=gold or "")]


QWEN_EVAL = Form(
    "outputs of Qwen2.5-Math's evaluation",
    lambda data: "gt" in data and isinstance(data.get("code"), list),
    _read_qwen_eval,
    "code|gt|gt_cot|score|pred|report|solution",
)
OPEN_R1 = _GenerationsForm(
    "OpenR1 generations",
    lambda data: "generations" in data,
    _read_generations,
    "generations|correctness_.*|messages",
)
OPEN_THOUGHTS = _pair_form("OpenThoughts reasoning and solution", "_reasoning")
S1K = _pair_form("s1K trajectories and attempts", "_thinking_trajectory")
S1K_FIRST = Form(
    "s1K trajectories",
    lambda data: "thinking_trajectories" in data and "attempt" in data,
    _read_trajectories,
    "thinking_trajectories|attempt",
)
DOLPHIN = Form(
    "Dolphin-R1 reasoning and answers", _is_dolphin, _read_dolphin, "|".join(DOLPHIN_FIELDS)
)
