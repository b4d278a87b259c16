"""Edits on a model for a while: what they need to know of a pass, from the pass itself.

Observers tell what a pass brings: the embedding's input has the token ids; the first block has the
number of queries and keys, and which positions are padding (`first_layer`); a bridge's cache has
the number of earlier positions, which scores do not show where a layer with a sliding window lets
go of keys, nor where a cache of fixed size has places for keys to come. `StepStream` makes labels
of these. Scores that lack such keys are shown to edits with these keys masked, scores of empty
places are not shown. Values and residuals of earlier positions are kept where an edit asks for them
(`observed`).

Hooks are added one by one, after those that are on the model already; hooks that are added inside
of the context run after the edits. On leaving, these hooks alone are removed.

The session has its thread's turn on the model: maps, decoding and sessions of other threads wait,
and passes that they run meanwhile raise RuntimeError. Dropout and autocast are off.

When it misleads: hooks that change values inside of the context come after what is kept of them
here. Passes that start from embeddings have no token ids and are refused, unless they are embedded
by the model itself (as `HookedTransformer.generate` does).
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from step_saliency.intervene.context import (
    AnyEdit,
    EditContext,
    NamedEdit,
    context_for,
    named_edits,
)
from step_saliency.intervene.effects import Effects
from step_saliency.intervene.expected import ExpectedRows, known_traces
from step_saliency.intervene.first_layer import Mask, real_positions, shown_masks
from step_saliency.intervene.labels import StepLabels
from step_saliency.intervene.observed import ObservedLayer
from step_saliency.intervene.seen_caches import SeenCaches
from step_saliency.intervene.sites import SITE_HOOKS, changed
from step_saliency.intervene.stream import StepStream
from step_saliency.models.checks import SOUND
from step_saliency.models.doctor import require_capabilities
from step_saliency.models.facts import backend_of, n_heads, n_layers
from step_saliency.models.hooking import NamedHook, added_hooks, module_hook
from step_saliency.models.interrupts import Change, change, one_change, together
from step_saliency.models.turns import owned, owned_hooks, turn
from step_saliency.models.undisturbed import undisturbed
from step_saliency.options import FormatName, SplitterLike
from step_saliency.segment.online import StepTracker
from step_saliency.trace import Trace

CAPABILITIES = {
    "scores": {"score_edits"},
    "z": {"head_edits", "head_outputs"},
    "resid_post": {"residual_edits"},
}
"""What a model must be able to do for edits at a site."""
_ATTACHED: "WeakKeyDictionary[nn.Module, list[Session]]" = WeakKeyDictionary()


def is_attached_to(model: Any) -> bool:
    """Whether some session's edits are attached to a model."""
    return bool(_ATTACHED.get(model))


@one_change
def followed(exits: ExitStack, model: Any, rows: ExpectedRows) -> None:
    """Context in which edits that are attached already follow responses of a format, cut so.

    Args:
        exits: What takes it back; callers leave it out.
        model: HookedTransformer, TransformerBridge or transformers model.
        rows: Their format and splitter.

    Raises:
        ValueError: the edits were attached for another format or splitter.
    """
    for session in list(_ATTACHED.get(model, [])):
        exits.enter_context(session.following(rows))


