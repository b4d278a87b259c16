"""What hooks have seen of one layer: what the edits of a session read besides their activation."""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from step_saliency.intervene.context import AnyEdit
from step_saliency.intervene.past import PastStore
from step_saliency.intervene.sites import VALUE_HOOK
from step_saliency.models.facts import attended_values, n_layers, output_weights, sink_logits
from step_saliency.models.hooking import NamedHook


class ObservedLayer:
    """A layer of a model of TransformerLens; a `LayerView` of the pass that is running.

    Args:
        model: HookedTransformer or TransformerBridge.
        index: The layer.
        edits: Edits that act in it, which say what is to be kept.
    """

    def __init__(self, model: Any, index: int, edits: Sequence[AnyEdit]) -> None:
        self.index = index
        self.n_layers = n_layers(model)
        self._model = model
        self._values = PastStore() if any(edit.needs_values for edit in edits) else None
        self._resid = PastStore() if any(edit.needs_resid for edit in edits) else None
        self._waiting: tuple[PastStore | None, PastStore | None] = None, None
        self._needs_resid_pre = any(edit.needs_resid_pre for edit in edits)
        self._resid_pre: Float[Tensor, "batch pos d_model"] | None = None
        self._sinks: list[Float[Tensor, "head"] | None] = []

    def hooks(self) -> list[NamedHook]:
        """Names and functions that keep what is read; to be added before those of the edits."""
        at = f"blocks.{self.index}."
        hooks: list[NamedHook] = []
        if self._values is not None:
            hooks.append((at + VALUE_HOOK, self._show_values))
        if self._needs_resid_pre:
            hooks.append((at + "hook_resid_pre", self._show_resid_pre))
        if self._resid is not None:
            hooks.append((at + "hook_resid_post", self._show_resid))
        return hooks

    def _show_values(self, values: Float[Tensor, "batch pos ..."], hook: Any) -> None:  # noqa: ARG002
        assert self._values is not None
        self._values.show(attended_values(self._model, values))

    def _show_resid(self, resid: Float[Tensor, "batch pos ..."], hook: Any) -> None:  # noqa: ARG002
        assert self._resid is not None
        self._resid.show(resid.detach())

    def _show_resid_pre(self, resid: Float[Tensor, "batch pos d_model"], hook: Any) -> None:  # noqa: ARG002
        self._resid_pre = resid.detach()

    def values(self, n_keys: int) -> Float[Tensor, "batch key kv_head d_head"]:
        assert self._values is not None
        return self._values.all(n_keys)

    def resid(self, n_keys: int) -> Float[Tensor, "batch key d_model"]:
        assert self._resid is not None
        return self._resid.all(n_keys)

    def resid_pre(self) -> Float[Tensor, "batch pos d_model"] | None:
        return self._resid_pre

    def sinks(self) -> Float[Tensor, "head"] | None:
        """Read once; weights do not change during a session."""
        if not self._sinks:
            self._sinks.append(sink_logits(self._model, self.index))
        return self._sinks[0]

    def output_weights(self) -> Float[Tensor, "head d_head d_model"]:
        return output_weights(self._model, self.index)

    def keep(self, rows: Sequence[int]) -> None:
        """The batch goes on with these rows only."""
        for store in (self._values, self._resid):
            if store is not None:
                store.keep(rows)

    def aside(self) -> None:
        """Begin another batch; the one so far waits."""
        self._waiting = self._values, self._resid
        self._values, self._resid = (
            None if store is None else PastStore() for store in self._waiting
        )

    def join(self) -> None:
        """The batch that waits goes on, with the rows of the other one behind its own."""
        for store, other in zip(self._waiting, (self._values, self._resid), strict=True):
            if store is not None and other is not None:
                store.join(other)
        self._values, self._resid = self._waiting
        self._waiting = None, None

    def trim(self, n_first: int) -> None:
        """Forget the first positions, which are padding in every row."""
        for store in (self._values, self._resid):
            if store is not None:
                store.trim(n_first)
