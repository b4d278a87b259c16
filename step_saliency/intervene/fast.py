"""The same edits inside transformers' own attention: no hook points, no scores of all pairs.

A registered attention function gets the queries of a pass with the keys and values of all cached
positions. Where no edit of the layer can act, it hands them to SDPA. Where an odds-equal bridge
acts on single queries, the attention row p is re-weighted group by group, since a shift of the
scores by s_B on the bridge B and s_S on the current part S changes nothing but their softmax sums:

    q[k] = p[k] * f_B  (k in B),   p[k] * f_S  (k in S),   p[k]  (else)

with factors f from the three sums alone (`odds_equal_factors`). Other edits of scores get the
scores of a block of queries at a time. Edits of head outputs act on what attention returns, edits
of residuals on what a decoder layer returns.

When it misleads: an architecture whose attention or residual does more than this seam shows (as
none in `saliency.attention` does) would be edited elsewhere than by hooks.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias, TypeGuard

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from step_saliency.intervene.edit import CountsOf, Edit, EditContext
from step_saliency.intervene.effects import Effects, distinct_names
from step_saliency.intervene.expected import ExpectedRows
from step_saliency.intervene.labels import PADDING, WRITTEN, KeyGroup, StepLabels
from step_saliency.intervene.oeb import (
    OddsEqualBridge,
    bridge_floor,
    counts_by_head,
    odds_equal_factors,
    visible_keys,
)
from step_saliency.intervene.past import PastStore
from step_saliency.intervene.stream import Label, StepStream
from step_saliency.models.adapter import (
    attention_implementation,
    bridged_attention,
    decoder_layers,
    replaced_methods,
    unbridged_forward,
)

REGISTERED_NAME = "step_saliency_edits"
"""Name of attention with edits in transformers' attention registry."""

SCORES_AT_A_TIME = 2**24
"""Entries of the scores that are formed together."""

COUNTED_TOGETHER = 256
"""Passes whose counters are summed together."""

OUTPUT_PROJECTIONS = ("o_proj", "c_proj", "dense", "out_proj", "wo")


