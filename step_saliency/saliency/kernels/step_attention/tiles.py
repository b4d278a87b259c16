"""What happens to one tile of queries and keys: packed rows, hidden keys, sums into steps."""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor


class TilePooling:
    """Sums the influence of one sequence, tile by tile, into pairs of steps.

    A block of rows lies in few steps, so a narrow matrix of zeros and ones sums its rows first;
    keys are summed after that, when little is left of the tile.
    """

    def __init__(
        self,
        totals: Float[Tensor, "heads_out step step"],
        row_steps: Int[Tensor, "pos"],
        key_steps: Int[Tensor, "pos"],
        group: int,
    ) -> None:
        self.totals, self.row_steps, self.group = totals, row_steps, group
        self.n_steps = totals.shape[-1]
        # columns that count nowhere are summed into one more step, which is dropped
        self.key_steps = key_steps.where(key_steps >= 0, self.n_steps).to(totals.device)

    @property
    def per_head(self) -> bool:
        return len(self.totals) > 1

    def start_rows(self, first: int, last: int) -> None:
        """Turn to the rows of the query positions from `first` to before `last`."""
        row_steps = self.row_steps[first:last]
        steps = row_steps[row_steps >= 0].unique()
        of_step = (row_steps == steps.unsqueeze(-1)).to(self.totals)  # step pos
        heads = torch.eye(self.group) if self.per_head else torch.ones(1, self.group)
        # (head step) (pos head): row (head h, step s) sums the rows of head h that lie in step s
        self.selector = torch.einsum("st,hg->hstg", of_step.cpu(), heads.to(of_step).cpu())
        self.selector = self.selector.flatten(2).flatten(0, 1).to(self.totals.device)
        self.steps = steps.to(self.totals.device)
        self.sums = self.totals.new_zeros(len(self.selector), self.n_steps + 1)

    def add(self, influence: Float[Tensor, "row key"], low: int, high: int) -> None:
        key_steps = self.key_steps[low:high].expand(len(self.selector), -1)
        self.sums.scatter_add_(1, key_steps, self.selector @ influence)

    def finish_head(self, h: int) -> None:
        """File the sums of key-value head h and start anew."""
        heads_out = self.group if self.per_head else 1
        sums = self.sums[:, : self.n_steps].reshape(heads_out, len(self.steps), self.n_steps)
        first = h * heads_out if self.per_head else 0
        self.totals[first : first + heads_out].index_add_(1, self.steps, sums)
        self.sums.zero_()


def hide_keys(
    tile: Float[Tensor, "row key"],
    first: int,
    low: int,
    group: int,
    window: int | None,
    value: float = -torch.inf,
) -> None:
    """Overwrite, in place, what the queries from `first` on do not see of the keys from `low`
    on."""
    n_keys = tile.shape[1]
    n_queries = len(tile) // group
    by_query = tile.view(n_queries, group, n_keys)
    future = max(0, first + 1 - low)
    if future < n_keys:
        query = torch.arange(first, first + n_queries, device=tile.device).view(-1, 1, 1)
        key = torch.arange(low + future, low + n_keys, device=tile.device)
        by_query[..., future:].masked_fill_(key > query, value)
    if window is None:
        return
    past = min(n_keys, first + n_queries - window - low)
    if past > 0:
        query = torch.arange(first, first + n_queries, device=tile.device).view(-1, 1, 1)
        key = torch.arange(low, low + past, device=tile.device)
        by_query[..., :past].masked_fill_(key <= query - window, value)


def pack(
    x: Float[Tensor, "head pos d"], kv_head: int, dtype: torch.dtype
) -> Float[Tensor, "kv_head row d"]:
    """Heads of one group side by side, as rows of one matrix: row t * group + g."""
    grouped = x.unflatten(0, (kv_head, -1)).transpose(1, 2)
    return grouped.to(dtype, copy=True, memory_format=torch.contiguous_format).flatten(1, 2)


def blocks(start: int, stop: int, size: int) -> Iterator[tuple[int, int]]:
    """First and last-plus-one of each block."""
    for first in range(start, stop, size):
        yield first, min(first + size, stop)
