"""Rows that hold a solution in pieces: PRM800K, ProcessBench, rollouts of thought anchors.

Steps are joined by empty lines. Of PRM800K the solution is the one that was generated before it was
judged or, where there is none, the completions that the judges went on from.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from step_saliency.runs.inputs.form import Form, has
from step_saliency.runs.inputs.names import question_of
from step_saliency.runs.inputs.reading import Reading, of_response
from step_saliency.runs.inputs.shapes import Shape, Text, checked, checked_text, scalar_text

OPENING = "<think>"


class _Steps(Shape):
    steps: list[Text]


class _Problem(Shape):
    problem: Text
    pre_generated_steps: list[Text] | None = None


def _read_process_bench(data: Mapping[str, Any]) -> list[Reading]:
    steps = checked(_Steps, data).steps
    stated = data.get("final_answer_correct")
    return [of_response("\n\n".join(steps), question=question_of(data), stated=stated)]


def _read_prm(data: Mapping[str, Any]) -> list[Reading]:
    asked = checked(_Problem, data["question"], name="question")
    steps = asked.pre_generated_steps or list(_chosen(data["label"]))
    if not steps:
        raise ValueError("the row has neither pre_generated_steps nor completions that were chosen")
    gold = scalar_text(data["question"].get("ground_truth_answer"))
    return [of_response("\n\n".join(steps), question=asked.problem, gold=gold)]


def _chosen(label: Mapping[str, Any]) -> Iterator[str]:
    """Text of each step that the judges went on from: a completion, or one of their own."""
    for i, step in enumerate(label.get("steps") or ()):
        completions, chosen = step.get("completions") or [], step.get("chosen_completion")
        own = step.get("human_completion")
        if own is None and chosen is None and len(completions) != 1:
            return
        piece = own if own is not None else completions[chosen or 0]
        text = piece.get("text") if isinstance(piece, Mapping) else piece
        yield checked_text(text, f"label.steps.{i}")


def _is_prm(data: Mapping[str, Any]) -> bool:
    question = data.get("question")
    return isinstance(data.get("label"), Mapping) and (
        isinstance(question, Mapping) and "problem" in question
    )


def _read_rollout(data: Mapping[str, Any]) -> list[Reading]:
    """All that was read and written; ``answer`` is the response's own, so there is no gold answer.

    The prompt ends where the thinking is opened.
    """
    text = checked_text(data["full_cot"], "full_cot")
    before, opening, after = text.partition(OPENING)
    if not opening:
        raise ValueError(f"full_cot holds no {OPENING}, which ends the prompt")
    opening += "\n" if after.startswith("\n") else ""
    return [
        of_response(
            after.removeprefix("\n"),
            prompt=before + opening,
            gold=scalar_text(data.get("gt_answer")) or "",
        )
    ]


PROCESS_BENCH = Form(
    "ProcessBench solutions", has("problem", "steps", "final_answer_correct"),
    _read_process_bench, "steps|final_answer_correct|label",
)  # fmt: skip
PRM = Form("PRM800K solutions", _is_prm, _read_prm, "question|label|generation")
ROLLOUTS = Form(
    "rollouts of thought anchors", has("full_cot", "is_correct"),
    _read_rollout, "full_cot|prompt|solution|rollout|chunk_.*|prefix_without_chunk|answer",
)  # fmt: skip