@dataclass(frozen=True)
class _Call:
    """One call of an attention function, as transformers makes it."""

    module: nn.Module
    query: Float[Tensor, "batch head query d_head"]
    key: Float[Tensor, "batch kv_head key d_head"]
    value: Float[Tensor, "batch kv_head key d_value"]
    mask: Tensor | None
    options: dict[str, Any]

    @property
    def layer(self) -> int:
        return int(self.module.layer_idx)  # type: ignore[arg-type]

    @property
    def scale(self) -> float:
        given = self.options.get("scaling")
        return float(self.query.shape[-1] ** -0.5 if given is None else given)

    @property
    def sinks(self) -> Float[Tensor, "head"] | None:
        sinks: Tensor | None = self.options.get("s_aux")
        return sinks

    def plain(self) -> Float[Tensor, "batch query head d_value"]:
        """What the model's own attention gives."""
        if _beyond_sdpa(self.options):
            return self.blockwise(lambda scores, _: scores)
        return _sdpa(self.module, self.query, self.key, self.value, self.mask, self.options)

    def blockwise(
        self, edit: Callable[[Float[Tensor, "batch head query key"], slice], Tensor]
    ) -> Float[Tensor, "batch query head d_value"]:
        """Attention with edited scores, formed for a block of queries and the keys up to it.

        Args:
            edit: From the scores of a block, and its place among the queries, to new scores.
        """
        n_queries, n_keys = self.query.shape[2], self.key.shape[2]
        block = max(1, SCORES_AT_A_TIME // (self.query.shape[0] * self.query.shape[1] * n_keys))
        parts = []
        for start in range(0, n_queries, block):
            queries = slice(start, min(start + block, n_queries))
            scores = edit(self.scores(queries), queries)
            parts.append(self.head_outputs(self.pattern(scores)))
        return torch.cat(parts, dim=1)

    def scores(self, queries: slice) -> Float[Tensor, "batch head query key"]:
        """Masked scores of some queries with the keys up to the last of them."""
        n_queries = self.query.shape[2]
        stop = self.key.shape[2] - n_queries + queries.stop
        q = grouped(self.query[:, :, queries], self.key.shape[1])
        scores = (q @ self.key[:, :, :stop].mT) * self.scale
        scores = scores.unflatten(2, (-1, queries.stop - queries.start)).flatten(1, 2)
        cap = self.options.get("softcap")
        if cap is not None:
            scores = (scores / cap).tanh() * cap
        if self.mask is not None:
            return masked(scores, self.mask[:, :, queries, :stop])
        if queries.stop - queries.start == 1:
            return scores
        return masked(scores, _causal(queries.stop - queries.start, stop, scores.device))

    def single_pattern(
        self, bias: Float[Tensor, "batch 1 key"] | None
    ) -> Float[Tensor, "batch head key"]:
        """Attention weights of single queries; heads that share keys are rows of one product."""
        n_kv_heads = self.key.shape[1]
        q = grouped(self.query, n_kv_heads).flatten(0, 1)
        scores = torch.bmm(q * self.scale, self.key.flatten(0, 1).mT)
        scores = scores.view(*self.query.shape[:2], -1)
        cap = self.options.get("softcap")
        if cap is not None:
            scores = (scores / cap).tanh() * cap
        if bias is not None:
            scores = scores.add_(bias)
        return self.pattern(scores.unsqueeze(2)).squeeze(2)

    def pattern(
        self, scores: Float[Tensor, "batch head query key"]
    ) -> Float[Tensor, "batch head query key"]:
        """Attention weights; with sinks their rows sum to less than one."""
        exact = torch.promote_types(scores.dtype, torch.float32)
        if self.sinks is None:
            return scores.softmax(-1, dtype=exact)
        sinks = self.sinks.to(exact)[None, :, None, None].expand(*scores.shape[:3], 1)
        return torch.cat([scores.to(exact), sinks], dim=-1).softmax(-1)[..., :-1]

    def head_outputs(
        self, pattern: Float[Tensor, "batch head query key"]
    ) -> Float[Tensor, "batch query head d_value"]:
        """Values summed by the pattern."""
        value = self.value[:, :, : pattern.shape[-1]]
        z = grouped(pattern.to(value.dtype), value.shape[1]) @ value
        return z.unflatten(2, (-1, pattern.shape[2])).flatten(1, 2).transpose(1, 2)


def grouped(
    by_head: Float[Tensor, "batch head query last"], n_kv_heads: int
) -> Float[Tensor, "batch kv_head rows last"]:
    """The heads that share keys and values as rows of one matrix, so that none is repeated."""
    return by_head.unflatten(1, (n_kv_heads, -1)).flatten(2, 3)


def masked(
    scores: Float[Tensor, "batch head query key"], mask: Shaped[Tensor, "#batch #head #query key"]
) -> Float[Tensor, "batch head query key"]:
    """Scores with the lowest number where a boolean mask is False, or with an additive mask."""
    if mask.dtype == torch.bool:
        return scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return scores + mask


def _causal(n_queries: int, n_keys: int, device: torch.device) -> Bool[Tensor, "1 1 query key"]:
    mask = torch.ones(n_queries, n_keys, dtype=torch.bool, device=device)
    return mask.tril(n_keys - n_queries)[None, None]


class _GrownMembers:
    """Members of bridge and current part for single queries, pass after pass.

    While every row stays in its region (and step, if that is what is current), a pass changes
    nothing but that its own token is current to it.
    """

    def __init__(self, edit: OddsEqualBridge) -> None:
        self._edit = edit
        self._places: list[tuple[int, int]] = []
        self._held: Float[Tensor, "batch capacity 2"] = torch.empty(0, 0, 2)
        self._length = 0

    def of(
        self,
        labels: StepLabels,
        newest: Sequence[Sequence[Label]],
        dtype: torch.dtype,
    ) -> Float[Tensor, "batch key 2"]:
        """1 where a key is in the bridge (0) or the current part (1) of the last position.

        Args:
            labels: What every position so far is.
            newest: Step, region and previous step of each row's last position.
            dtype: Type of the result.
        """
        by_step = self._edit.current == "step"
        places = [(row[-1][1], row[-1][0] if by_step else 0) for row in newest]
        goes_on = places == self._places and self._length == len(labels) - 1
        if goes_on and self._held.shape[1] > self._length and self._held.dtype == dtype:
            own = [[0.0, float(region in WRITTEN)] for region, _ in places]
            self._held[:, self._length] = torch.tensor(own, dtype=dtype, device=self._held.device)
        else:
            self._fill(labels, dtype)
        self._places, self._length = places, len(labels)
        return self._held[:, : self._length]

    def _fill(self, labels: StepLabels, dtype: torch.dtype) -> None:
        groups = self._edit.groups(labels, 1)[:, 0]
        members = torch.stack([groups == KeyGroup.BRIDGE, groups == KeyGroup.CURRENT], dim=-1)
        room = len(labels) // 2 + 64
        self._held = torch.nn.functional.pad(members.to(dtype), (0, 0, 0, room))


@dataclass(frozen=True, eq=False)
class _PassGroups:
    """What the layers of one pass of single queries share.

    Attributes:
        members: 1 where a visible key is in the bridge (0) or the current part (1).
        gaining: The transpose, with -1 for the current part, which gives what the bridge gets.
        counts: Visible keys of the bridge and of the current part.
        floor: sqrt(|B| / (|B| + |S|)); 0 in rows without a bridge or without a current part.
        bias: 0 at visible keys and the lowest number elsewhere; None if all are visible.
    """

    members: Float[Tensor, "batch key 2"]
    gaining: Float[Tensor, "batch 2 key"]
    counts: tuple[Float[Tensor, "batch 1"], Float[Tensor, "batch 1"]]
    floor: Float[Tensor, "batch 1"]
    bias: Float[Tensor, "batch 1 key"] | None

    @classmethod
    def of(cls, members: Float[Tensor, "batch key 2"], mask: Tensor | None) -> "_PassGroups":
        """From the members among the keys of a layer, and its mask."""
        bias = None
        if mask is not None:
            nothing = torch.zeros((), dtype=members.dtype, device=mask.device)
            bias = masked(nothing.expand(mask.shape), mask)[:, 0]
            visible = mask[:, 0] if mask.dtype == torch.bool else visible_keys(bias)
            members = members * visible.mT
        counts = members.sum(1)
        n_bridge, n_current = counts.unsqueeze(-1).unbind(1)
        return cls(
            members=members,
            gaining=(members * members.new_tensor([1.0, -1.0])).mT,
            counts=(n_bridge, n_current),
            floor=bridge_floor(n_bridge, n_current, 1.0) * (n_current > 0),
            bias=bias,
        )


def relative_changes(
    sums: Float[Tensor, "batch head 2"], floor: Float[Tensor, "batch 1"]
) -> Float[Tensor, "batch head 2"]:
    """f_B - 1 and 1 - f_S of `odds_equal_factors`, in fewer operations.

    The bridge gets d = max(0, tau_B - p(B)), which the current part gives, so that f_B - 1 =
    d / p(B) and 1 - f_S = d / p(S); both are 0 where a row is left alone.

    Args:
        sums: Normalised mass of the bridge (0) and of the current part (1).
        floor: tau_B before it is capped; 0 in rows that are to be left alone.
    """
    bridge, current = sums.unbind(-1)
    pair = bridge + current
    tau = torch.where(floor < pair, floor, pair / 2)
    moved = torch.where(bridge > 0, tau - bridge, 0.0).clamp(min=0)
    return moved.unsqueeze(-1) / sums.clamp(min=torch.finfo(sums.dtype).tiny)


_Projected: TypeAlias = tuple[Tensor, tuple[Tensor, Tensor]]
"""Masses of bridge and current part in one pass, and their counts of keys."""


class FastSession:
    """Edits in force in a transformers model while it decodes; none before `start`.

    Attributes:
        labels: What every position so far is.
    """

    def __init__(self, model: PreTrainedModel, edits: Sequence[Edit], tokenizer: Any) -> None:
        config = model.config.get_text_config(decoder=True)
        self.n_layers = int(config.num_hidden_layers)
        self._effects = Effects()
        self._uncounted: dict[tuple[OddsEqualBridge, int], list[_Projected]] = {}
        self._put_off: dict[tuple[Edit, int], tuple[CountsOf, list[tuple[Tensor, ...]]]] = {}
        self._members: dict[tuple[str | tuple[int, ...], str], _GrownMembers] = {}
        self._passes_uncounted = 0
        for edit in edits:
            edit.check(n_layers=self.n_layers, n_heads=int(config.num_attention_heads))
        self.edits = tuple(edits)
        names = distinct_names([edit.name for edit in self.edits])
        self._names = dict(zip(self.edits, names, strict=True))
        self.layers = [_LayerEdits(layer, edits) for layer in range(self.n_layers)]
        self.labels: StepLabels | None = None
        self._stream = StepStream(tokenizer)
        self._last_steps: list[int] = []
        self._acting: dict[Edit, bool] = {}
        self._idle = [True] * self.n_layers

    @property
    def effects(self) -> Effects:
        """Counters, as of `Session`."""
        self._count()
        return self._effects

    def expect(self, rows: ExpectedRows) -> None:
        """Say what is known of the next batch; see `StepStream.expect`."""
        self._stream.expect(rows)

    def start(self, tokens: Int[Tensor, "batch pos"], real: Bool[Tensor, "batch pos"]) -> None:
        """Begin a batch.

        Args:
            tokens: Its prompts.
            real: Which of these tokens are no padding.
        """
        self.labels = None
        self._last_steps = [PADDING] * len(tokens)
        self._advance(tokens, real)
        self._members = {}
        for layer in self.layers:
            layer.forget()

    def push(self, tokens: Int[Tensor, "batch"], real: Sequence[bool]) -> None:
        """Say what each row's next token is, and which rows are not done yet."""
        is_real = torch.tensor(real, device=tokens.device)
        self._advance(tokens.unsqueeze(1), is_real.unsqueeze(1))
        self._passes_uncounted += 1
        if self._passes_uncounted == COUNTED_TOGETHER:
            self._count()

    def keep(self, rows: Int[Tensor, "row"] | Sequence[int]) -> None:
        """Go on with these rows only."""
        chosen = torch.as_tensor(rows, dtype=torch.long)
        self._stream.keep(chosen)
        if self.labels is not None:
            step, region, previous = (x[chosen.to(x.device)] for x in self.labels.tensors)
            self.labels = StepLabels(step, region, previous)
        self._last_steps = [self._last_steps[row] for row in chosen.tolist()]
        self._members = {}
        for layer in self.layers:
            layer.keep(chosen)

    def _advance(self, tokens: Int[Tensor, "batch new"], real: Bool[Tensor, "batch new"]) -> None:
        before = len(self.labels) if len(tokens[0]) == 1 and self.labels is not None else 0
        self.labels = self._stream.advance(tokens, real, n_keys=before + tokens.shape[1])
        regions: set[int] = set()
        starting: set[int] = set()
        for row, labels in enumerate(self._stream.newest):
            for step, region, _ in labels:
                regions.add(region)
                if step > self._last_steps[row]:
                    starting.add(region)
                    self._last_steps[row] = step
        self._acting = {edit: edit.may_act(regions, starting) for edit in self.edits}
        self._idle = [
            not any(map(self._acting.get, (*layer.on_scores, *layer.on_z, *layer.on_resid)))
            for layer in self.layers
        ]

    def leaves_alone(self, layer: int) -> bool:
        """Whether no edit has anything to do with the attention of a layer in this pass."""
        return self._idle[layer]

    def attend(self, call: _Call) -> Float[Tensor, "batch query head d_value"]:
        """One layer's attention, with the edits that can act in this pass."""
        layer = self.layers[call.layer]
        if layer.needs_values:
            layer.values = call.value
        layer.attention = call.module
        on_scores = [edit for edit in layer.on_scores if self._acting.get(edit)]
        on_z = [edit for edit in layer.on_z if self._acting.get(edit)]
        n_queries = call.query.shape[2]
        if not on_scores:
            z = call.plain()
        elif n_queries == 1 and len(on_scores) == 1 and is_projection(on_scores[0]):
            z = self._projected(call, on_scores[0])
        else:
            z = self._edited_scores(call, layer, on_scores)
        for edit in on_z:
            context = self._context(
                edit, layer, n_queries, sinks=call.sinks, resid_pre=layer.resid_pre
            )
            z = edit.apply(z, context).to(z.dtype)
        return z

    def _projected(
        self, call: _Call, edit: OddsEqualBridge
    ) -> Float[Tensor, "batch 1 head d_value"]:
        """Attention of single queries, its softmax sums over bridge and current part re-weighted.

        Nothing here waits for the device, and keys and values are not repeated for the heads that
        share them.
        """
        heads, tau = edit.heads_in(call.layer), edit.tau_in(call.layer, self.n_layers)
        if heads == () or tau == 0:
            return call.plain()
        made = self._pass_groups(call, edit)
        pattern = call.single_pattern(made.bias)
        sums = pattern @ made.members
        changes = relative_changes(sums, made.floor.clamp(max=tau))
        if heads is not None:
            chosen = chosen_heads(heads, sums.shape[1], sums.device)
            changes = torch.where(chosen.unsqueeze(-1), changes, 0.0)
        self._uncounted.setdefault((edit, call.layer), []).append((sums, made.counts))
        pattern = torch.addcmul(pattern, pattern, changes @ made.gaining)
        return call.head_outputs(pattern.unsqueeze(2))

    def _pass_groups(self, call: _Call, edit: OddsEqualBridge) -> _PassGroups:
        labels, n_keys = self._all_labels, call.key.shape[2]
        dtype = torch.promote_types(call.query.dtype, torch.float32)
        key = "pass", edit.bridge, edit.current, id(call.mask), n_keys

        def make() -> _PassGroups:
            grown = self._members.setdefault((edit.bridge, edit.current), _GrownMembers(edit))
            shared = "members", edit.bridge, edit.current, dtype
            members = labels.made(shared, lambda: grown.of(labels, self._stream.newest, dtype))
            return _PassGroups.of(members[:, len(labels) - n_keys :], call.mask)

        return labels.made(key, make)

    def _count(self) -> None:
        """Count what the projections did; put off, since one sum over many passes is cheap."""
        for (edit, layer), passes in self._uncounted.items():
            tau, heads = edit.tau_in(layer, self.n_layers), edit.heads_in(layer)
            sums = torch.cat([sums for sums, _ in passes])
            n_bridge = torch.cat([counts[0] for _, counts in passes])
            n_current = torch.cat([counts[1] for _, counts in passes])
            bridge, current = sums.unsqueeze(-2).unbind(-1)
            other = (1 - bridge - current).clamp(min=0)
            n_keys = n_bridge.unsqueeze(-1), n_current.unsqueeze(-1)
            done = odds_equal_factors(bridge, current, other, *n_keys, tau).shifts
            by_head = counts_by_head(done)
            if heads is not None:
                chosen = chosen_heads(heads, sums.shape[1], sums.device)
                by_head = {name: total * chosen for name, total in by_head.items()}
            self._effects.add(self._names[edit], layer, **by_head)
        for (counted, layer), (counts_of, put_off) in self._put_off.items():
            joined = [torch.cat(tensors) for tensors in zip(*put_off, strict=True)]
            self._effects.add(self._names[counted], layer, **counts_of(*joined))
        self._uncounted, self._put_off = {}, {}
        self._passes_uncounted = 0

    def _put_off_count(
        self, edit: Edit, layer: int, counts_of: CountsOf, tensors: tuple[Tensor, ...]
    ) -> None:
        self._put_off.setdefault((edit, layer), (counts_of, []))[1].append(tensors)

    def _edited_scores(
        self, call: _Call, layer: "_LayerEdits", edits: Sequence[Edit]
    ) -> Float[Tensor, "batch query head d_value"]:
        n_queries = call.query.shape[2]

        def edit_block(
            scores: Float[Tensor, "batch head query key"], queries: slice
        ) -> Float[Tensor, "batch head query key"]:
            length = len(self._all_labels) - n_queries + queries.stop
            for edit in edits:
                context = self._context(
                    edit, layer, queries.stop - queries.start, sinks=call.sinks, length=length
                )
                scores = edit.apply(scores, context)
            return scores

        return call.blockwise(edit_block)

    def edit_resid(
        self, layer: "_LayerEdits", resid: Float[Tensor, "batch pos d_model"]
    ) -> Float[Tensor, "batch pos d_model"]:
        """A decoder layer's output, edited."""
        if self.labels is None:
            return resid
        if layer.needs_resid:
            layer.remember(resid, len(self.labels))
        for edit in layer.on_resid:
            if self._acting.get(edit):
                context = self._context(edit, layer, resid.shape[1], resid_pre=layer.resid_pre)
                resid = edit.apply(resid, context).to(resid.dtype)
        return resid

    @property
    def _all_labels(self) -> StepLabels:
        assert self.labels is not None
        return self.labels

    def _context(
        self,
        edit: Edit,
        layer: "_LayerEdits",
        n_queries: int,
        *,
        sinks: Float[Tensor, "head"] | None = None,
        resid_pre: Float[Tensor, "batch pos d_model"] | None = None,
        length: int | None = None,
    ) -> EditContext:
        labels = self._all_labels
        if length is not None and length < len(labels):
            step, region, previous = labels.step, labels.region, labels.previous
            labels = StepLabels(step[:, :length], region[:, :length], previous[:, :length])
        values = layer.values.transpose(1, 2) if edit.needs_values else None
        return EditContext(
            layer=layer.index,
            n_layers=self.n_layers,
            labels=labels,
            n_queries=n_queries,
            values=None if values is None else values[:, : len(labels)],
            resid=layer.resid if edit.needs_resid else None,
            resid_pre=resid_pre if edit.needs_resid_pre else None,
            sinks=sinks,
            w_o=layer.output_weights,
            record=partial(self._effects.add, self._names[edit], layer.index),
            put_off=partial(self._put_off_count, edit, layer.index),
        )


class _LayerEdits:
    """What one layer's edits are, and what they need to remember of it."""

    def __init__(self, index: int, edits: Sequence[Edit]) -> None:
        mine = [edit for edit in edits if index in edit.layers]
        self.index = index
        self.on_scores = [edit for edit in mine if edit.site == "scores"]
        self.on_z = [edit for edit in mine if edit.site == "z"]
        self.on_resid = [edit for edit in mine if edit.site == "resid_post"]
        self.needs_values = any(edit.needs_values for edit in mine)
        self.needs_resid = any(edit.needs_resid for edit in mine)
        self.needs_resid_pre = any(edit.needs_resid_pre for edit in mine)
        self.attention: Any = None
        self.forget()

    def forget(self) -> None:
        """Begin another batch."""
        self.values: Any = None
        self.resid: Tensor | None = None
        self._past = PastStore()
        self.resid_pre: Tensor | None = None

    def keep(self, rows: Int[Tensor, "row"]) -> None:
        """Go on with these rows only; values come with the next call."""
        self.values = None
        self.resid = None
        self._past.keep(rows)

    def keep_resid_pre(self, _module: nn.Module, args: Any, kwargs: Any) -> None:
        """Keep what the block reads in this pass."""
        self.resid_pre = args[0] if args else kwargs["hidden_states"]

    def remember(self, resid: Float[Tensor, "batch pos d_model"], n_keys: int) -> None:
        """Keep what came before edits, of all positions."""
        self._past.show(resid)
        self.resid = self._past.all(n_keys)

    def output_weights(self) -> Float[Tensor, "head d_head d_model"]:
        """Output projection of the layer's heads."""
        for name in OUTPUT_PROJECTIONS:
            projection = getattr(self.attention, name, None)
            if projection is not None:
                break
        else:
            raise ValueError(
                f"{type(self.attention).__name__} has no output projection that is known "
                f"({', '.join(OUTPUT_PROJECTIONS)})"
            )
        weight = projection.weight
        by_input = weight if type(projection).__name__ == "Conv1D" else weight.T
        return by_input.unflatten(0, (-1, int(self.attention.head_dim)))


def chosen_heads(heads: Sequence[int], n_heads: int, device: torch.device) -> Bool[Tensor, "head"]:
    """True at these heads."""
    chosen = torch.zeros(n_heads, dtype=torch.bool, device=device)
    chosen[list(heads)] = True
    return chosen


def is_projection(edit: Edit) -> TypeGuard[OddsEqualBridge]:
    """Whether an edit is the projection of three groups itself, and no placebo of it."""
    return type(edit) is OddsEqualBridge and edit.placebo is None and edit.bridge != "random"


_current_session: ContextVar[FastSession] = ContextVar("step_saliency_fast_session")


def _registered_attention(
    module: nn.Module,
    query: Float[Tensor, "batch head query d_head"],
    key: Float[Tensor, "batch kv_head key d_head"],
    value: Float[Tensor, "batch kv_head key d_value"],
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Float[Tensor, "batch query head d_value"], None]:
    """Attention with the session's edits, with the arguments of transformers' functions."""
    session = _current_session.get()
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    if session.leaves_alone(layer) and not _beyond_sdpa(options):
        return _sdpa(module, query, key, value, attention_mask, options), None
    call = _Call(module, query, key, value, attention_mask, options)
    return session.attend(call), None


def _sdpa(
    module: nn.Module,
    query: Float[Tensor, "batch head query d_head"],
    key: Float[Tensor, "batch kv_head key d_head"],
    value: Float[Tensor, "batch kv_head key d_value"],
    mask: Tensor | None,
    options: Mapping[str, Any],
) -> Float[Tensor, "batch query head d_value"]:
    """SDPA as transformers calls it; on the CPU, single queries with grouped keys go straight to
    its kernel, which takes them as they are."""
    is_plain = mask is not None and not options.get("dropout")
    if query.shape[2] == 1 and is_plain and query.device.type == "cpu":
        z = scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask,
            scale=options.get("scaling"),
            enable_gqa=query.shape[1] != key.shape[1],
        )
        return z.transpose(1, 2)
    by_transformers: Tensor = sdpa_attention_forward(module, query, key, value, mask, **options)[0]
    return by_transformers


