"""What edits of single heads have in common."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from step_saliency.intervene.context import EditContext
from step_saliency.intervene.edit import Edit
from step_saliency.intervene.heads.names import HeadNames, parse_heads
from step_saliency.intervene.heads.queries import acts_in, check_queries, edited_queries
from step_saliency.intervene.places import over_all_heads


@dataclass(frozen=True, eq=False)
class HeadEdit(Edit):
    """An edit of single heads at the queries of some regions and steps.

    Attributes:
        heads: Pairs (layer, head) or names such as ``"L3H5"``; kept by layer.
        layers: Layers of the heads.
        regions: Regions of the queries; by default any.
        steps: Steps of the queries; by default any.

    Raises:
        ValueError: heads, regions or steps that cannot be.
    """

    heads: HeadNames
    layers: Sequence[int] = field(init=False, repr=False)
    _: KW_ONLY
    regions: Sequence[str] | None = None
    steps: Sequence[int] | None = None

    def __post_init__(self) -> None:
        check_queries(self.regions, self.steps)
        object.__setattr__(self, "heads", parse_heads(self.heads))
        object.__setattr__(self, "layers", tuple(self.by_layer))
        for name in ("regions", "steps"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else tuple(value))

    def __getstate__(self) -> dict[str, Any]:
        """Without the view of a mapping, which can be neither pickled nor copied deeply."""
        return {**self.__dict__, "heads": dict(self.by_layer)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({**state, "heads": parse_heads(state["heads"])})

    @property
    def by_layer(self) -> Mapping[int, tuple[int, ...]]:
        """Heads of each layer."""
        assert isinstance(self.heads, Mapping)
        return self.heads  # type: ignore[return-value]

    def may_act(self, regions: Set[int], starting: Set[int]) -> bool:  # noqa: ARG002
        return acts_in(self.regions, regions)

    def check(self, *, n_layers: int, n_heads: int) -> None:
        super().check(n_layers=n_layers, n_heads=n_heads)
        missing = [f"L{at}H{h}" for at, of in self.by_layer.items() for h in of if h >= n_heads]
        if missing:
            raise ValueError(f"{self.name}: the model has {n_heads} heads a layer, no {missing}")

    def queries(self, context: EditContext) -> Bool[Tensor, "batch query"] | None:
        """Which queries are edited; None where there is none."""
        return edited_queries(context.labels, context.n_queries, self.regions, self.steps)

    def replaced(
        self,
        z: Float[Tensor, "batch pos head d_head"],
        edited: Float[Tensor, "batch pos some_heads d_head"],
        queries: Bool[Tensor, "batch pos"],
        context: EditContext,
    ) -> Float[Tensor, "batch pos head d_head"]:
        """The edited heads' outputs at the edited queries put in place of their own."""
        heads = self.by_layer[context.layer]
        count = queries.sum().double().expand(len(heads))
        counts = over_all_heads(count, heads, z.shape[2])
        context.record(rows_seen=counts, rows_shifted=counts)
        index = torch.tensor(heads, device=z.device)
        before = z.index_select(2, index)
        return z.index_copy(2, index, torch.where(queries[..., None, None], edited, before))
