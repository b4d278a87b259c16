"""One small interface for interventions: where an edit acts, and what it makes of the activation.

An edit is a pure function of an activation and of what is known about it (`EditContext`). A variant
is a subclass with a site and an ``apply``:

    class LouderHeads(Edit):
        site = "z"

        def __init__(self, layers, factor):
            self.layers, self.factor = tuple(layers), factor

        def apply(self, activation, context):
            return self.factor * activation

    with LouderHeads([3], 2.0).attached(model): ...

The sites are hook points of TransformerLens:

    scores       blocks.L.attn.hook_attn_scores   batch head query key; masked: -inf or lowest
    z            blocks.L.attn.hook_z             batch pos head d_head
    resid_post   blocks.L.hook_resid_post         batch pos d_model

``attached`` reads the steps from the tokens that the model embeds and works with caches, batches
and padding. By hand, ``edit.bound_to(trace)`` has the same edit with a ``hook`` for full passes
over that trace; such a hook sees neither weights nor sinks unless it is bound with ``model=``.
"""

import copy
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias, TypeVar, get_args

from jaxtyping import Float
from torch import Tensor

from step_saliency.intervene.labels import StepLabels
from step_saliency.models.facts import n_layers as layers_of
from step_saliency.models.facts import output_weights, sink_logits
from step_saliency.models.hooking import NamedHook, live_names
from step_saliency.trace import Trace

Site = Literal["scores", "z", "resid_post"]
Heads: TypeAlias = Sequence[int] | Mapping[int, Sequence[int]] | None
"""Heads of an edit: in every layer, by layer, or all."""
SITE_HOOKS: dict[str, str] = {
    "scores": "attn.hook_attn_scores",
    "z": "attn.hook_z",
    "resid_post": "hook_resid_post",
}
VALUE_HOOK = "attn.hook_v"
_POINTS = {
    "scores": re.compile(r"attn\.hook_attn_scores$"),
    "z": re.compile(r"attn\.(hook_z|o\.hook_in)$"),
    "v": re.compile(r"attn\.(hook_v|v\.hook_out)$"),
    "resid_post": re.compile(r"blocks\.\d+\.(hook_resid_post|hook_out)$"),
}

CountsOf: TypeAlias = Callable[..., Mapping[str, Tensor | float | int]]


def _ignore(**_counts: Tensor | float | int) -> None:
    """Counters outside of a session."""


def _no_weights() -> Float[Tensor, "head d_head d_model"]:
    raise ValueError(
        "a hook by hand does not know the model's weights; bind it with "
        "edit.bound_to(trace, model=model), or use edit.attached(model)"
    )


@dataclass(eq=False)
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
        sinks: Learned sink of each head, in units of the scores; None without.
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
    w_o: Callable[[], Float[Tensor, "head d_head d_model"]] = _no_weights
    record: Callable[..., None] = _ignore
    put_off: Callable[[CountsOf, tuple[Tensor, ...]], None] | None = None

    def count(self, counts_of: CountsOf, *tensors: Tensor) -> None:
        """Record what ``counts_of`` makes of tensors, maybe together with those of other passes.

        Args:
            counts_of: From tensors to counters by name; sums over their first axis.
            tensors: One row a thing counted.
        """
        if self.put_off is None:
            self.record(**counts_of(*tensors))
        else:
            self.put_off(counts_of, tensors)


@dataclass(eq=False)
class _Binding:
    """What a hook by hand knows."""

    labels: StepLabels
    model: Any
    values: dict[int, Float[Tensor, "batch key kv_head d_head"]]


_EditType = TypeVar("_EditType", bound="Edit")
_GroupType = TypeVar("_GroupType", bound="EditGroup")


