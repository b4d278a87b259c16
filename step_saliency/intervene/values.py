"""What if a head could not pass on, or passed on more of, what a part of the text put into it?

The values of a part of the text span a subspace of the head's output space. With V the values of
its tokens (rows) and U the first ``rank`` right singular vectors of V,

    z'_t = z_t + strength * U U' z_t        -1 removes, 0 changes nothing, 1 doubles

Each query has the basis of its own step: the values of the step before it (``"previous"``), of the
question, or of the thinking steps before it (``"thinking"``). All of these are complete when the
step begins, so that cached decoding and a full pass agree. Heads that share keys and values share
the basis. V is not centred: its first direction is about the mean value.

When it misleads: with as many tokens as the head has dimensions, the whole span is everything, and
removing it is ablating the head; compare with a random subspace of the same rank. Values of other
parts overlap with U, so that removing U takes part of what they say too.
"""

from collections.abc import Sequence, Set

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from step_saliency.intervene.edit import (
    Edit,
    EditContext,
    Heads,
    check_heads,
    checked_layers,
    heads_in,
)
from step_saliency.intervene.heads import acts_in, check_queries, chosen_queries
from step_saliency.intervene.labels import REGION_CODE, StepLabels
from step_saliency.intervene.schedule import Strength, strength_at
from step_saliency.options import check_option
from step_saliency.trace import Region

BASES = ("previous", "question", "thinking")
_NO_VARIANCE = 1e-12
"""Share of the largest squared singular value below which a direction is rounding."""


def principal_directions(
    values: Float[Tensor, "token kv_head d_head"], rank: int | None
) -> Float[Tensor, "kv_head d_head rank"]:
    """Right singular vectors of the values of each head, of the largest singular values.

    Args:
        values: Values of some tokens.
        rank: How many directions; None for the whole span.

    Returns:
        Orthonormal columns in float64, the largest singular value first; columns of zeros where
        the values span less.
    """
    exact = values.to(torch.float64)
    squared, vectors = torch.linalg.eigh(torch.einsum("tkd,tke->kde", exact, exact))
    squared, vectors = squared.flip(-1)[:, :rank], vectors.flip(-1)[..., :rank]
    spanned = squared > _NO_VARIANCE * squared[:, :1].clamp(min=torch.finfo(torch.float64).tiny)
    return vectors * spanned[:, None]


