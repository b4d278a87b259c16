"""Edits in force in a transformers model while it decodes."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol, TypeGuard, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from step_saliency.intervene.context import (
    AnyEdit,
    EditContext,
    NamedEdit,
    context_for,
    named_edits,
)
from step_saliency.intervene.effects import Effects
from step_saliency.intervene.expected import ExpectedRows
from step_saliency.intervene.fast.call import AttentionCall, beyond_sdpa, sdpa
from step_saliency.intervene.fast.counts import PutOffCounts, projection_counts
from step_saliency.intervene.fast.groups import SharedGroups, relative_changes
from step_saliency.intervene.fast.layer import FastLayer
from step_saliency.intervene.fast.pieces import Pieces
from step_saliency.intervene.labels import PADDING, StepLabels
from step_saliency.intervene.oeb.edit import OddsEqualBridge
from step_saliency.intervene.once import labels_on
from step_saliency.intervene.places import head_mask
from step_saliency.intervene.stream import StepStream
from step_saliency.segment.online import StepTracker


@runtime_checkable
class Past(Protocol):
    """What was read before a pass of one token a row."""

    def expect(self, layer: int, key: Tensor, value: Tensor) -> None:
        """Hear what a layer attends to while the pass is captured.

        Raises:
            ValueError: it is not what the layer caches.
        """

    def take(
        self, layer: int, key: Tensor, value: Tensor, options: dict[str, Any]
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Keys and values of a layer with the new ones, and which of them are seen."""