class Edit(ABC):
    """An intervention at one site of some layers.

    Attributes:
        layers: Layers in which it acts.
        site: Where ``apply`` works.
        needs_values: Whether it reads ``context.values``.
        needs_resid: Whether it reads ``context.resid``.
        needs_resid_pre: Whether it reads ``context.resid_pre``.
    """

    layers: tuple[int, ...]
    site: Site
    needs_values: bool = False
    needs_resid: bool = False
    needs_resid_pre: bool = False
    _binding: ClassVar[_Binding | None] = None

    @property
    def name(self) -> str:
        """Name in tables."""
        return type(self).__name__

    @abstractmethod
    def apply(self, activation: Tensor, context: EditContext) -> Tensor:
        """The edited activation: a new tensor, or ``activation`` itself where nothing changes.

        Args:
            activation: As the hook point of ``site`` shows it.
            context: What else is known.
        """

    def may_act(self, regions: Set[int], starting: Set[int]) -> bool:  # noqa: ARG002
        """Whether it can change anything in a pass; saying no where it cannot saves time.

        Args:
            regions: `REGION_CODE` of the regions of the pass's positions.
            starting: The same for the positions that begin a step.
        """
        return True

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
    ) -> AbstractContextManager[Any]:
        """Context in which the model runs with this edit; yields the `Session`.

        Args:
            model: HookedTransformer or TransformerBridge.
            trace: The trace that every row is run over, where its steps are known.
            traces: The same for a batch, one trace a row.
            n_prompt: Tokens of the prompt, without padding, of every row or of each, where they
                cannot be told from the chat template.

        Raises:
            ValueError: the model lacks a layer, head or hook point, or ignores edits there.
        """
        return attached_edits((self,), model, trace=trace, traces=traces, n_prompt=n_prompt)

    def bound_to(
        self: _EditType,
        trace: Trace | Sequence[Trace],
        *,
        padding_side: Literal["left", "right"] = "left",
        model: Any = None,
    ) -> _EditType:
        """The same edit, whose ``hook`` knows the steps; for full passes by hand.

        Args:
            trace: The trace of every row, or one trace a row.
            padding_side: Where shorter rows are padded.
            model: The model, for what depends on its depth, weights or sinks.
        """
        rows = [trace] if isinstance(trace, Trace) else list(trace)
        twin = copy.copy(self)
        labels = StepLabels.from_traces(rows, padding_side=padding_side)
        twin._bind(_Binding(labels, model, {}))
        return twin

    def _bind(self, binding: _Binding) -> None:
        self.__dict__["_binding"] = binding

    def hooks(self, model: Any) -> list[NamedHook]:
        """Names and functions of a bound edit, for ``model.run_with_hooks(fwd_hooks=...)``.

        Raises:
            ValueError: the edit is not bound, or the model lacks what it needs.
        """
        binding = self._bound("hooks")
        self.check(n_layers=layers_of(model), n_heads=int(model.cfg.n_heads))
        twin = copy.copy(self)
        twin._bind(_Binding(binding.labels, model, {}))
        names = [f"blocks.{layer}.{point}" for layer in self.layers for point in self._points()]
        return [(name, twin.hook) for name in live_names(model, names)]

    def _points(self) -> list[str]:
        return [*([VALUE_HOOK] if self.needs_values else []), SITE_HOOKS[self.site]]

    def hook(self, activation: Tensor, hook: Any) -> Tensor | None:
        """Hook function for a full pass over the trace that the edit is bound to.

        Args:
            activation: Activation at the hook point.
            hook: The hook point, by whose name the site and the layer are known.

        Raises:
            ValueError: the edit is not bound; the hook point is not its site; the activation has
                other positions than the trace.
        """
        binding = self._bound("hook")
        point, layer = point_of(str(hook.name)), int(hook.layer())
        if point == "v":
            binding.values[layer] = activation
            return None
        if point != self.site:
            raise ValueError(
                f"{self.name} acts at {SITE_HOOKS[self.site]}, but was added at {hook.name}"
            )
        values = self._remembered(binding, layer) if self.needs_values else None
        return changed(activation, self.apply(activation, self._context(activation, layer, values)))

    def _bound(self, what: str) -> _Binding:
        if self._binding is None:
            raise ValueError(
                f"{self.name}.{what} does not know the steps of the tokens: take it from "
                f"edit.bound_to(trace), or run the model inside edit.attached(model)"
            )
        return self._binding

    def _remembered(
        self, binding: _Binding, layer: int
    ) -> Float[Tensor, "batch key kv_head d_head"]:
        if layer not in binding.values:
            raise ValueError(
                f"{self.name} has seen no values of layer {layer}: add the same hook at "
                f"blocks.{layer}.{VALUE_HOOK} too"
            )
        return binding.values.pop(layer)

    def _context(
        self,
        activation: Tensor,
        layer: int,
        values: Float[Tensor, "batch key kv_head d_head"] | None,
    ) -> EditContext:
        binding = self._bound("hook")
        n_pos = activation.shape[-2] if self.site == "scores" else activation.shape[1]
        n_keys = activation.shape[-1] if self.site == "scores" else n_pos
        labels = _rows_of(binding.labels.to(activation.device), activation.shape[0])
        if not n_pos == n_keys == len(labels):
            raise ValueError(
                f"{self.name} is bound to {len(labels)} positions, but the activation has {n_pos} "
                f"queries and {n_keys} keys; a hook by hand is for full passes over its trace"
            )
        model = binding.model
        return EditContext(
            layer=layer,
            n_layers=None if model is None else layers_of(model),
            labels=labels,
            n_queries=n_pos,
            values=values,
            resid=activation if self.site == "resid_post" and self.needs_resid else None,
            sinks=None if model is None else sink_logits(model, layer),
            w_o=_no_weights if model is None else lambda: output_weights(model, layer),
        )