def projected(
    z: Float[Tensor, "pos head d_head"],
    directions: Float[Tensor, "kv_head d_head rank"],
    strength: float | int,
) -> Float[Tensor, "pos head d_head"]:
    """z + strength * U U' z, each head with the directions of its group."""
    exact = z.to(torch.promote_types(z.dtype, torch.float32))
    shared = directions.repeat_interleave(z.shape[1] // directions.shape[0], dim=0).to(exact)
    along = torch.einsum("thd,hdr->thr", exact, shared)
    return (exact + strength * torch.einsum("thr,hdr->thd", along, shared)).to(z.dtype)


def basis_tokens(labels: StepLabels, row: int, step: int, basis: str) -> Bool[Tensor, "key"]:
    """Tokens whose values are the basis of the queries of a step.

    Args:
        labels: What every position so far is.
        row: Row of the batch.
        step: Step of the queries.
        basis: ``"previous"``, ``"question"`` or ``"thinking"``.
    """
    steps = labels.step[row]
    if basis == "previous":
        previous = labels.previous[row][steps == step][:1]
        return (steps == previous) & (steps >= 0)
    region = labels.settled[row] == REGION_CODE[Region(basis)]
    return region & (steps >= 0) & (steps < step)


class ValueProjection(Edit):
    """Remove or amplify what head outputs have in the subspace of another part's values.

    Example:
        >>> edit = ValueProjection(layers=[5, 6], basis="previous", rank=4, strength=-1)
        >>> with edit.attached(model):
        ...     text = model.generate(prompt)

    Args:
        layers: Layers in which it acts.
        basis: Whose values: ``"previous"``, the last step before the query's own that is no
            template; ``"question"``; or ``"thinking"``, the thinking steps before it. Queries
            whose basis has no tokens are left alone.
        rank: Number of principal directions; None for the whole span.
        strength: -1 removes the component, 0 changes nothing, 1 doubles it: a number, a mapping
            by layer (0 elsewhere), or a function of depth (see `schedule`).
        heads: Heads in which it acts; or a mapping from layer to heads. Default: all.
        regions: Regions of the queries.
        steps: Steps of the queries; by default any.

    Raises:
        ValueError: an option out of range.
    """

    site = "z"
    needs_values = True

    def __init__(
        self,
        layers: Sequence[int],
        *,
        basis: str = "previous",
        rank: int | None = 4,
        strength: Strength = -1.0,
        heads: Heads = None,
        regions: Sequence[str] | None = ("thinking", "summary"),
        steps: Sequence[int] | None = None,
    ) -> None:
        check_option("basis", basis, BASES)
        check_queries(regions, steps)
        if rank is not None and rank < 1:
            raise ValueError(f"rank={rank} is below 1; None takes the whole span")
        self.layers = checked_layers(layers)
        self.basis = basis
        self.rank = rank
        self.strength = strength
        self.heads = heads
        self.regions = None if regions is None else tuple(regions)
        self.steps = None if steps is None else tuple(steps)

    def may_act(self, regions: Set[int], starting: Set[int]) -> bool:  # noqa: ARG002
        return acts_in(self.regions, regions)

    def check(self, *, n_layers: int, n_heads: int) -> None:
        super().check(n_layers=n_layers, n_heads=n_heads)
        check_heads(self.heads, self.layers, n_heads)

    def apply(
        self, activation: Float[Tensor, "batch pos head d_head"], context: EditContext
    ) -> Float[Tensor, "batch pos head d_head"]:
        """Head outputs with the component scaled."""
        strength = strength_at(self.strength, context.layer, context.n_layers)
        heads = heads_in(self.heads, context.layer)
        groups = [] if strength == 0 or heads == () else self._groups(context)
        if not groups:
            return activation
        assert context.values is not None
        edited = activation.clone()
        for row, queries, keys in groups:
            directions = principal_directions(context.values[row, keys], self.rank)
            edited[row, queries] = projected(activation[row, queries], directions, strength)
        count = torch.full((activation.shape[2],), float(sum(len(q) for _, q, _ in groups)))
        if heads is None:
            context.record(rows_seen=count, rows_shifted=count)
            return edited
        index = torch.tensor(heads, device=activation.device)
        count = torch.zeros_like(count).index_copy(0, index.cpu(), count[: len(heads)])
        context.record(rows_seen=count, rows_shifted=count)
        return activation.index_copy(2, index, edited.index_select(2, index))

    def _groups(
        self, context: EditContext
    ) -> list[tuple[int, Int[Tensor, "query"], Int[Tensor, "key"]]]:
        """Row, queries and basis tokens of each step that is edited; layers of a pass share it."""
        key = "value basis", context.n_queries, self.basis, self.regions, self.steps
        return context.labels.made(
            key, lambda: self._made_groups(context.labels, context.n_queries)
        )

    def _made_groups(
        self, labels: StepLabels, n_queries: int
    ) -> list[tuple[int, Int[Tensor, "query"], Int[Tensor, "key"]]]:
        chosen = chosen_queries(labels, n_queries, regions=self.regions, steps=self.steps)
        steps = torch.where(chosen, labels.step[:, len(labels) - n_queries :], -1)
        groups = []
        for row in range(len(steps)):
            for step in steps[row][steps[row] >= 0].unique().tolist():
                keys = basis_tokens(labels, row, step, self.basis).nonzero()[:, 0]
                if len(keys):
                    groups.append((row, (steps[row] == step).nonzero()[:, 0], keys))
        return groups
