"""Where attention goes in a teacher-forced pass, and what is predicted: mediators and outcomes.

Mediators: ``bridge_mass`` (attention of thinking on the question and of the summary on the
thinking, shallow layers), ``step_mass`` (of thinking and summary on the step being written, shallow
layers), ``summary_mass`` (of the summary on the thinking, deep layers). Outcomes: ``loss`` and
``answer_loss`` of the gold solution, and ``margin`` at the first error of a wrong greedy answer
(`analyses.instruments.margins`).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from torch import Tensor

from analyses.instruments.forced import forced_logits, group_of
from analyses.instruments.losses import losses_of, text_losses
from analyses.instruments.margins import FirstError, greedy_errors, margin
from analyses.instruments.masses import groups_of, keep_pattern, mass, rows_in
from analyses.material.answers import AnswerSettings
from analyses.material.problems import Item, gold_trace
from step_saliency.intervene import Edit
from step_saliency.intervene.groups import KeyGroup
from step_saliency.models.bands import Bands
from step_saliency.models.facts import n_layers
from step_saliency.trace import Region, Trace

MEDIATORS = ("bridge_mass", "step_mass", "summary_mass")
OUTCOMES = ("loss", "answer_loss", "margin")


def forced_pass(
    model: Any, trace: Trace, edits: Sequence[Edit]
) -> tuple[Float[Tensor, "pos vocab"], dict[str, float]]:
    """Logits of a full pass under edits, and the mediators."""
    bands = Bands.quarters(n_layers(model))
    patterns: dict[int, Float[Tensor, "query key"]] = {}
    hooks = [keep_pattern(patterns, layer) for layer in {*bands.shallow, *bands.deep}]
    logits = forced_logits(model, trace, group_of(edits), hooks)
    return logits, _mediators(patterns, trace, bands)


def _mediators(
    patterns: Mapping[int, Float[Tensor, "query key"]], trace: Trace, bands: Bands
) -> dict[str, float]:
    bridge = groups_of(trace) == KeyGroup.BRIDGE
    own_step = groups_of(trace, current="step") == KeyGroup.CURRENT
    written = rows_in(trace, Region.THINKING, Region.SUMMARY)
    summary = rows_in(trace, Region.SUMMARY)
    places = {
        "bridge_mass": (bands.shallow, bridge, written),
        "step_mass": (bands.shallow, own_step, written),
        "summary_mass": (bands.deep, bridge, summary),
    }
    return {
        name: float(np.mean([mass(patterns[layer], keys, rows) for layer in layers]))
        for name, (layers, keys, rows) in places.items()
    }


def forced(
    model: Any,
    items: Sequence[Item],
    edits: Mapping[str, Sequence[Edit]],
    settings: AnswerSettings,
) -> pd.DataFrame:
    """Mediators and outcomes of problems under edits, teacher-forced.

    Returns:
        One row per problem and condition: `MEDIATORS` and `OUTCOMES` (``margin`` is missing where
        the greedy answer is right), ``error_kind``.
    """
    errors = greedy_errors(model, items, settings)
    rows = [
        {"problem": item.id, "condition": name, **outcomes}
        for item, error in zip(items, errors, strict=True)
        for name, outcomes in _outcomes(model, item, error, edits)
    ]
    return pd.DataFrame(rows).astype({"error_kind": "string"})


def _outcomes(
    model: Any, item: Item, error: FirstError | None, edits: Mapping[str, Sequence[Edit]]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """What one problem gives under each edit."""
    gold = gold_trace(model.tokenizer, item)
    for name, some in edits.items():
        logits, mediators = forced_pass(model, gold, some)
        losses = text_losses(losses_of(logits, gold), gold)
        at_error: dict[str, Any] = {"margin": float("nan"), "error_kind": None}
        if error is not None:
            logits = forced_logits(model, error.trace, group_of(some))
            at_error = {"margin": margin(logits, error), "error_kind": error.kind}
        yield name, {**mediators, **losses, **at_error}
