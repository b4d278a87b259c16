"""Edits that know the steps of their tokens, for full passes by hand.

    bound = edit.bound_to(trace)
    model.run_with_hooks(tokens, fwd_hooks=[("blocks.0.attn.hook_attn_scores", bound.hook)])
    model.run_with_hooks(tokens, fwd_hooks=bound.hooks(model))

When it misleads: a hook by hand sees neither weights nor sinks unless it is bound with ``model=``,
so that on a model with sinks ``edit.bound_to(trace).hook`` takes masses for larger than they are,
and on one that clips values (OLMo) takes them as they were before.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from jaxtyping import Float
from torch import Tensor

from step_saliency.intervene.choices import PaddingSide
from step_saliency.intervene.context import AnyEdit, EditContext, context_for, unknown_weights
from step_saliency.intervene.labels import StepLabels
from step_saliency.intervene.sites import SITE_HOOKS, VALUE_HOOK, changed, point_of
from step_saliency.models.facts import attended_values, output_weights, sink_logits
from step_saliency.models.facts import n_layers as layers_of
from step_saliency.models.hooking import NamedHook, live_names
from step_saliency.trace import Trace


def labels_for(trace: Trace | Sequence[Trace], padding_side: PaddingSide) -> StepLabels:
    """Labels of one trace for every row, or of one trace a row."""
    rows = [trace] if isinstance(trace, Trace) else list(trace)
    return StepLabels.from_traces(rows, padding_side=padding_side)


@dataclass(frozen=True, eq=False)
class BoundEdit:
    """An edit whose ``hook`` knows the steps.

    Attributes:
        edit: The edit.
        labels: What the positions are that the hook will see.
        model: The model, for what depends on its depth, weights or sinks; None if it is not known.
        resid: Residuals of the pass before any edit, by layer; by default as the hook shows them.
    """

    edit: AnyEdit
    labels: StepLabels
    model: Any = None
    resid: Mapping[int, Float[Tensor, "batch pos d_model"]] = field(
        repr=False, default_factory=dict
    )
    _values: dict[int, Float[Tensor, "batch key kv_head d_head"]] = field(
        init=False, repr=False, default_factory=dict
    )

    @property
    def name(self) -> str:
        """Name of the edit."""
        return self.edit.name

    def hooks(self, model: Any) -> list[NamedHook]:
        """Names and functions, for ``model.run_with_hooks(fwd_hooks=...)``.

        Raises:
            ValueError: the model lacks what the edit needs.
        """
        edit = self.edit
        edit.check(n_layers=layers_of(model), n_heads=int(model.cfg.n_heads))
        points = [*([VALUE_HOOK] if edit.needs_values else []), SITE_HOOKS[edit.site]]
        names = [f"blocks.{layer}.{point}" for layer in edit.layers for point in points]
        bound = replace(self, model=model)
        return [(name, bound.hook) for name in live_names(model, names)]

    def hook(self, activation: Tensor, hook: Any) -> Tensor | None:
        """Hook function for a full pass over the trace that the edit is bound to.

        At ``hook_v`` it remembers the values, for edits that read them.

        Args:
            activation: Activation at the hook point.
            hook: The hook point, by whose name the site and the layer are known.

        Raises:
            ValueError: the hook point is not the edit's site; the activation has other positions
                than the trace; values are needed, but no ``hook_v`` came before.
        """
        point, layer = point_of(str(hook.name)), int(hook.layer())
        if point == "v":
            known = self.model is not None
            self._values[layer] = attended_values(self.model, activation) if known else activation
            return None
        edit = self.edit if point is None else self.edit.at(point)
        if point != edit.site:
            raise ValueError(
                f"{edit.name} acts at {SITE_HOOKS[edit.site]}, but was added at {hook.name}"
            )
        return changed(activation, edit.apply(activation, self._context(edit, activation, layer)))

    def _context(self, edit: AnyEdit, activation: Tensor, layer: int) -> EditContext:
        n_pos = activation.shape[-2] if edit.site == "scores" else activation.shape[1]
        n_keys = activation.shape[-1] if edit.site == "scores" else n_pos
        labels = _with_rows(self.labels.to(activation.device), activation.shape[0])
        if not n_pos == n_keys == len(labels):
            raise ValueError(
                f"{edit.name} is bound to {len(labels)} positions, but the activation has {n_pos} "
                f"queries and {n_keys} keys; a hook by hand is for full passes over its trace"
            )
        resid = self.resid.get(layer, activation) if edit.site == "resid_post" else None
        view = _ShownLayer(layer, self.model, self._values, resid, edit.name)
        return context_for(edit, view, labels, n_pos)


@dataclass(frozen=True, eq=False)
class _ShownLayer:
    """A layer of which one full pass shows the residual, or, before an activation, the values."""

    index: int
    model: Any
    shown_values: dict[int, Float[Tensor, "batch key kv_head d_head"]]
    shown_resid: Float[Tensor, "batch key d_model"] | None
    reader: str

    @property
    def n_layers(self) -> int | None:
        return None if self.model is None else layers_of(self.model)

    def values(self, n_keys: int) -> Float[Tensor, "batch key kv_head d_head"]:
        if self.index not in self.shown_values:
            raise ValueError(
                f"{self.reader} has seen no values of layer {self.index}: add the same hook at "
                f"blocks.{self.index}.{VALUE_HOOK} too"
            )
        return self.shown_values.pop(self.index)[:, :n_keys]

    def resid(self, n_keys: int) -> Float[Tensor, "batch key d_model"] | None:
        return None if self.shown_resid is None else self.shown_resid[:, :n_keys].detach()

    def resid_pre(self) -> None:
        return None

    def sinks(self) -> Float[Tensor, "head"] | None:
        return None if self.model is None else sink_logits(self.model, self.index)

    def output_weights(self) -> Float[Tensor, "head d_head d_model"]:
        return unknown_weights() if self.model is None else output_weights(self.model, self.index)


def _with_rows(labels: StepLabels, n_rows: int) -> StepLabels:
    if labels.step.shape[0] == n_rows:
        return labels
    if labels.step.shape[0] != 1:
        raise ValueError(
            f"bound to {labels.step.shape[0]} traces, but the batch has {n_rows} rows; give one "
            "trace a row"
        )
    return labels.each(lambda label: label.expand(n_rows, -1))


@dataclass(frozen=True, eq=False)
class BoundGroup:
    """Edits that are bound together.

    Attributes:
        edits: The bound edits, in order.
    """

    edits: tuple[BoundEdit, ...]

    def hooks(self, model: Any) -> list[NamedHook]:
        """As `BoundEdit.hooks`, for all edits; residuals are read before any of them."""
        resid: dict[int, Float[Tensor, "batch pos d_model"]] = {}

        def keep(activation: Tensor, hook: Any) -> None:
            resid[int(hook.layer())] = activation.detach()

        edits = [replace(bound, resid=resid) for bound in self.edits]
        hooks = [named for edit in edits for named in edit.hooks(model)]
        on_resid = [bound.edit for bound in edits if bound.edit.site == "resid_post"]
        layers = {layer for edit in on_resid if edit.needs_resid for layer in edit.layers}
        names = [f"blocks.{layer}.{SITE_HOOKS['resid_post']}" for layer in sorted(layers)]
        return [*((name, keep) for name in names if len(on_resid) > 1), *hooks]
