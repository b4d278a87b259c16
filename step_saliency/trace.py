"""The unit that everything else takes and returns: one response of a model, cut into steps.

A trace is question | thinking | summary. Every token belongs to exactly one step and every step to
one region; template and special tokens (BOS, role markers, ``<think>``) belong to steps of region
``template``, which no metric counts. Tokens are those that the model read: nothing here decodes and
tokenises again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor


class Region(StrEnum):
    """Part of a trace. Members equal their names: ``Region.THINKING == "thinking"``."""

    TEMPLATE = "template"
    QUESTION = "question"
    THINKING = "thinking"
    SUMMARY = "summary"


@dataclass(frozen=True)
class Step:
    """Tokens ``start`` (included) to ``stop`` (excluded) of a trace."""

    start: int
    stop: int
    region: Region
    text: str = ""

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, eq=False)
class Trace:
    """Tokens of one prompt and response, cut into steps that tile them without gap or overlap.

    Attributes:
        tokens: Token ids as the model reads them, shape ``pos``, on the CPU.
        steps: Steps in order; step n + 1 starts where step n stops.
        id: Name of the trace in tables and file names, if it has one.
        question: Text of the (last) question, without template.
        response: Text of the response as it was given, with its format marks.
        meta: Anything else that is known of the trace (gold answer, correctness, model), in JSON types.
    """

    tokens: Int[Tensor, "pos"]
    steps: tuple[Step, ...]
    id: str | None = None
    question: str = ""
    response: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def step_ids(self) -> Int[Tensor, "pos"]:
        """Index of the step that each position is in."""
        lengths = torch.tensor([len(step) for step in self.steps])
        return torch.repeat_interleave(torch.arange(len(self.steps)), lengths)
