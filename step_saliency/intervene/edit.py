"""One small interface for interventions: where an edit acts, and what it makes of the activation.

An edit is a pure function of an activation and of what is known about it (`EditContext`). A variant
is a subclass with a site and an ``apply``:

    @dataclass(frozen=True)
    class LouderHeads(Edit):
        site = "z"
        layers: Sequence[int]
        factor: float = 2.0

        def apply(self, activation, context):
            return self.factor * activation

    with LouderHeads([3]).attached(model): ...

The sites are hook points of TransformerLens (`sites`). ``attached`` reads the steps from the tokens
that the model embeds and works with caches, batches and padding. By hand, ``edit.bound_to(trace)``
is another object, whose ``hook`` is for full passes over that trace (`bound`).

An edit never changes; `dataclasses.replace` makes another one. Edits are equal only to themselves:
two of a kind in a group are two edits, whatever their numbers.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence, Set
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NoReturn, get_args

from torch import Tensor

from step_saliency.intervene.bound import BoundEdit, BoundGroup, labels_for
from step_saliency.intervene.choices import PaddingSide
from step_saliency.intervene.context import EditContext
from step_saliency.intervene.labels import StepLabels
from step_saliency.intervene.session import Session
from step_saliency.intervene.sites import Site
from step_saliency.options import FormatName, SplitterLike
from step_saliency.trace import Trace


class Edit(ABC):
    """An intervention at one site of some layers.

    Attributes:
        layers: Layers in which it acts.
        site: Where ``apply`` works.
        needs_values: Whether it reads ``context.values``.
        needs_resid: Whether it reads ``context.resid``.
        needs_resid_pre: Whether it reads ``context.resid_pre``.
    """

    layers: Sequence[int]
    site: Site
    needs_values: bool = False
    needs_resid: bool = False
    needs_resid_pre: bool = False

    @property
    def name(self) -> str:
        """Name in tables."""
        return type(self).__name__

    @abstractmethod
    def apply(self, activation: Tensor, context: EditContext) -> Tensor:
        """The edited activation: a new tensor, or ``activation`` itself where nothing changes.

        Args:
            activation: As the hook point of ``site`` shows it: ``scores`` [batch, head, query,
                key], hidden keys -inf or the lowest number; ``z`` [batch, pos, head, d_head];
                ``resid_post`` [batch, pos, d_model]. While decoding with a cache queries and
                positions are the new ones alone.
            context: What else is known, see `EditContext`.

        What it raises ends the pass, and the model is left as it was.
        """

    def may_act(self, regions: Set[int], starting: Set[int]) -> bool:  # noqa: ARG002
        """Whether it can change anything in a pass; saying no where it cannot saves time.

        Args:
            regions: `REGION_CODE` of the regions of the pass's positions.
            starting: The same for the positions that begin a step.
        """
        return True

    def foresee(self, labels: StepLabels, n_queries: int) -> None:  # noqa: B027 - most need not
        """Hear what a pass in which it may act will bring, before the pass.

        What is asked of a device here does not hold up the layers.

        Args:
            labels: What every position so far is.
            n_queries: The positions of the pass are the last ones, this many.
        """

    def check(self, *, n_layers: int, n_heads: int) -> None:  # noqa: ARG002
        """Refuse a model that lacks a layer (or, in subclasses, a head) of this edit.

        Raises:
            ValueError: naming what is not there.
        """
        if self.site not in get_args(Site):
            raise ValueError(f"site={self.site!r} is unknown; choose one of {get_args(Site)}")
        outside = [layer for layer in self.layers if not 0 <= layer < n_layers]
        if outside:
            raise ValueError(
                f"{self.name}: layers {outside} are not among the model's {n_layers} layers"
            )

    def attached(
        self,
        model: Any,
        *,
        trace: Trace | None = None,
        traces: Sequence[Trace] | None = None,
        n_prompt: int | Sequence[int] | None = None,
        format: FormatName | None = None,  # noqa: A002
        splitter: SplitterLike | None = None,
    ) -> AbstractContextManager[Any]:
        """Context in which the model runs with this edit; yields the `Session`.

        Args:
            model: HookedTransformer or TransformerBridge.
            trace: The trace that every row is run over, where its steps are known.
            traces: The same for a batch, one trace a row.
            n_prompt: Tokens of the prompt, without padding, of every row or of each, where they
                cannot be told from the chat template, or where a prompt that begins with a system
                message is read in several passes.
            format: Format of the responses, see `Trace.from_text`; by default ``"auto"``, and that
                of the call inside of `generate`.
            splitter: How responses are cut, causal; by default ``"sentence"``, and that of the call
                inside of `generate`.

        Raises:
            ValueError: the model lacks a layer, head or hook point, or ignores edits there; an
                unknown format or splitter, or one beside traces, whose steps are known.
        """
        return Session(
            model,
            (self,),
            trace=trace,
            traces=traces,
            n_prompt=n_prompt,
            format=format,
            splitter=splitter,
        )

    def bound_to(
        self,
        trace: Trace | Sequence[Trace],
        *,
        padding_side: PaddingSide = "left",
        model: Any = None,
    ) -> BoundEdit:
        """This edit with the steps of a trace: its ``hook`` is for full passes by hand.

        Args:
            trace: The trace of every row, or one trace a row.
            padding_side: Where shorter rows are padded.
            model: The model, for what depends on its depth, weights or sinks.
        """
        return BoundEdit(self, labels_for(trace, padding_side), model)

    def at(self, point: str) -> "Edit":  # noqa: ARG002
        """The edit as it acts by hand at a hook point: itself, unless it has another form there.

        Args:
            point: scores, z or resid_post.
        """
        return self

    def hooks(self, model: Any) -> NoReturn:  # noqa: ARG002
        """Refuses: only a bound edit has hooks, see `bound_to`."""
        raise _unbound(self.name, "hooks")

    def hook(self, activation: Tensor, hook: Any) -> NoReturn:  # noqa: ARG002
        """Refuses: only a bound edit has a hook, see `bound_to`."""
        raise _unbound(self.name, "hook")


@dataclass(frozen=True, eq=False)
class EditGroup:
    """Several edits attached together.

    At the same site and layer they act in the order given, each on the result of the one before;
    momentum that is made of the residual stream reads it as it was before any of them.

    Attributes:
        edits: The edits; groups among them, such as a `StepFlow`, stand for theirs.

    Raises:
        ValueError: there are no edits, or something else is among them.
    """

    edits: Sequence[Any]

    def __post_init__(self) -> None:
        listed = list(self.edits) if isinstance(self.edits, Iterable) else [self.edits]
        wrong = [edit for edit in listed if not isinstance(edit, Edit | EditGroup)]
        if wrong:
            raise ValueError(f"edits: {wrong[0]!r:.80} is neither an edit nor a group of edits")
        edits = [e for one in listed for e in (one.edits if isinstance(one, EditGroup) else [one])]
        if not edits:
            raise ValueError("edits=[] is empty; a group needs at least one edit")
        object.__setattr__(self, "edits", tuple(edits))

    def attached(
        self,
        model: Any,
        *,
        trace: Trace | None = None,
        traces: Sequence[Trace] | None = None,
        n_prompt: int | Sequence[int] | None = None,
        format: FormatName | None = None,  # noqa: A002
        splitter: SplitterLike | None = None,
    ) -> AbstractContextManager[Any]:
        """As `Edit.attached`, with all edits of the group."""
        return Session(
            model,
            self.edits,
            trace=trace,
            traces=traces,
            n_prompt=n_prompt,
            format=format,
            splitter=splitter,
        )

    def bound_to(
        self,
        trace: Trace | Sequence[Trace],
        *,
        padding_side: PaddingSide = "left",
        model: Any = None,
    ) -> BoundGroup:
        """As `Edit.bound_to`, for all edits of the group."""
        labels = labels_for(trace, padding_side)
        return BoundGroup(tuple(BoundEdit(edit, labels, model) for edit in self.edits))

    def hooks(self, model: Any) -> NoReturn:  # noqa: ARG002
        """Refuses: only a bound group has hooks, see `bound_to`."""
        raise _unbound(type(self).__name__, "hooks")


def _unbound(name: str, what: str) -> ValueError:
    return ValueError(
        f"{name}.{what} does not know the steps of the tokens: take it from "
        f"edit.bound_to(trace), or run the model inside edit.attached(model)"
    )
