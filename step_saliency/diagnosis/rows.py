"""Lock-in and decay step by step: what a metric of a trace is the mean of.

With s_i the share of row i on what the metric looks at (local steps for lock-in, thinking for
decay) and u_i the share that a uniform row has there,

    lock-in of a row     s_i - u_i                 normalised    (s_i - u_i) / (1 - u_i)
    decay of a row       s_i                       normalised    (s_i - u_i) / (1 - u_i)

The normalised excess is 0 for a uniform row and 1 for one that looks nowhere else, however many
steps there are to see: it takes away how much room u_i leaves. It does not take away that attention
to near tokens falls more steeply on more and longer steps, so it still drifts with them
(`step_saliency.diagnosis.same_step`, `step_saliency.diagnosis.adjusted` compare without that).

The step index of a row is its place among the steps of its region, from 0. Rows that count in no
mean are NaN.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from step_saliency.diagnosis.shares import is_hidden, is_open, local_steps, steps_in
from step_saliency.trace import Region


@dataclass(frozen=True, eq=False)
class StepRows:
    """Rows of lock-in and decay of one trace; the last axis is the step index in the region.

    Attributes:
        lock_in: Excess share of each thinking row on local steps.
        decay: Share of each summary row on thinking steps.
        uniform_local: Share of a uniform thinking row on local steps.
        uniform_thinking: Share of a uniform summary row on thinking steps.
    """

    lock_in: Float[Tensor, "layer thinking_step"]
    decay: Float[Tensor, "layer summary_step"]
    uniform_local: Float[Tensor, "#layer thinking_step"]
    uniform_thinking: Float[Tensor, "#layer summary_step"]

    @property
    def lock_in_normalised(self) -> Float[Tensor, "layer thinking_step"]:
        return self.lock_in / _room(self.uniform_local)

    @property
    def decay_normalised(self) -> Float[Tensor, "layer summary_step"]:
        return (self.decay - self.uniform_thinking) / _room(self.uniform_thinking)

    def by_metric(self) -> dict[str, Float[Tensor, "layer step"]]:
        return {
            "lock_in": self.lock_in,
            "decay": self.decay,
            "lock_in_normalised": self.lock_in_normalised,
            "decay_normalised": self.decay_normalised,
        }


def step_rows(
    shares: Float[Tensor, "layer step step"],
    uniform: Float[Tensor, "*layer step step"],
    regions: Sequence[Region],
) -> StepRows:
    """Rows of lock-in and decay (module docstring).

    Args:
        shares: Row shares of the maps.
        uniform: Row shares of the uniform map, of all layers or of each.
        regions: Region of each step.
    """
    uniform = uniform if uniform.ndim == 3 else uniform[None]
    local, thinking = local_steps(regions), steps_in(regions, Region.THINKING)
    summary = steps_in(regions, Region.SUMMARY)
    uniform_local = (uniform * local).sum(-1)[:, thinking]
    on_local = (shares * local).sum(-1)[:, thinking]
    on_thinking = shares[..., thinking].sum(-1)[:, summary]
    has_thinking = thinking.any() & ~is_hidden(uniform, regions)[:, summary]
    return StepRows(
        lock_in=(on_local - uniform_local).where(is_open(uniform_local), torch.nan),
        decay=on_thinking.where(has_thinking, torch.nan),
        uniform_local=uniform_local,
        uniform_thinking=uniform[..., thinking].sum(-1)[:, summary],
    )


def _room(uniform: Float[Tensor, "#layer step"]) -> Float[Tensor, "#layer step"]:
    return (1 - uniform).where(is_open(uniform), torch.nan)
