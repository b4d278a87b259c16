"""Traces as one block of tokens: which are run together, and where each lies."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from step_saliency.saliency.kernels.step_attention.types import Spans, StepIndex
from step_saliency.saliency.pooling import StepLayout
from step_saliency.trace import Trace

BATCH_TOKENS = 4096
"""Traces are padded into one batch while it has no more positions than this."""


@dataclass(frozen=True, eq=False)
class PaddedBatch:
    """Traces as one block of tokens.

    Attributes:
        tokens: Token ids, 0 at padding.
        positions: Position of each token in its trace, -1 at padding; None if nothing is padded on
            the left, where transformers and TransformerLens count by themselves.
        spans: Where each trace lies.
        steps: Steps of rows and columns.
    """

    tokens: Int[Tensor, "batch pos"]
    positions: Int[Tensor, "batch pos"] | None
    spans: Spans
    steps: StepIndex

    @property
    def unpadded(self) -> bool:
        """Whether all positions are real."""
        return all(span == (0, self.tokens.shape[1]) for span in self.spans)


def pad_traces(
    traces: Sequence[Trace],
    layouts: Sequence[StepLayout],
    padding_side: Literal["left", "right"] = "right",
) -> PaddedBatch:
    """Pad traces to the longest."""
    longest = max(len(trace.tokens) for trace in traces)
    starts = [longest - len(t.tokens) if padding_side == "left" else 0 for t in traces]
    spans = tuple(
        (start, start + len(trace.tokens)) for start, trace in zip(starts, traces, strict=True)
    )

    def pad(columns: Sequence[Int[Tensor, "_"]], fill: int) -> Int[Tensor, "batch pos"]:
        padded = torch.full((len(columns), longest), fill, dtype=torch.long)
        for row, (start, stop), column in zip(padded, spans, columns, strict=True):
            row[start:stop] = column
        return padded

    return PaddedBatch(
        tokens=pad([trace.tokens for trace in traces], 0),
        positions=pad([torch.arange(len(t.tokens)) for t in traces], -1) if any(starts) else None,
        spans=spans,
        steps=StepIndex(
            pad([layout.row_steps for layout in layouts], -1),
            pad([layout.key_steps for layout in layouts], -1),
            max(layout.n_steps for layout in layouts),
        ),
    )


def padded_groups(lengths: Sequence[int], most: int | None = None) -> Iterator[slice]:
    """Neighbours whose padded batch has no more positions than that, or one trace alone.

    Args:
        lengths: Of the traces.
        most: `BATCH_TOKENS` by default.
    """
    start, limit = 0, BATCH_TOKENS if most is None else most
    for stop in range(1, len(lengths) + 1):
        following = max(lengths[start : stop + 1]) * (stop + 1 - start)
        if stop == len(lengths) or following > limit:
            yield slice(start, stop)
            start = stop