class Session(Change["Session"]):
    """Edits that are attached to a model; what `edit.attached(model)` returns and yields.

    Attributes:
        effects: Counters of what the edits did.
        labels: What every position of the last pass is; None before the first.

    Args:
        model: HookedTransformer or TransformerBridge.
        edits: Edits, at one site and layer in the order in which they act.
        trace: The trace that every row is run over, where its steps are known.
        traces: The same for a batch, one trace a row.
        n_prompt: Tokens of the prompt, without padding, of every row or of each.
        format: Format of the responses; by default ``"auto"``, or as `followed` says.
        splitter: How responses are cut; by default ``"sentence"``, or as `followed` says.

    Raises:
        ValueError: a layer, head or hook point that the model lacks; a model that ignores edits
            at a site; ``trace`` and ``traces`` both given; no traces, or no length of a prompt; an
            unknown format or splitter, or one beside traces.
    """

    def __init__(
        self,
        model: Any,
        edits: Sequence[AnyEdit],
        *,
        trace: Trace | None = None,
        traces: Sequence[Trace] | None = None,
        n_prompt: int | Sequence[int] | None = None,
        format: FormatName | None = None,  # noqa: A002
        splitter: SplitterLike | None = None,
    ) -> None:
        super().__init__()
        backend_of(model)
        self.model = model
        self.edits = tuple(edits)
        self.effects = Effects()
        self.labels: StepLabels | None = None
        for edit in self.edits:
            edit.check(n_layers=n_layers(model), n_heads=n_heads(model))
        known = known_traces(trace, traces)
        self._cut: dict[str, Any] = {"format": format, "splitter": splitter}
        if known is not None and self._said:
            raise ValueError(
                f"{' and '.join(self._said)} say how steps are found, but those of trace= and "
                "traces= are known; give one or the other"
            )
        self._stream = StepStream(model.tokenizer, traces=known, n_prompt=n_prompt)
        self._stream.expect(replace(self._stream.expected, **self._said))
        self._waiting: StepStream | None = None
        self._layers = _observed(model, self.edits)
        self._embedded: Int[Tensor, "batch new"] | None = None
        self._n_past: int | None = None
        self._caches = SeenCaches(self)
        self._n_queries: int | None = None
        self._is_over = False

    def enter(self, exits: ExitStack) -> "Session":
        """Attach the edits, once."""
        if self._is_over:
            raise RuntimeError("this session is over; edit.attached(model) makes another one")
        exits.enter_context(turn(self.model, alone="refuses"))
        exits.enter_context(undisturbed(self.model))
        require_capabilities(self.model, {*SOUND, *_needed(self.edits)})
        exits.enter_context(together(*self._changes()))
        sessions = _ATTACHED.setdefault(self.model, [])
        sessions.append(self)
        exits.callback(sessions.remove, self)
        return self

    def _changes(self) -> list[AbstractContextManager[Any]]:
        """What is installed on the model, each as a context."""
        embedding = self.model.embed
        changes: list[AbstractContextManager[Any]] = [
            shown_masks(self.model, self._observe),
            added_hooks(self.model, owned_hooks(self._hooks()), permanent=True),
            _pre_hook(embedding, self._embed),
        ]
        is_bridge = backend_of(self.model) == "bridge"
        inner = self.model.original_model if is_bridge else self.model
        ends = module_hook(inner.register_forward_hook, owned(self._end_pass))
        return [*changes, _pre_hook(inner, self._begin_pass), ends]

    def exited(self, *, raised: bool) -> None:
        """Say what the passes did not bring."""
        self._is_over = True
        self._caches.close()
        if not raised and self._stream.awaits_prompt:
            warnings.warn(
                "fewer tokens were read than n_prompt says, so that all of them counted as prompt",
                stacklevel=3,
            )
        self._layers = {}

    def __repr__(self) -> str:
        return f"Session({', '.join(edit.name for edit in self.edits)})\n{self.effects!r}"

    @property
    def trackers(self) -> list[StepTracker | None]:
        """What has found the steps of each row so far; None where they are known."""
        return self._stream.trackers

    def expect(self, rows: ExpectedRows) -> None:
        """Say what is known of the next batch; see `StepStream.expect`."""
        self._stream.expect(rows)

    @property
    def _said(self) -> dict[str, Any]:
        return {name: value for name, value in self._cut.items() if value is not None}

    @change
    def following(self, rows: ExpectedRows) -> Iterator[None]:
        """Context in which batches that begin have the format and splitter of rows.

        Raises:
            ValueError: the edits were attached for another format or splitter.
        """
        asked = {name: getattr(rows, name) for name in self._cut}
        for name, value in self._said.items():
            if value != asked[name]:
                raise ValueError(
                    f"responses with {name}={asked[name]!r:.80}, but the edits that are attached "
                    f"follow {name}={value!r:.80}: attach them with the same, or give them as flow="
                )
        before = self._stream.expected
        self._stream.expect(replace(before, **asked))
        try:
            yield
        finally:
            self._stream.expect(before)

    def resume(self, tokens: Int[Tensor, "batch pos"]) -> None:
        """The next pass goes on from a cache of these tokens, which was filled outside.

        Right only where the edits would have left these positions alone.

        Args:
            tokens: Token ids without padding.

        Raises:
            ValueError: an edit reads values or residuals of these positions, which are unknown.
        """
        readers = [edit.name for edit in self.edits if edit.needs_values or edit.needs_resid]
        if readers:
            raise ValueError(
                f"{', '.join(readers)} reads values or residuals of earlier positions: fill the "
                "cache inside of the context"
            )
        self._caches.forget()
        real = torch.ones_like(tokens, dtype=torch.bool)
        self.labels = self._stream.advance(tokens, real, n_keys=tokens.shape[1])

    def keep(self, rows: Int[Tensor, "row"] | Sequence[int]) -> None:
        """The batch goes on with these rows only, in this order, as the model's cache does.

        Args:
            rows: Indices of rows of the last pass; one that stands there twice goes on as two.
        """
        kept = torch.as_tensor(rows, dtype=torch.long).tolist()
        self._caches.vouch()
        self._stream.keep(kept)
        for layer in self._layers.values():
            layer.keep(kept)

    def aside(self, rows: ExpectedRows) -> None:
        """The next passes are of another batch, until `join`; the batch so far waits.

        Args:
            rows: What is known of that batch.
        """
        self._caches.forget()
        self._waiting, self._stream = self._stream, self._stream.beside(rows)
        for layer in self._layers.values():
            layer.aside()

    def join(self) -> None:
        """The batch that waits goes on, with the rows of the last passes behind its own."""
        self._caches.forget()
        waiting, self._waiting = self._waiting, None
        assert waiting is not None
        waiting.join(self._stream)
        self._stream = waiting
        for layer in self._layers.values():
            layer.join()

    def trim(self, n_first: int) -> None:
        """The cache has let go of its first positions, which are padding in every row."""
        self._stream.trim(n_first)
        for layer in self._layers.values():
            layer.trim(n_first)

    def _hooks(self) -> list[NamedHook]:
        hooks = [hook for layer in self._layers.values() for hook in layer.hooks()]
        for named in named_edits(self.edits):
            for layer in named.edit.layers:
                function = partial(self._edit, named, self._layers[layer])
                hooks.append((f"blocks.{layer}.{SITE_HOOKS[named.edit.site]}", function))
        return hooks

    def _embed(self, _module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tokens = next((x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)), None)
        if tokens is not None and tokens.ndim == 2 and not tokens.is_floating_point():
            self._embedded = tokens.detach()

    def _begin_pass(self, _module: Any, _args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._n_queries = None
        if backend_of(self.model) == "bridge":
            cache = kwargs.get("past_key_values")
            self._n_past = 0 if cache is None else int(cache.get_seq_length())
        else:
            cache = kwargs.get("past_kv_cache")
        self._caches.see(cache, self._stream.token_ids)

    def _end_pass(self, _module: Any, _args: tuple[Any, ...], output: Any) -> None:
        """What the positions were is not known of any others."""
        self._n_queries = None
        self._caches.made(_cache_in(output))

    def _observe(self, mask: Mask) -> None:
        tokens, self._embedded = self._embedded, None
        if tokens is None:
            raise ValueError(
                "the model ran on embeddings, so that no token ids were seen; run it on tokens"
            )
        n_queries, n_shown = mask.shape[-2:]
        if tokens.shape[1] > n_queries or len(mask) not in (1, len(tokens)):
            raise ValueError(
                f"the model embedded tokens of shape {list(tokens.shape)}, but attends with "
                f"{len(mask)} rows of {n_queries} queries"
            )
        n_keys = n_shown if self._n_past is None else self._n_past + n_queries
        self._caches.check(self._stream.token_ids, n_keys - n_queries)
        real = real_positions(mask, min(n_shown, n_keys) - n_queries).expand(len(tokens), -1)
        real = real[:, n_queries - tokens.shape[1] :]
        self.labels = self._stream.advance(tokens, real, n_keys=n_keys)
        self._n_queries = n_queries

    def _edit(
        self,
        named: NamedEdit,
        layer: ObservedLayer,
        activation: Tensor,
        hook: Any,  # noqa: ARG002
    ) -> Tensor | None:
        edit = named.edit
        context = self._context(named, layer, activation)
        n_lost = len(context.labels) - activation.shape[-1] if edit.site == "scores" else 0
        if n_lost == 0:
            return changed(activation, edit.apply(activation, context))
        whole, rest = _with_keys(activation, n_lost)
        edited = changed(whole, edit.apply(whole, context))
        return None if edited is None else torch.cat([edited[..., max(n_lost, 0) :], rest], dim=-1)

    def _context(self, named: NamedEdit, layer: ObservedLayer, activation: Tensor) -> EditContext:
        edit, n_queries = named.edit, self._n_queries
        shown = len(activation), activation.shape[2 if edit.site == "scores" else 1]
        if self.labels is None or n_queries is None or shown != (len(self.labels.step), n_queries):
            raise ValueError(
                f"layer {layer.index} ran on positions that did not pass the first layer; run the "
                "model from its tokens, or attach the edits outside of this pass"
            )
        self.labels = self.labels.to(activation.device)
        record = partial(self.effects.add, named.name, layer.index)
        return context_for(edit, layer, self.labels, n_queries, record=record)


def _cache_in(output: Any) -> Any:
    """The cache in what a pass returns; None without one of transformers."""
    cache = getattr(output, "past_key_values", None)
    parts = output if isinstance(output, tuple) else [cache]
    return next((part for part in parts if hasattr(part, "get_seq_length")), None)


def _with_keys(
    scores: Float[Tensor, "batch head query shown"], n_lost: int
) -> tuple[Float[Tensor, "batch head query key"], Float[Tensor, "batch head query empty"]]:
    """Scores of all positions, and those of places that are still empty.

    Args:
        scores: Scores that lack the first positions or have empty places behind the last.
        n_lost: How many positions they lack; below 0, how many places are empty.
    """
    if n_lost < 0:
        return scores[..., :n_lost], scores[..., n_lost:]
    masked = torch.finfo(scores.dtype).min
    return torch.nn.functional.pad(scores, (n_lost, 0), value=masked), scores[..., :0]


def _needed(edits: Sequence[AnyEdit]) -> set[str]:
    """What a model must be able to do for these edits."""
    of_sites = set().union(*(CAPABILITIES[edit.site] for edit in edits))
    return of_sites | ({"head_outputs"} if any(edit.needs_values for edit in edits) else set())


def _pre_hook(module: nn.Module, function: Callable[..., Any]) -> AbstractContextManager[None]:
    return module_hook(module.register_forward_pre_hook, owned(function), with_kwargs=True)


def _observed(model: Any, edits: Sequence[AnyEdit]) -> dict[int, ObservedLayer]:
    """The layers in which edits act, by number."""
    numbers = sorted({layer for edit in edits for layer in edit.layers})
    return {
        number: ObservedLayer(model, number, [edit for edit in edits if number in edit.layers])
        for number in numbers
    }
