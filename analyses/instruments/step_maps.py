"""The step map of a trace by the loss, by log-odds, or by attention alone, in one pooling."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

import step_saliency as ss
from analyses.instruments.maps import pooled_maps
from analyses.instruments.written_maps import ATTENTION, written_maps
from step_saliency.models.windows import Windows
from step_saliency.options import ObjectiveLiteral, Pool, Rows, check_option
from step_saliency.saliency.objectives import LogOdds, NextToken
from step_saliency.saliency.pooling import StepLayout, normalise
from step_saliency.saliency.result import StepSaliency
from step_saliency.trace import Trace

Reading = Literal["loss", "log-odds", "attention"]
READINGS: tuple[Reading, ...] = get_args(Reading)
WRITTEN_HELP = "map rows of thinking and summary alone: quicker where prompts are long"
_OBJECTIVES: Mapping[Reading, ObjectiveLiteral] = {"loss": "next_token", "log-odds": "log_odds"}
_LOCAL = {"next_token": NextToken(), "log_odds": LogOdds()}


def step_map(
    model: Any, trace: Trace, reading: Reading, *, pool: Pool = "mean", rows: Rows = "query"
) -> StepSaliency:
    """Step map of one reading, its heads averaged.

    Args:
        model: HookedTransformer or TransformerBridge.
        trace: The trace.
        reading: ``"loss"`` and ``"log-odds"`` are saliency under ``next_token`` and ``log_odds``,
            ``"attention"`` the pattern itself, pooled in the same way.
        pool: How tokens are pooled to steps.
        rows: Which predictions are a step's.

    Raises:
        ValueError: an unknown reading.
    """
    return step_maps(model, trace, [reading], pool=pool, rows=rows)[reading]


def step_maps(
    model: Any,
    trace: Trace,
    readings: Sequence[Reading] = READINGS,
    *,
    pool: Pool = "mean",
    rows: Rows = "query",
    written_only: bool = False,
) -> dict[Reading, StepSaliency]:
    """Step maps of several readings as of `step_map`; what they share is computed once.

    Args:
        model: HookedTransformer or TransformerBridge.
        trace: The trace.
        readings: As of `step_map`.
        pool: How tokens are pooled to steps.
        rows: Which predictions are a step's.
        written_only: Map the rows of thinking and summary alone, with the prompt read once, where
            the model can (`analyses.instruments.written_maps`); other rows are 0 then.
    """
    for reading in readings:
        check_option("reading", reading, READINGS)
    if written_only:
        names = {one: _OBJECTIVES.get(one, ATTENTION) for one in readings}
        local = {name: _LOCAL[name] for name in names.values() if name != ATTENTION}
        written = written_maps(model, trace, local, pool=pool, rows=rows)
        if written is not None:
            return {one: written[name] for one, name in names.items()}
    needed = {_OBJECTIVES.get(reading, "next_token") for reading in readings}
    by_objective = {
        objective: ss.step_saliency(model, trace, objective=objective, pool=pool, rows=rows)
        for objective in _OBJECTIVES.values()
        if objective in needed
    }
    maps = {
        reading: by_objective[_OBJECTIVES[reading]]
        for reading in readings
        if reading in _OBJECTIVES
    }
    if "attention" in readings:
        maps["attention"] = _attention(model, trace, by_objective["next_token"])
    return {reading: maps[reading] for reading in readings}


def attention_maps(
    model: Any, trace: Trace, layout: StepLayout, *, pool: Pool, windows: Windows | None = None
) -> Float[Tensor, "layer step step"]:
    """Step maps of the attention pattern, averaged over heads.

    Args:
        model: HookedTransformer or TransformerBridge.
        trace: The trace.
        layout: Which positions are whose.
        pool: How tokens are pooled to steps.
        windows: Sliding windows, outside of which keys are no pairs to a mean over pairs.
    """
    totals = pooled_maps(model, trace, layout, quantity="attention", objective="next_token")
    maps: Float[Tensor, "layer step step"] = normalise(
        totals.mean(1), layout, pool, windows=windows
    )
    assert torch.isfinite(maps).all()
    return maps


def _attention(model: Any, trace: Trace, like: StepSaliency) -> StepSaliency:
    """The map of the pattern alone, laid out and pooled like another."""
    maps = attention_maps(model, trace, like.layout, pool=like.pool, windows=like.windows)
    return replace(like, maps=maps.to(like.maps), objective="attention")
