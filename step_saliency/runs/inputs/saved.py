"""Saved traces: mapped with their own tokens and steps, nothing is cut anew.

`save_jsonl` and `Trace.to_dict` write ``tokens``, ``starts``, ``regions``; the short form has
``steps``, a list of objects with ``start``, ``region`` and, if wanted, ``stop`` and ``text``. The
log of a results folder holds traces under ``trace``.
"""

from collections.abc import Mapping
from typing import Any

from step_saliency.runs.inputs.form import Form
from step_saliency.runs.inputs.reading import Reading
from step_saliency.runs.inputs.shapes import Shape, Text, checked


class _Saved(Shape):
    tokens: list[int]
    starts: list[int]
    regions: list[Text]
    texts: list[Text] | None = None
    question: Text = ""
    response: Text = ""
    meta: dict[str, Any] = {}  # noqa: RUF012  pydantic copies it


class _Step(Shape):
    start: int
    region: Text
    stop: int | None = None
    text: Text = ""


class _Steps(Shape):
    tokens: list[int]
    steps: list[_Step]


def _read(data: Mapping[str, Any]) -> list[Reading]:
    if isinstance(data.get("trace"), Mapping):
        return _read({**data["trace"], "id": data["trace"].get("id") or data.get("name")})
    fields = data if "starts" in data else {**data, **_by_steps(data)}
    saved = checked(_Saved, {k: v for k, v in fields.items() if v is not None})
    _check_tokens(saved.tokens)
    return [
        Reading(
            kind="trace",
            trace=saved.model_dump(exclude_none=True),
            question=saved.question,
            response=saved.response,
        )
    ]


def _by_steps(data: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `Trace.to_dict` of a trace whose steps are a list of objects."""
    shape = checked(_Steps, data)
    steps = shape.steps
    ends = [step.start for step in steps[1:]] + [len(shape.tokens)]
    for i, (step, end) in enumerate(zip(steps, ends, strict=True)) if steps else ():
        if step.stop is not None and step.stop != end:
            raise ValueError(
                f"steps.{i} stops at {step.stop}, but what follows begins at {end}; steps must "
                "tile the tokens"
            )
    return {
        "starts": [step.start for step in steps],
        "regions": [step.region for step in steps],
        "texts": [step.text for step in steps],
    }


def _check_tokens(tokens: list[int]) -> None:
    bad = next((token for token in tokens if not 0 <= token < 2**31), None)
    if bad is not None:
        raise ValueError(f"tokens must be token ids from 0, got {str(bad)[:20]}")


def _is_saved(data: Mapping[str, Any]) -> bool:
    if isinstance(data.get("trace"), Mapping):
        return _is_saved(data["trace"])
    return "tokens" in data and ("starts" in data or "steps" in data)


SAVED = Form(
    "saved traces", _is_saved, _read, "tokens|starts|regions|texts|steps|response|meta|trace"
)