class FastSession:
    """Edits in force in a transformers model while it decodes; none before `start`.

    Attributes:
        edits: The edits.
        labels: What every position so far is.
        layers: The layers of the model.
    """

    def __init__(self, model: PreTrainedModel, edits: Sequence[AnyEdit], tokenizer: Any) -> None:
        config = model.config.get_text_config(decoder=True)
        n_layers = int(config.num_hidden_layers)
        for edit in edits:
            edit.check(n_layers=n_layers, n_heads=int(config.num_attention_heads))
        self.edits = tuple(edits)
        self.labels: StepLabels | None = None
        self._named = named_edits(self.edits)
        self.layers = [FastLayer(layer, n_layers, self._named) for layer in range(n_layers)]
        self._counts = PutOffCounts(Effects())
        self._groups: SharedGroups | None = None
        self._stream = StepStream(tokenizer)
        self._last_steps: list[int] = []
        self._waiting: tuple[StepStream, list[int], SharedGroups | None] | None = None
        self._acting: frozenset[NamedEdit] = frozenset()
        self._idle = [True] * n_layers
        self._captured: tuple[Pieces, Past] | None = None

    @contextmanager
    def captured(self, pieces: Pieces, past: Past) -> Iterator[None]:
        """Context in which passes are captured: what the session does becomes their parts.

        Args:
            pieces: Of the pass.
            past: Whom attention asks for keys and values, once the parts run.
        """
        self._captured = pieces, past
        try:
            with pieces.captured():
                yield
        finally:
            self._captured = None

    @property
    def effects(self) -> Effects:
        """Counters, as of `Session`."""
        self._counts.settle()
        return self._counts.effects

    @property
    def trackers(self) -> list[StepTracker | None]:
        """As of `Session`."""
        return self._stream.trackers

    def expect(self, rows: ExpectedRows) -> None:
        """Say what is known of the next batch; see `StepStream.expect`."""
        self._stream.expect(rows)

    def read(
        self, tokens: Int[Tensor, "batch new"], real: Bool[Tensor, "batch new"], *, n_past: int
    ) -> None:
        """Say what the next pass brings.

        Args:
            tokens: Its tokens.
            real: Which of them are no padding.
            n_past: Positions in the cache; 0 begins a batch.
        """
        if n_past == 0:
            self.labels = None
            self._groups = None
            self._last_steps = [PADDING] * len(tokens)
            for layer in self.layers:
                layer.forget()
        self._advance(tokens, real, n_past)
        self._counts.next_pass()

    @property
    def is_idle(self) -> bool:
        """Whether no edit acts in the pass that was announced, and none needs what it computes."""
        return not self._acting and not any(layer.needs_resid for layer in self.layers)

    @property
    def n_idle(self) -> int:
        """First positions of the pass that begins a batch in which no edit can change anything.

        What is read of them need not be seen here, in whatever batch it is.
        """
        if any(layer.needs_resid for layer in self.layers):
            return 0
        regions = self._all_labels.region
        known = set(regions.unique().tolist()) - {PADDING}
        acted = [region for region in known if self._may_act({region})]
        columns = torch.isin(regions.cpu(), torch.tensor(acted, dtype=regions.dtype)).any(0)
        columns = columns.nonzero()
        n_first = int(columns[0]) if len(columns) else regions.shape[1]
        before = set(regions[:, :n_first].unique().tolist()) - {PADDING}
        return 0 if self._may_act(before) else n_first

    def _may_act(self, regions: set[int]) -> bool:
        """Whether an edit of this pass may act in regions, whatever begins there."""
        return any(named.edit.may_act(regions, regions) for named in self._acting)

    @contextmanager
    def unedited(self) -> Iterator[None]:
        """Context in which a pass of some other rows is read without edits."""
        before = self._acting, self._idle
        self._acting, self._idle = frozenset(), [True] * len(self._idle)
        try:
            yield
        finally:
            self._acting, self._idle = before

    def keep(self, rows: Int[Tensor, "row"] | Sequence[int]) -> None:
        """Go on with these rows only."""
        kept = torch.as_tensor(rows, dtype=torch.long).tolist()
        self._stream.keep(kept)
        self._last_steps = [self._last_steps[row] for row in kept]
        if self._groups is not None:
            self._groups.keep(kept)
        self._see_labels()
        for layer in self.layers:
            layer.keep(kept)

    def aside(self, rows: ExpectedRows) -> None:
        """As `Session.aside`."""
        self._waiting = self._stream, self._last_steps, self._groups
        self._stream, self._groups = self._stream.beside(rows), None
        for layer in self.layers:
            layer.aside()

    def join(self) -> None:
        """As `Session.join`."""
        assert self._waiting is not None
        (stream, last_steps, self._groups), self._waiting = self._waiting, None
        stream.join(self._stream)
        self._stream, self._last_steps = stream, last_steps + self._last_steps
        self._see_labels()
        for layer in self.layers:
            layer.join()

    def trim(self, n_first: int) -> None:
        """As `Session.trim`."""
        self._stream.trim(n_first)
        if self._groups is not None:
            self._groups.trim(n_first)
        self._see_labels()
        for layer in self.layers:
            layer.trim(n_first)

    def _see_labels(self) -> None:
        """Take up the labels of a batch that has changed."""
        self.labels = self._stream.labels if self._stream.newest else None

    def _advance(
        self, tokens: Int[Tensor, "batch new"], real: Bool[Tensor, "batch new"], n_past: int
    ) -> None:
        self.labels = self._stream.advance(tokens, real, n_keys=n_past + tokens.shape[1])
        newest = self._stream.newest
        if self._groups is None:
            self._groups = SharedGroups(self.labels, newest)
        else:
            self._groups = self._groups.next_pass(self.labels, newest)
        regions, starting = self._regions_of_pass()
        self._acting = frozenset(
            named for named in self._named if named.edit.may_act(regions, starting)
        )
        self._idle = [
            self._acting.isdisjoint((*layer.on_scores, *layer.on_z, *layer.on_resid))
            for layer in self.layers
        ]
        for named in self._acting:
            named.edit.foresee(self.labels, tokens.shape[1])

    def _regions_of_pass(self) -> tuple[set[int], set[int]]:
        """Regions of the new positions, and of those of them that begin a step."""
        regions: set[int] = set()
        starting: set[int] = set()
        for row, labels in enumerate(self._stream.newest):
            for step, region, _ in labels:
                regions.add(region)
                if step > self._last_steps[row]:
                    starting.add(region)
                    self._last_steps[row] = step
        return regions, starting

    def attention(
        self,
        module: nn.Module,
        query: Float[Tensor, "batch head query d_head"],
        key: Float[Tensor, "batch kv_head key d_head"],
        value: Float[Tensor, "batch kv_head key d_value"],
        attention_mask: Tensor | None,
        **options: Any,
    ) -> tuple[Float[Tensor, "batch query head d_value"], None]:
        """Attention with the edits, with the arguments of transformers' functions."""
        if self._captured is not None:
            return self._attention_as_part(module, query, key, value, options), None
        if self._idle[int(module.layer_idx)] and not beyond_sdpa(options):  # type: ignore[arg-type]
            return sdpa(module, query, key, value, attention_mask, options), None
        call = AttentionCall(module, query, key, value, attention_mask, options)
        return self._attend(call), None

    def _attention_as_part(
        self,
        module: nn.Module,
        query: Float[Tensor, "batch head 1 d_head"],
        key: Float[Tensor, "batch kv_head 1 d_head"],
        value: Float[Tensor, "batch kv_head 1 d_value"],
        options: dict[str, Any],
    ) -> Float[Tensor, "batch 1 head d_value"]:
        """Attention over all that was read, as a part of a pass that is captured."""
        assert self._captured is not None
        pieces, past = self._captured
        options = {name: option for name, option in options.items() if name != "position_ids"}
        layer = int(module.layer_idx)  # type: ignore[arg-type]
        past.expect(layer, key, value)

        def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            keys, values, mask = past.take(layer, key, value, options)
            return self.attention(module, query, keys, values, mask, **options)[0]

        like = query.new_empty(len(query), 1, query.shape[1], value.shape[-1])
        z = pieces.part(attend, query, key, value, result=like)
        assert z is not None
        return z

    def _attend(self, call: AttentionCall) -> Float[Tensor, "batch query head d_value"]:
        """One layer's attention, with the edits that can act in this pass."""
        layer = self.layers[call.layer]
        layer.see(call)
        n_queries = call.query.shape[2]
        on_scores = [named for named in layer.on_scores if named in self._acting]
        if not on_scores:
            z = call.plain()
        elif n_queries == 1 and len(on_scores) == 1 and is_projection(on_scores[0].edit):
            z = self._projected(call, on_scores[0], on_scores[0].edit)
        else:
            z = self._edited_scores(call, layer, on_scores)
        for named in layer.on_z:
            if named in self._acting:
                z = named.edit.apply(z, self._context(named, layer, z, n_queries)).to(z.dtype)
        return z

    def _projected(
        self, call: AttentionCall, named: NamedEdit, edit: OddsEqualBridge
    ) -> Float[Tensor, "batch 1 head d_value"]:
        """Attention of single queries, its softmax sums over bridge and current part re-weighted.

        Nothing here waits for the device, and keys and values are not repeated for the heads that
        share them.
        """
        heads, tau = edit.heads_in(call.layer), edit.tau_in(call.layer, len(self.layers))
        if heads == () or tau == 0:
            return call.plain()
        assert self._groups is not None
        dtype = torch.promote_types(call.query.dtype, torch.float32)
        n_kv_heads, n_keys = call.key.shape[1:3]
        device = call.key.device
        groups = self._groups.of(edit, call.mask, n_keys, dtype, n_kv_heads, device)
        pattern = call.single_pattern(groups.bias)
        sums = pattern @ groups.members
        changes = relative_changes(sums, groups.floor.clamp(max=tau))
        if heads is not None:
            mask = head_mask(heads, sums.shape[1], sums.device)
            changes = torch.where(mask.unsqueeze(-1), changes, 0.0)
        counts_of = partial(projection_counts, tau=tau, heads=heads)
        self._counts.put(named, call.layer, counts_of, sums, *groups.counts)
        pattern = torch.addcmul(pattern, pattern, changes @ groups.gaining)
        return call.single_outputs(pattern)

    def _edited_scores(
        self, call: AttentionCall, layer: FastLayer, edits: Sequence[NamedEdit]
    ) -> Float[Tensor, "batch query head d_value"]:
        n_later = call.query.shape[2]

        def edit_block(
            scores: Float[Tensor, "batch head query key"], queries: slice
        ) -> Float[Tensor, "batch head query key"]:
            length = len(self._all_labels) - n_later + queries.stop
            for named in edits:
                n_queries = queries.stop - queries.start
                context = self._context(named, layer, scores, n_queries, length=length)
                scores = named.edit.apply(scores, context)
            return scores

        return call.blockwise(edit_block)

    def edit_resid(
        self, layer: FastLayer, resid: Float[Tensor, "batch pos d_model"]
    ) -> Float[Tensor, "batch pos d_model"]:
        """A decoder layer's output, edited."""
        if self._captured is not None:
            edited = self._captured[0].part(partial(self.edit_resid, layer), resid, result=resid)
            assert edited is not None
            return edited
        if self.labels is None:
            return resid
        if layer.needs_resid:
            layer.see_output(resid, len(self.labels))
        for named in layer.on_resid:
            if named in self._acting:
                context = self._context(named, layer, resid, resid.shape[1])
                resid = named.edit.apply(resid, context).to(resid.dtype)
        return resid

    def see_input(self, layer: FastLayer, resid: Float[Tensor, "batch pos d_model"]) -> None:
        """Hear what a decoder layer reads."""
        if self._captured is not None:
            self._captured[0].part(layer.see_input, resid)
        else:
            layer.see_input(resid)

    @property
    def _all_labels(self) -> StepLabels:
        assert self.labels is not None
        return self.labels

    def _context(
        self,
        named: NamedEdit,
        layer: FastLayer,
        activation: Tensor,
        n_queries: int,
        *,
        length: int | None = None,
    ) -> EditContext:
        labels = labels_on(self._all_labels, activation.device)
        return context_for(
            named.edit,
            layer,
            labels if length is None else labels.up_to(length),
            n_queries,
            record=partial(self._counts.effects.add, named.name, layer.index),
            put_off=partial(self._counts.put, named, layer.index),
        )


def is_projection(edit: AnyEdit) -> TypeGuard[OddsEqualBridge]:
    """Whether an edit is the projection of three groups itself, and no placebo of it."""
    return type(edit) is OddsEqualBridge and edit.placebo is None
