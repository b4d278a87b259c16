"""Edits of single heads and of some together, and what they do to margins and gold losses."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from analyses.instruments.forced import forced_logits, group_of
from analyses.instruments.losses import gold_losses
from analyses.instruments.margins import FirstError, greedy_errors, margin
from analyses.material.answers import AnswerSettings
from analyses.material.conditions import BASELINE
from analyses.material.problems import Item
from step_saliency.intervene import Edit, OddsEqualBridge
from step_saliency.intervene.heads import HeadRedirect, HeadScale
from step_saliency.intervene.values import ValueProjection

REDIRECTED = 0.3
WAYS = ("ablated", "oeb", "redirected", "projected")
HALVES = ("even", "odd")
OUTCOMES = ("margin", "loss")


def head_edit(way: str, layer: int, head: int, *, tau_max: float) -> Edit:
    """The edit of one head.

    Raises:
        ValueError: an unknown way.
    """
    if way == "ablated":
        return HeadScale([(layer, head)], 0.0)
    if way == "oeb":
        return OddsEqualBridge([layer], heads=[head], tau_max=tau_max)
    if way == "redirected":
        return HeadRedirect([(layer, head)], "question", mass=REDIRECTED, regions=["thinking"])
    if way == "projected":
        return ValueProjection([layer], heads=[head], basis="previous", rank=4)
    raise ValueError(f"way={way!r} is unknown; choose one of {WAYS}")


def bridge_on(heads: Sequence[tuple[int, int]], *, tau_max: float) -> OddsEqualBridge:
    """The bridge in these heads together."""
    by_layer: dict[int, list[int]] = {}
    for layer, head in sorted(heads):
        by_layer.setdefault(layer, []).append(head)
    return OddsEqualBridge(sorted(by_layer), heads=by_layer, tau_max=tau_max)


def errors_of(
    model: Any, items: Sequence[Item], settings: AnswerSettings
) -> list[tuple[Item, FirstError]]:
    """Problems whose greedy answer is wrong, with where it goes wrong."""
    places = greedy_errors(model, items, settings)
    return [(item, at) for item, at in zip(items, places, strict=True) if at is not None]


def steered(
    model: Any,
    items: Sequence[Item],
    errors: Sequence[tuple[Item, FirstError]],
    edits: Sequence[Edit],
) -> pd.DataFrame:
    """Margins of errors and gold losses of problems under edits: ``problem, half, outcome,
    value``."""
    flow = group_of(edits)
    rows = [
        {
            "problem": item.id,
            "half": half_of(item),
            "outcome": "margin",
            "value": margin(forced_logits(model, at.trace, flow), at),
        }
        for item, at in errors
    ]
    losses = gold_losses(model, items, flow)
    halves = [half_of(item) for item in items]
    losses = losses.assign(half=halves, outcome="loss", value=losses["loss"])
    return pd.concat([pd.DataFrame(rows), losses[["problem", "half", "outcome", "value"]]])


def half_of(item: Item) -> str:
    """The half of the problems that one is of."""
    return HALVES[item.number % 2]


def head_effects(
    model: Any,
    items: Sequence[Item],
    settings: AnswerSettings,
    *,
    tau_max: float,
    loss_share: float = 1.0,
    ways: Sequence[str] = WAYS,
) -> pd.DataFrame:
    """Outcomes of every head steered alone, and of no edit.

    Args:
        model: The model.
        items: Problems of the bundled task.
        settings: How the greedy answers are written, whose errors have margins.
        tau_max: Of the bridge.
        loss_share: Share of the problems of which gold losses are taken, at least one.
        ways: Of steering a head.

    Returns:
        One row per problem, way, layer, head and outcome: ``half, value``. Without an edit, ``way``
        is ``"baseline"`` and layer and head are missing.
    """
    errors = errors_of(model, items, settings)
    some = items[: max(1, round(len(items) * loss_share))]
    tables = [steered(model, some, errors, []).assign(way=BASELINE, layer=None, head=None)]
    for way in ways:
        for layer in range(model.cfg.n_layers):
            for head in range(model.cfg.n_heads):
                edit = head_edit(way, layer, head, tau_max=tau_max)
                frame = steered(model, some, errors, [edit])
                tables.append(frame.assign(way=way, layer=layer, head=head))
    joined = pd.concat(tables, ignore_index=True)
    return joined.astype({"layer": "Int64", "head": "Int64"})
