"""Where is momentum injected, and of which tokens is it the mean?

Momentum goes to the first token of a thinking or summary step, from the last step before that is no
template. As a placebo (``boundaries="random"``) the injection at the first token s moves to the
first token from s + d on that is in thinking or summary and begins no step, with d drawn evenly
from 1 to the length of the step before. How long a step will be is not known when it begins, so
that an injection can land in a later step; it is lost only if the sequence ends before.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from step_saliency.intervene.choices import Boundaries
from step_saliency.intervene.groups import written
from step_saliency.intervene.hashing import hashed
from step_saliency.intervene.labels import WRITTEN, StepLabels, own_positions
from step_saliency.intervene.once import once_per_labels


@dataclass(frozen=True, eq=False)
class Injections:
    """Where momentum is injected, one entry each.

    Attributes:
        row: Row of the batch.
        start: Position of the first token of the step that the injection belongs to, in the
            padded sequence.
        target: Position where the vector is added.
        source: Step whose momentum it is: the last before that is no template.
    """

    row: Int[Tensor, "injection"]
    start: Int[Tensor, "injection"]
    target: Int[Tensor, "injection"]
    source: Int[Tensor, "injection"]


def injections(
    labels: StepLabels, n_queries: int, *, boundaries: Boundaries = "step", seed: int = 0
) -> Injections:
    """Injections into the last positions.

    Args:
        labels: What every position so far is.
        n_queries: The positions are the last ones, this many.
        boundaries: ``"step"``, first tokens of thinking and summary steps; or the placebo
            ``"random"``, of which the module docstring tells.
        seed: Seed of the draws.
    """
    if boundaries == "step":
        return _at_starts(labels, n_queries)
    acts = written(labels)
    starts = labels.starts & acts & (labels.previous >= 0)
    row, start = starts.nonzero().unbind(-1)
    source = labels.previous[row, start]
    target = _moved(labels, acts & ~labels.starts, row, start, source, seed)
    here = (target >= len(labels) - n_queries) & (target < len(labels))
    return Injections(row[here], start[here], target[here], source[here])


def _at_starts(labels: StepLabels, n_queries: int) -> Injections:
    """Injections at first tokens of steps: only the last positions are looked at."""
    if n_queries == 1 and len(labels) > 1:
        return _at_newest(labels)
    n_past = len(labels) - n_queries
    newest = labels.each(lambda label: label[:, n_past:])
    earlier = labels.step[:, :n_past]
    highest = earlier.amax(-1, keepdim=True) if n_past else earlier.new_full((len(earlier), 1), -1)
    before = torch.cat([highest, newest.step], -1).cummax(-1).values[:, :-1]
    starts = (newest.step > before) & written(newest) & (newest.previous >= 0)
    row, query = starts.nonzero().unbind(-1)
    return Injections(row, n_past + query, n_past + query, newest.previous[row, query])


def _at_newest(labels: StepLabels) -> Injections:
    """The same for a single position, of which lists are read sooner than tensors are made."""
    last = [label[:, -1] for label in labels.tensors]
    read = torch.stack([*last, labels.step[:, :-1].amax(-1)]).tolist()
    starts = [
        (row, previous)
        for row, (step, region, previous, before) in enumerate(zip(*read, strict=True))
        if step > before and region in WRITTEN and previous >= 0
    ]
    device, newest = labels.step.device, len(labels) - 1
    found = torch.tensor([(row, newest, source) for row, source in starts], device=device)
    row, target, source = found.view(-1, 3).long().unbind(-1)
    return Injections(row, target, target, source)


def _moved(
    labels: StepLabels,
    allowed: Bool[Tensor, "batch key"],
    row: Int[Tensor, "injection"],
    start: Int[Tensor, "injection"],
    source: Int[Tensor, "injection"],
    seed: int,
) -> Int[Tensor, "injection"]:
    n_keys = len(labels)
    length = (labels.step[row] == source[:, None]).sum(-1)
    delay = 1 + hashed(seed, labels.position[row, start]) % length
    places = torch.arange(n_keys, device=row.device)
    due = torch.where(allowed, places, n_keys).flip(-1).cummin(-1).values.flip(-1)
    none = due.new_full((len(due), 1), n_keys)
    return torch.cat([due, none], dim=1)[row, (start + delay).clamp(max=n_keys)]


@dataclass(frozen=True, eq=False)
class InjectionPlan:
    """Where a pass gets momentum, and from where.

    Attributes:
        step: Step of each position so far.
        row: Row of the batch.
        start: Position of the step's first token in the padded sequence.
        query: Index of the token among the positions of the pass.
        previous: Positions that momentum is the mean over, for each injection.
        rows: `row` as Python has it: no layer waits for the device to read it.
    """

    step: Int[Tensor, "batch key"]
    row: Int[Tensor, "injection"]
    start: Int[Tensor, "injection"]
    query: Int[Tensor, "injection"]
    previous: list[Int[Tensor, "..."]]
    rows: list[int]

    @property
    def position(self) -> Int[Tensor, "injection"]:
        """Position of the step's first token in its own sequence, for random draws."""
        return own_positions(self.step)[self.row, self.start]

    def __len__(self) -> int:
        return len(self.previous)


def plan_injections(
    labels: StepLabels,
    *,
    n_queries: int,
    window: int | None = None,
    boundaries: Boundaries = "step",
    seed: int = 0,
) -> InjectionPlan:
    """Which of the last ``n_queries`` positions get momentum, and of which keys.

    Args:
        labels: What every position so far is.
        n_queries: The positions of the pass are the last ones, this many.
        window: Take only so many last tokens of the previous step; None for all.
        boundaries: ``"step"``, or a placebo; see `injections`.
        seed: Seed of the draws.
    """
    return _plan(labels, n_queries, window, boundaries, seed)


@once_per_labels
def _plan(
    labels: StepLabels, n_queries: int, window: int | None, boundaries: Boundaries, seed: int
) -> InjectionPlan:
    places = injections(labels, n_queries, boundaries=boundaries, seed=seed)
    from_source = (labels.step[places.row] == places.source[:, None]).cpu()
    found = [keys.nonzero().flatten() for keys in from_source]
    counts = [len(keys) for keys in found]
    previous = torch.cat(found).to(labels.step.device).split(counts) if found else []
    return InjectionPlan(
        step=labels.step,
        row=places.row,
        start=places.start,
        query=places.target - (len(labels) - n_queries),
        previous=[keys if window is None else keys[-window:] for keys in previous],
        rows=places.row.tolist(),
    )


def step_momentum(
    source: Float[Tensor, "batch key ..."], plan: InjectionPlan
) -> Float[Tensor, "injection ..."]:
    """Mean of the source over the previous step's tokens, for each injection.

    Args:
        source: Values or residuals of all positions so far.
        plan: At least one injection.
    """
    rows = zip(plan.rows, plan.previous, strict=True)
    return torch.stack([_mean(source[row].index_select(0, keys)) for row, keys in rows])


def _mean(rows: Float[Tensor, "previous ..."]) -> Float[Tensor, "..."]:
    return rows.to(torch.promote_types(rows.dtype, torch.float32)).mean(0)
