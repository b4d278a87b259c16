"""From token influence to step influence.

Question: how strongly does step i, as a whole, depend on step j? Given I[t, k] >= 0, the influence
of key position k on the prediction made at query position t, four readings of "as a whole":

    mean        sum of I over the pairs (t in i, k in j, t sees k) / their number
    mass        sum over the keys k in j, mean over the queries t in i
    block_mean  sum / (|i| * |j|): counts the pairs that causality and windows forbid, so the
                self-intensity i = j falls as steps get shorter (what the authors' scripts compute)
    sum         the plain total

Query t sees the keys up to itself, in a layer with a sliding window the last `window` of them
(`step_saliency.models.windows`): keys outside are no pairs.

``rows="query"`` files row t under the step that position t is in, ``rows="target"`` under the step
of token t + 1, the one that is predicted there. Row t stands for the prediction of token t + 1 in
both readings. A row that predicts nothing (the last position, for every objective that scores the
next token of the trace) is empty and counts in no mean. A pair of steps without a single (t, k)
pair has no mean: its entry is 0 and `pair_counts` says 0.

When it misleads: `mean` favours short key steps, `mass` long ones; compare maps of one pooling
only.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from step_saliency.models.windows import Windows
from step_saliency.options import POOLS, ROWS, Pool, Rows, check_option


@dataclass(frozen=True)
class StepLayout:
    """Where each row and each column of a token map belongs.

    Attributes:
        row_steps: Step that query position t is filed under; -1 for a row that counts nowhere.
        key_steps: Step of key position k; -1 for padding.
        n_steps: Number of steps.
    """

    row_steps: Int[Tensor, "pos"]
    key_steps: Int[Tensor, "pos"]
    n_steps: int

    @property
    def counts(self) -> Int[Tensor, "step"]:
        """Rows filed under each step."""
        filed = self.row_steps[self.row_steps >= 0]
        return torch.bincount(filed, minlength=self.n_steps)

    @property
    def key_lengths(self) -> Int[Tensor, "step"]:
        """Key positions in each step."""
        filed = self.key_steps[self.key_steps >= 0]
        return torch.bincount(filed, minlength=self.n_steps)

    @property
    def pair_counts(self) -> Int[Tensor, "step step"]:
        """Pairs (t, k) with k <= t in each pair of steps."""
        return self.pairs_within(None)

    def pairs_within(self, window: int | None) -> Int[Tensor, "step step"]:
        """Pairs (t, k) in which t sees k, in each pair of steps; never forms a pos x pos tensor.

        Args:
            window: Keys that a query sees, itself included; None for all up to itself.
        """
        pairs = _pairs_up_to(self.row_steps, self.key_steps, self.n_steps)
        if window is None or window >= len(self.row_steps):
            return pairs
        later = torch.full_like(self.row_steps, -1)
        later[:-window] = self.row_steps[window:]
        return pairs - _pairs_up_to(later, self.key_steps, self.n_steps)


def _pairs_up_to(
    row_steps: Int[Tensor, "pos"], key_steps: Int[Tensor, "pos"], n_steps: int
) -> Int[Tensor, "step step"]:
    """Pairs (t, k) with k <= t, counted by runs of positions whose row and key steps are one."""
    both = torch.stack([row_steps, key_steps])
    changes = (both[:, 1:] != both[:, :-1]).any(0).nonzero().flatten() + 1
    starts = torch.cat([changes.new_zeros(1), changes])
    sizes = torch.diff(starts, append=starts.new_tensor([len(row_steps)]))
    rows, keys = row_steps[starts], key_steps[starts]
    filed, held = rows >= 0, keys >= 0
    in_key_step = sizes.new_zeros(len(starts), n_steps)
    in_key_step[held, keys[held]] = sizes[held]
    pairs = (in_key_step.cumsum(0) - in_key_step) * sizes.unsqueeze(-1)
    pairs[held, keys[held]] += (sizes * (sizes + 1) // 2)[held]
    return sizes.new_zeros(n_steps, n_steps).index_add_(0, rows[filed], pairs[filed])


def step_layout(
    step_ids: Int[Tensor, "pos"], *, rows: Rows = "query", last_row: bool = False
) -> StepLayout:
    """File the rows and columns of a token map under steps.

    Args:
        step_ids: Step of each position, shape ``pos``, non-decreasing from 0.
        rows: Whether row t belongs to the step of position t or of the token predicted there.
        last_row: Whether the last position counts (only for objectives that read its prediction).

    Raises:
        ValueError: ``rows`` is unknown, or ``last_row`` with ``rows="target"``, where the last row
            has no target.
    """
    check_option("rows", rows, ROWS)
    if last_row and rows == "target":
        raise ValueError(
            "rows='target' files a row under the token predicted there, which the last position "
            "does not have; use rows='query' with an objective that reads the last prediction"
        )
    row_steps = step_ids.clone() if rows == "query" else step_ids.roll(-1)
    if not last_row:
        row_steps[-1] = -1
    return StepLayout(row_steps, step_ids, int(step_ids.max()) + 1)


def sum_tokens(
    influence: Float[Tensor, "*lead pos pos"], layout: StepLayout
) -> Float[Tensor, "*lead step step"]:
    """Total influence in each pair of steps, from a whole token map, in float32 at least."""
    by_key = sum_keys(influence, layout)
    totals = by_key.new_zeros(*by_key.shape[:-2], layout.n_steps, layout.n_steps)
    filed = (layout.row_steps >= 0).to(influence.device)
    row_steps = layout.row_steps.to(influence.device)[filed]
    return totals.index_add_(-2, row_steps, by_key[..., filed, :])


def sum_keys(
    influence: Float[Tensor, "*lead query key"], layout: StepLayout
) -> Float[Tensor, "*lead query step"]:
    """Influence of each key step on each query position, in float32 at least."""
    influence = influence.to(torch.promote_types(influence.dtype, torch.float32))
    filed = layout.key_steps >= 0
    key_steps = layout.key_steps[filed].to(influence.device)
    totals = influence.new_zeros(*influence.shape[:-1], layout.n_steps)
    return totals.index_add_(-1, key_steps, influence[..., filed.to(influence.device)])


def normalise(
    totals: Float[Tensor, "*lead step step"],
    layout: StepLayout,
    pool: Pool,
    *,
    windows: Windows | None = None,
) -> Float[Tensor, "*lead step step"]:
    """Turn totals per pair of steps into the chosen reading (module docstring).

    Args:
        totals: Influence summed over each pair of steps; with ``windows``, the first axis is the
            layer.
        layout: Where rows and columns belong.
        pool: The reading.
        windows: Sliding window of each layer; without it, layers see all keys.

    Raises:
        ValueError: ``pool`` is unknown, or there is not one window for each layer.
    """
    check_option("pool", pool, POOLS)
    below = _denominator(layout, pool, windows).clamp(min=1).to(totals)
    if below.ndim == 3:
        if len(below) != len(totals):
            raise ValueError(f"{len(below)} windows for the totals of {len(totals)} layers")
        below = below.view(len(below), *(1,) * (totals.ndim - 3), *below.shape[1:])
    return totals / below


def _denominator(
    layout: StepLayout, pool: Pool, windows: Windows | None
) -> Int[Tensor, "*layer #step #step"]:
    if pool == "mean":
        return pair_counts(layout, windows)
    if pool == "mass":
        return layout.counts.unsqueeze(-1)
    if pool == "block_mean":
        return layout.counts.unsqueeze(-1) * layout.key_lengths
    return torch.ones(1, 1, dtype=torch.long)


def pair_counts(layout: StepLayout, windows: Windows | None) -> Int[Tensor, "*layer step step"]:
    """Pairs (t, k) in which t sees k, in each pair of steps.

    Returns:
        ``layer step step``; ``step step`` where no window is shorter than the trace, so that all
        layers see the same.
    """
    shorter = [w if w and w < len(layout.row_steps) else None for w in windows or ()]
    if not any(shorter):
        return layout.pair_counts
    counts = {window: layout.pairs_within(window) for window in set(shorter)}
    return torch.stack([counts[window] for window in shorter])


def defined_pairs(
    layout: StepLayout, windows: Windows | None = None
) -> Bool[Tensor, "*layer step step"]:
    """Pairs of steps that hold at least one pair of positions, in each layer as `pair_counts`."""
    return pair_counts(layout, windows) > 0


def mean_over_layers(
    maps: Float[Tensor, "layer *head step step"], seen: Bool[Tensor, "layer step step"]
) -> Float[Tensor, "*head step step"]:
    """Mean of each pair of steps over the layers that see it, in double precision.

    Args:
        maps: Maps, zero where a layer sees no pair.
        seen: Pairs that each layer sees, as of `defined_pairs`.

    Returns:
        The means; zero where no layer sees the pair.
    """
    return maps.detach().double().sum(0) / seen.sum(0).clamp(min=1)