def _rows_of(labels: StepLabels, n_rows: int) -> StepLabels:
    if labels.step.shape[0] == n_rows:
        return labels
    if labels.step.shape[0] != 1:
        raise ValueError(
            f"bound to {labels.step.shape[0]} traces, but the batch has {n_rows} rows; give one "
            "trace a row"
        )
    step, region, previous = (x.expand(n_rows, -1) for x in labels.tensors)
    return StepLabels(step, region, previous)


def point_of(hook_name: str) -> str | None:
    """Which of scores, z, v and resid_post a hook point is, also by a bridge's own name for it."""
    return next((point for point, name in _POINTS.items() if name.search(hook_name)), None)


def changed(activation: Tensor, edited: Tensor) -> Tensor | None:
    """What a hook function is to return: None where nothing changed."""
    return None if edited is activation else edited.to(activation.dtype)


def checked_layers(layers: Sequence[int]) -> tuple[int, ...]:
    """Layers as an edit keeps them.

    Raises:
        ValueError: there are none, or one is named twice or below 0.
    """
    chosen = tuple(int(layer) for layer in layers)
    if not chosen or len(set(chosen)) < len(chosen) or min(chosen) < 0:
        raise ValueError(f"layers={list(layers)} must name layers, each once, 0 or above")
    return chosen


def heads_in(heads: Heads, layer: int) -> tuple[int, ...] | None:
    """Heads of a layer; None for all of them."""
    if isinstance(heads, Mapping):
        return tuple(heads.get(layer, ()))
    return None if heads is None else tuple(heads)


def check_heads(heads: Heads, layers: Sequence[int], n_heads: int) -> None:
    """Refuse heads that a model lacks, that are named twice, or whose layer is not edited.

    Raises:
        ValueError: naming them.
    """
    idle = sorted(set(heads) - set(layers)) if isinstance(heads, Mapping) else []
    if idle:
        raise ValueError(f"heads are named in layers {idle}, but layers={list(layers)}")
    for layer in layers:
        chosen = heads_in(heads, layer) or ()
        if any(not 0 <= head < n_heads for head in chosen) or len(set(chosen)) < len(chosen):
            raise ValueError(
                f"heads {list(chosen)} of layer {layer} must be different heads out of the "
                f"model's {n_heads}"
            )


class EditGroup:
    """Several edits attached together.

    At the same site and layer they act in the order given, each on the result of the one before.

    Attributes:
        edits: The edits.

    Raises:
        ValueError: there are no edits.
    """

    def __init__(self, edits: Sequence[Edit]) -> None:
        if not edits:
            raise ValueError("edits=[] is empty; a group needs at least one edit")
        self.edits = tuple(edits)

    def attached(
        self,
        model: Any,
        *,
        trace: Trace | None = None,
        traces: Sequence[Trace] | None = None,
        n_prompt: int | Sequence[int] | None = None,
    ) -> AbstractContextManager[Any]:
        """As `Edit.attached`, with all edits of the group."""
        return attached_edits(self.edits, model, trace=trace, traces=traces, n_prompt=n_prompt)

    def bound_to(
        self: _GroupType,
        trace: Trace | Sequence[Trace],
        *,
        padding_side: Literal["left", "right"] = "left",
        model: Any = None,
    ) -> _GroupType:
        """As `Edit.bound_to`, for all edits of the group."""
        twin = copy.copy(self)
        twin.edits = tuple(
            edit.bound_to(trace, padding_side=padding_side, model=model) for edit in self.edits
        )
        return twin

    def hooks(self, model: Any) -> list[NamedHook]:
        """As `Edit.hooks`, for all edits of the group."""
        return [named for edit in self.edits for named in edit.hooks(model)]


def attached_edits(
    edits: Sequence[Edit],
    model: Any,
    *,
    trace: Trace | None = None,
    traces: Sequence[Trace] | None = None,
    n_prompt: int | Sequence[int] | None = None,
) -> AbstractContextManager[Any]:
    """A `Session` of these edits on the model; see `Edit.attached`."""
    from step_saliency.intervene.session import Session

    return Session(model, edits, trace=trace, traces=traces, n_prompt=n_prompt)