def _beyond_sdpa(options: Mapping[str, Any]) -> bool:
    """Whether attention has a sink or a soft cap, which SDPA does not know."""
    return options.get("s_aux") is not None or options.get("softcap") is not None


@contextmanager
def fast_session(
    model: PreTrainedModel, edits: Sequence[Edit], tokenizer: Any, *, bridge: Any = None
) -> Iterator[FastSession]:
    """Context in which a transformers model runs with edits.

    Args:
        model: transformers model whose attention comes from the registry.
        edits: The edits; there may be none, and the model runs with SDPA where it can.
        tokenizer: Its tokenizer, by which steps are found.
        bridge: The TransformerBridge that the model is inside of, if it is.

    Raises:
        ValueError: the model has its attention from elsewhere, or lacks layers or heads.
    """
    if not getattr(model, "_supports_attention_backend", False):
        raise ValueError(
            f"{type(model).__name__} does not take its attention from transformers' registry; "
            "use method='hooks'"
        )
    session = FastSession(model, edits, tokenizer)
    AttentionInterface.register(REGISTERED_NAME, _registered_attention)
    AttentionMaskInterface.register(REGISTERED_NAME, sdpa_mask)
    with ExitStack() as stack:
        stack.enter_context(attention_implementation(model, REGISTERED_NAME))
        blocks = decoder_layers(model) if bridge is None else list(bridge.blocks)
        if bridge is not None:
            for block in blocks:
                attention = bridged_attention(block)
                methods = {"forward": unbridged_forward(attention)}
                stack.enter_context(replaced_methods(attention, methods))
        for layer, block in zip(session.layers, blocks, strict=True):
            if layer.needs_resid_pre:
                handle = block.register_forward_pre_hook(layer.keep_resid_pre, with_kwargs=True)
                stack.callback(handle.remove)
            if layer.on_resid:
                handle = block.register_forward_hook(_resid_hook(session, layer))
                stack.callback(handle.remove)
        token = _current_session.set(session)
        stack.callback(_current_session.reset, token)
        yield session


def _resid_hook(session: FastSession, layer: "_LayerEdits") -> Callable[..., Any]:
    def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
        is_tuple = isinstance(output, tuple)
        edited = session.edit_resid(layer, output[0] if is_tuple else output)
        return (edited, *output[1:]) if is_tuple else edited

    return hook
