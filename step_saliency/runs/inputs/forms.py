"""The forms of rows that are known, in the order in which they are tried."""

from collections.abc import Mapping
from typing import Any

from step_saliency.runs.inputs import (
    chats,
    completions,
    datasets,
    evaluations,
    exports,
    plain,
    stepwise,
)
from step_saliency.runs.inputs.form import Form
from step_saliency.runs.inputs.saved import SAVED

FORMS: tuple[Form, ...] = (
    SAVED,
    completions.BATCH,
    completions.COMPLETION,
    completions.ANSWER,
    evaluations.LIGHTEVAL,
    evaluations.LM_EVAL,
    evaluations.INSPECT,
    stepwise.PROCESS_BENCH,
    stepwise.PRM,
    stepwise.ROLLOUTS,
    datasets.QWEN_EVAL,
    datasets.OPEN_R1,
    datasets.OPEN_THOUGHTS,
    datasets.S1K,
    datasets.S1K_FIRST,
    datasets.DOLPHIN,
    exports.TREE,
    exports.CLAUDE,
    chats.PAIRS,
    chats.MESSAGES,
    chats.CONVERSATION,
    chats.TURN_PROMPTS,
    plain.NEMO,
    plain.RESPONSES,
    plain.PROBLEMS,
)
OWN = frozenset({SAVED.name, chats.MESSAGES.name, plain.RESPONSES.name, plain.PROBLEMS.name})
"""Forms that are our own."""


def form_of(data: Mapping[str, Any]) -> Form:
    """The form of a row, told by the names of its fields."""
    return next(form for form in FORMS if form.matches(data))
