"""What an edit may look at besides the activation, and what is asked of an edit.

Whoever runs edits (`session` by hooks, `fast` inside transformers' attention, `bound` by hand) has
a `LayerView` of each layer and makes every `EditContext` by `context_for`: an edit gets what it
says that it needs, and nothing else is fetched.
"""

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from step_saliency.intervene.effects import distinct_names
from step_saliency.intervene.labels import StepLabels
from step_saliency.intervene.sites import Site

CountsOf: TypeAlias = Callable[..., Mapping[str, Tensor | float | int]]


def _ignore(**_counts: Tensor | float | int) -> None:
    """Counters outside of a session."""


def unknown_weights() -> Float[Tensor, "head d_head d_model"]:
    """Refuses: outside of a session, nothing is known of the model."""
    raise ValueError(
        "a hook by hand does not know the model's weights; bind it with "
        "edit.bound_to(trace, model=model), or use edit.attached(model)"
    )


@dataclass(frozen=True, eq=False)
class EditContext:
    """What an edit may look at, besides the activation.

    Attributes:
        layer: Layer of the activation.
        n_layers: Layers of the model; None in a hook that was bound without the model.
        labels: What all positions so far are, on the activation's device.
        n_queries: The activation's positions are the last ones, this many.
        values: Values of all positions so far, if ``edit.needs_values``.
        resid: ``hook_resid_post`` of all positions so far, before any edit, if
            ``edit.needs_resid``.
        resid_pre: What the block read at the activation's positions, where it is known.
        sinks: Learned sink of each head, in units of the scores; None without, and at other sites.
        w_o: Returns the output projection of the layer's heads.
        record: Adds to the counters of `Effects`.
        put_off: Keeps a count for later, where many passes are counted together; None where they
            are counted at once.
    """

    layer: int
    n_layers: int | None
    labels: StepLabels
    n_queries: int
    values: Float[Tensor, "batch key kv_head d_head"] | None = None
    resid: Float[Tensor, "batch key d_model"] | None = None
    resid_pre: Float[Tensor, "batch pos d_model"] | None = None
    sinks: Float[Tensor, "head"] | None = None
    w_o: Callable[[], Float[Tensor, "head d_head d_model"]] = unknown_weights
    record: Callable[..., None] = _ignore
    put_off: Callable[..., None] | None = None

    def count(self, counts_of: CountsOf, *tensors: Tensor) -> None:
        """Record what ``counts_of`` makes of tensors, maybe together with those of other passes.

        Args:
            counts_of: From tensors to counters by name; sums over their first axis.
            tensors: One row a thing counted.
        """
        if self.put_off is None:
            self.record(**counts_of(*tensors))
        else:
            self.put_off(counts_of, *tensors)

    def sink_scores(self, heads: Sequence[int] | None = None) -> Float[Tensor, "head 1"] | None:
        """Sinks of some heads (by default all) as scores that go with those of every query."""
        if self.sinks is None:
            return None
        return (self.sinks if heads is None else self.sinks[list(heads)])[:, None]


@runtime_checkable
class AnyEdit(Protocol):
    """What a session asks of an edit; `edit.Edit` is one to derive from, and says what it means."""

    @property
    def layers(self) -> Sequence[int]:
        """Layers in which it acts."""

    @property
    def site(self) -> Site:
        """Where it acts."""

    @property
    def needs_values(self) -> bool:
        """Whether it reads values."""

    @property
    def needs_resid(self) -> bool:
        """Whether it reads the residual of earlier positions."""

    @property
    def needs_resid_pre(self) -> bool:
        """Whether it reads what the block reads."""

    @property
    def name(self) -> str:
        """Name in tables."""

    def at(self, point: str) -> "AnyEdit":
        """The edit as it acts by hand at a hook point."""

    def apply(self, activation: Tensor, context: EditContext) -> Tensor:
        """The edited activation."""

    def may_act(self, regions: Set[int], starting: Set[int]) -> bool:
        """Whether it can change anything in a pass."""

    def foresee(self, labels: StepLabels, n_queries: int) -> None:
        """Hear what a pass in which it may act will bring."""

    def check(self, *, n_layers: int, n_heads: int) -> None:
        """Refuse a model."""


@dataclass(frozen=True, eq=False)
class NamedEdit:
    """One place in a list of edits.

    Two places are two things, even if the same edit stands at both; so it is places, not edits,
    that counters and decisions are kept by.

    Attributes:
        edit: The edit.
        name: Its name in the table of effects, unlike that of any other place.
    """

    edit: AnyEdit
    name: str


def named_edits(edits: Sequence[AnyEdit]) -> tuple[NamedEdit, ...]:
    """The edits, each with a name of its own."""
    names = distinct_names([edit.name for edit in edits])
    return tuple(map(NamedEdit, edits, names))


@runtime_checkable
class LayerView(Protocol):
    """What is known of one layer in the pass that is running."""

    @property
    def index(self) -> int:
        """The layer."""

    @property
    def n_layers(self) -> int | None:
        """Layers of the model."""

    def values(self, n_keys: int) -> Float[Tensor, "batch key kv_head d_head"]:
        """Values of the first positions, this many."""

    def resid(self, n_keys: int) -> Float[Tensor, "batch key d_model"] | None:
        """``hook_resid_post`` of the first positions before any edit."""

    def resid_pre(self) -> Float[Tensor, "batch pos d_model"] | None:
        """What the block read in this pass."""

    def sinks(self) -> Float[Tensor, "head"] | None:
        """Learned sinks of the heads."""

    def output_weights(self) -> Float[Tensor, "head d_head d_model"]:
        """Output projection of the heads."""


def context_for(
    edit: AnyEdit,
    view: LayerView,
    labels: StepLabels,
    n_queries: int,
    *,
    record: Callable[..., None] = _ignore,
    put_off: Callable[..., None] | None = None,
) -> EditContext:
    """What one edit gets to see of one layer.

    Args:
        edit: The edit.
        view: The layer in this pass.
        labels: What the positions are.
        n_queries: The activation's positions are the last ones, this many.
        record: As in `EditContext`.
        put_off: As in `EditContext`.
    """
    n_keys = len(labels)
    return EditContext(
        layer=view.index,
        n_layers=view.n_layers,
        labels=labels,
        n_queries=n_queries,
        values=view.values(n_keys) if edit.needs_values else None,
        resid=view.resid(n_keys) if edit.needs_resid else None,
        resid_pre=view.resid_pre() if edit.needs_resid_pre else None,
        sinks=view.sinks() if edit.site == "scores" else None,
        w_o=view.output_weights,
        record=record,
        put_off=put_off,
    )
