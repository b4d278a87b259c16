"""Passes over an answer under many edits, with the prompt before it read once.

An edit that acts on the rows of thinking and summary alone leaves keys and values of the positions
before as they are, so that a pass can go on from them:

    prompt | answer          read once, unedited | a pass for each edit

Logits and doses are those of whole passes up to rounding. Where the model cannot go on from a cache
(`Prefix.shared`), passes are whole.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from analyses.instruments.knockout import Prefix, logits_at
from step_saliency.intervene import Edit, Effects
from step_saliency.intervene.labels import REGION_CODE
from step_saliency.models.facts import backend_of, device_of, n_layers
from step_saliency.trace import Region, Trace


@dataclass(frozen=True, eq=False)
class Resumed:
    """An answer whose prompt a model has read.

    Attributes:
        trace: Prompt and answer.
        prefix: What the model made of the positions before; None where nothing can be left out.
    """

    trace: Trace
    prefix: Prefix | None

    @classmethod
    def of(cls, model: Any, trace: Trace) -> "Resumed":
        """A trace whose prompt is read now, up to the token before the one that predicts first."""
        written = trace.region_steps(Region.THINKING, Region.SUMMARY)
        start = trace.steps[written[0]].start - 1 if written else 0
        return cls(trace, Prefix.shared(model, trace.tokens[: max(start, 0)]))

    @property
    def start(self) -> int:
        """First position of a pass."""
        return 0 if self.prefix is None else self.prefix.length

    @contextmanager
    def attached(self, model: Any, edit: Edit | None) -> Iterator[Any]:
        """Context in which a pass from `start` on runs under an edit; yields its session.

        Raises:
            ValueError: the edit acts on the positions that are left out.
        """
        if edit is None:
            yield None
            return
        before = {REGION_CODE[s.region] for s in self.trace.steps if s.start < self.start}
        if before and edit.may_act(before, before):
            raise ValueError(
                f"{edit.name} may act on the prompt, which is read once without it; take passes "
                "over all positions"
            )
        with edit.attached(model, trace=self.trace) as session:
            if self.start:
                session.resume(self.trace.tokens[None, : self.start].to(device_of(model)))
            yield session


@torch.no_grad()
def resumed_logits(
    model: Any, read: Resumed, position: int, edit: Edit | None = None
) -> Float[Tensor, "vocab"]:
    """Logits at one position of the answer under an edit, in float32 on the CPU.

    Args:
        model: HookedTransformer or TransformerBridge.
        read: Prompt and answer.
        position: At or after the token that predicts the answer's first.
        edit: Edit of rows of thinking and summary, or None.
    """
    tokens = read.trace.tokens[None, : position + 1]
    with read.attached(model, edit):
        logits = logits_at(model, tokens, [position], prefix=read.prefix)
    return logits[0, 0].float().cpu()


@torch.no_grad()
def resumed_effects(model: Any, edit: Edit, reads: Sequence[Resumed]) -> Effects:
    """What an edit does in passes over answers, as `effects_on` counts it.

    Args:
        model: HookedTransformer or TransformerBridge.
        edit: Edit of rows of thinking and summary.
        reads: Prompts and answers.

    Raises:
        ValueError: there are none.
    """
    if not reads:
        raise ValueError("reads=[] is empty; a dose is measured on at least one trace")
    effects = Effects()
    for read in reads:
        with read.attached(model, edit) as session:
            _run_through(model, read, max(edit.layers, default=n_layers(model) - 1))
        effects.include(session.effects)
    return effects


def _run_through(model: Any, read: Resumed, last: int) -> None:
    """A pass up to the last layer that is edited, where the model can stop there."""
    tokens = read.trace.tokens[None].to(device_of(model))
    if backend_of(model) != "hooked":
        logits_at(model, tokens, [len(read.trace) - 1], prefix=read.prefix)
        return
    rest = tokens[:, read.start :]
    cache = None if read.prefix is None else read.prefix.expanded(1)
    mask = torch.ones_like(rest)
    model(rest, attention_mask=mask, past_kv_cache=cache, stop_at_layer=last + 1)
