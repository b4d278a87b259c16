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

import math
from collections.abc import Sequence, Set
from dataclasses import KW_ONLY, dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from step_saliency.intervene.choices import BASES, Basis
from step_saliency.intervene.context import EditContext
from step_saliency.intervene.edit import Edit
from step_saliency.intervene.heads.queries import acts_in, check_queries, queries_in
from step_saliency.intervene.labels import REGION_CODE, StepLabels
from step_saliency.intervene.once import once_per_labels
from step_saliency.intervene.places import (
    Heads,
    check_heads,
    checked_heads,
    checked_layers,
    heads_in,
    over_all_heads,
)
from step_saliency.intervene.schedule import Strength, check_strength, strength_at
from step_saliency.options import check_option, is_whole
from step_saliency.segment.regions import Region

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


def basis_tokens(labels: StepLabels, row: int, step: int, basis: Basis) -> Bool[Tensor, "key"]:
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


@once_per_labels
def _edited_steps(
    labels: StepLabels,
    n_queries: int,
    basis: Basis,
    regions: Sequence[str] | None,
    steps: Sequence[int] | None,
) -> list[tuple[int, Int[Tensor, "query"], Int[Tensor, "key"]]]:
    """Row, queries and basis tokens of each step that is edited."""
    queries = queries_in(labels, n_queries, regions=regions, steps=steps)
    step_of = torch.where(queries, labels.step[:, len(labels) - n_queries :], -1)
    groups = []
    for row, of_row in enumerate(step_of):
        for step in of_row[of_row >= 0].unique().tolist():
            keys = basis_tokens(labels, row, step, basis).nonzero()[:, 0]
            if len(keys):
                groups.append((row, (of_row == step).nonzero()[:, 0], keys))
    return groups


@dataclass(frozen=True, eq=False)
class ValueProjection(Edit):
    """Remove or amplify what head outputs have in the subspace of another part's values.

    Example:
        >>> edit = ValueProjection(layers=[5, 6], basis="previous", rank=4, strength=-1)
        >>> with edit.attached(model):
        ...     text = model.generate(prompt)

    Attributes:
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

    layers: Sequence[int]
    _: KW_ONLY
    basis: Basis = "previous"
    rank: int | None = 4
    strength: Strength = -1.0
    heads: Heads = None
    regions: Sequence[str] | None = ("thinking", "summary")
    steps: Sequence[int] | None = None

    def __post_init__(self) -> None:
        check_option("basis", self.basis, BASES)
        check_queries(self.regions, self.steps)
        if self.rank is not None and not is_whole(self.rank, least=1):
            raise ValueError(
                f"rank={self.rank!r} is no whole number above 0; None takes the whole span"
            )
        object.__setattr__(self, "layers", checked_layers(self.layers))
        object.__setattr__(self, "heads", checked_heads(self.heads))
        check_strength("strength", self.strength, least=-math.inf, layers=self.layers)
        for name in ("regions", "steps"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else tuple(value))

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
        n_heads = activation.shape[2]
        n_edited = float(sum(len(queries) for _, queries, _ in groups))
        count = torch.full((n_heads if heads is None else len(heads),), n_edited)
        counts = over_all_heads(count, heads, n_heads)
        context.record(rows_seen=counts, rows_shifted=counts)
        if heads is None:
            return edited
        index = torch.tensor(heads, device=activation.device)
        return activation.index_copy(2, index, edited.index_select(2, index))

    def _groups(
        self, context: EditContext
    ) -> list[tuple[int, Int[Tensor, "query"], Int[Tensor, "key"]]]:
        labels, n_queries = context.labels, context.n_queries
        return _edited_steps(labels, n_queries, self.basis, self.regions, self.steps)
