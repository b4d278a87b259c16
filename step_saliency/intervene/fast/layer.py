"""What one decoder layer's edits are, and what they read of it besides their activation."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from step_saliency.intervene.context import NamedEdit
from step_saliency.intervene.fast.call import AttentionCall
from step_saliency.intervene.past import PastStore
from step_saliency.models.offloaded import numbers_of

OUTPUT_PROJECTIONS = ("o_proj", "c_proj", "dense", "out_proj", "wo")


class FastLayer:
    """A layer of a transformers model; a `LayerView` of the pass that is running.

    Attributes:
        index: The layer.
        n_layers: Layers of the model.
        on_scores: Edits of its scores, in order.
        on_z: Edits of its head outputs.
        on_resid: Edits of what it returns.
    """

    def __init__(self, index: int, n_layers: int, edits: Sequence[NamedEdit]) -> None:
        mine = [named for named in edits if index in named.edit.layers]
        self.index = index
        self.n_layers: int | None = n_layers
        self.on_scores = [named for named in mine if named.edit.site == "scores"]
        self.on_z = [named for named in mine if named.edit.site == "z"]
        self.on_resid = [named for named in mine if named.edit.site == "resid_post"]
        self.needs_resid = any(named.edit.needs_resid for named in mine)
        self.needs_resid_pre = any(named.edit.needs_resid_pre for named in mine)
        self._needs_values = any(named.edit.needs_values for named in mine)
        self._attention: Any = None
        self._n_heads = 0
        self._device: torch.device | None = None
        self._sinks: Float[Tensor, "head"] | None = None
        self._waiting = PastStore()
        self.forget()

    def forget(self) -> None:
        """Begin another batch."""
        self._values: Float[Tensor, "batch kv_head key d_value"] | None = None
        self._resid: Float[Tensor, "batch key d_model"] | None = None
        self._resid_pre: Float[Tensor, "batch pos d_model"] | None = None
        self._past = PastStore()

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows only; values come with the next call."""
        self._values = None
        self._resid = None
        self._past.keep(rows)

    def aside(self) -> None:
        """Begin another batch; the one so far waits."""
        waiting = self._past
        self.forget()
        self._waiting = waiting

    def join(self) -> None:
        """The batch that waits goes on, with the rows of the other one behind its own."""
        waiting, other = self._waiting, self._past
        self.forget()
        waiting.join(other)
        self._past = waiting

    def trim(self, n_first: int) -> None:
        """Forget the first positions, which are padding in every row."""
        self._values = None
        self._resid = None
        self._past.trim(n_first)

    def see(self, call: AttentionCall) -> None:
        """Keep what edits may read of a call of the layer's attention."""
        if self._needs_values:
            self._values = call.value
        self._attention = call.module
        self._n_heads = call.query.shape[1]
        self._device = call.query.device
        self._sinks = call.sinks

    def see_input(self, resid: Float[Tensor, "batch pos d_model"]) -> None:
        """Keep what the block reads in this pass."""
        self._resid_pre = resid

    def see_output(self, resid: Float[Tensor, "batch pos d_model"], n_keys: int) -> None:
        """Keep what comes before edits, of all positions."""
        self._past.show(resid)
        self._resid = self._past.all(n_keys)

    def values(self, n_keys: int) -> Float[Tensor, "batch key kv_head d_head"]:
        assert self._values is not None
        return self._values.transpose(1, 2)[:, :n_keys]

    def resid(self, n_keys: int) -> Float[Tensor, "batch key d_model"] | None:
        return None if self._resid is None else self._resid[:, :n_keys]

    def resid_pre(self) -> Float[Tensor, "batch pos d_model"] | None:
        """What the block reads, which a model on several devices brings from another one."""
        return None if self._resid_pre is None else self._resid_pre.to(self._device)

    def sinks(self) -> Float[Tensor, "head"] | None:
        return self._sinks

    def output_weights(self) -> Float[Tensor, "head d_head d_model"]:
        """Output projection of the layer's heads."""
        projection = _output_projection(self._attention)
        weight = numbers_of(projection, "weight").to(self._device)
        by_input = weight if type(projection).__name__ == "Conv1D" else weight.T
        return by_input.unflatten(0, (self._n_heads, -1))


def _output_projection(attention: Any) -> Any:
    for name in OUTPUT_PROJECTIONS:
        projection = getattr(attention, name, None)
        if projection is not None:
            return projection
    raise ValueError(
        f"{type(attention).__name__} has no output projection that is known "
        f"({', '.join(OUTPUT_PROJECTIONS)})"
    )
