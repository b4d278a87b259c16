"""The step map of a trace by the loss, by log-odds, or by attention alone, in one pooling."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, get_args

import torch

import step_saliency as ss
from analyses.instruments.maps import pooled_maps
from step_saliency.options import ObjectiveLiteral, Pool, Rows, check_option
from step_saliency.saliency.pooling import normalise
from step_saliency.saliency.result import StepSaliency
from step_saliency.trace import Trace

Reading = Literal["loss", "log-odds", "attention"]
READINGS: tuple[Reading, ...] = get_args(Reading)
_OBJECTIVES: Mapping[Reading, ObjectiveLiteral] = {"loss": "next_token", "log-odds": "log_odds"}


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
    check_option("reading", reading, READINGS)
    objective = _OBJECTIVES.get(reading, "next_token")
    saliency = ss.step_saliency(model, trace, objective=objective, pool=pool, rows=rows)
    if reading != "attention":
        return saliency
    totals = pooled_maps(
        model, trace, saliency.layout, quantity="attention", objective="next_token"
    )
    maps = normalise(totals.mean(1), saliency.layout, pool, windows=saliency.windows)
    assert torch.isfinite(maps).all()
    return replace(saliency, maps=maps.to(saliency.maps), objective="attention")
