"""Step maps written by hand, for tests that need no model."""

from collections.abc import Sequence
from typing import Any

import torch

from step_saliency.options import Pool, Rows
from step_saliency.saliency.result import StepSaliency
from step_saliency.trace import Region, Step, Trace

LETTERS = {"_": Region.TEMPLATE, "Q": Region.QUESTION, "T": Region.THINKING, "S": Region.SUMMARY}


def make_trace(regions: str, lengths: Sequence[int] | None = None, **fields: Any) -> Trace:
    """A trace of steps of regions spelled by ``_QTS``, two tokens each unless said otherwise."""
    lengths = lengths or [2] * len(regions)
    stops = torch.tensor(lengths).cumsum(0).tolist()
    steps = tuple(
        Step(stop - length, stop, LETTERS[letter], f"{letter}{number}")
        for number, (letter, length, stop) in enumerate(zip(regions, lengths, stops, strict=True))
    )
    return Trace(tokens=torch.arange(stops[-1]), steps=steps, **fields)


def make_saliency(
    maps: torch.Tensor,
    trace: Trace,
    *,
    pool: Pool = "mean",
    rows: Rows = "query",
    layers: Sequence[int] | None = None,
    n_layers: int | None = None,
    last_row: bool = False,
    windows: Sequence[int | None] | None = None,
) -> StepSaliency:
    """Maps of all layers (or of those named) of a trace; full attention unless said otherwise."""
    layers = tuple(layers or range(len(maps)))
    return StepSaliency(
        maps=maps,
        trace=trace,
        layers=layers,
        n_layers=n_layers or len(maps),
        objective="next_token",
        method="hooks",
        pool=pool,
        rows=rows,
        last_row=last_row,
        windows=tuple(windows or [None] * len(layers)),
    )


def random_maps(trace: Trace, *lead: int, seed: int = 0) -> torch.Tensor:
    """Positive lower-triangular maps with entries over four orders of magnitude."""
    generator = torch.Generator().manual_seed(seed)
    shape = (*lead, len(trace.steps), len(trace.steps))
    return (10 ** (-4 * torch.rand(shape, generator=generator))).tril()
