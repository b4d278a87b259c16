"""Reading a transformers model over a cache: some positions at a time, rows coming and going.

When it misleads: what a model's ``generate`` would prepare beside tokens, mask and positions is not
prepared here.
"""

import inspect
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import DynamicCache

from step_saliency.decoding.caches import ColumnCache, column_cache
from step_saliency.decoding.prompts import Prompt, SharedBeginning, worth_reading
from step_saliency.decoding.rows import left_padded
from step_saliency.decoding.token_passes import TokenPasses
from step_saliency.intervene.columns import Columns
from step_saliency.models.hooking import module_hook
from step_saliency.models.turns import owned


@runtime_checkable
class Reader(Protocol):
    """A model over a cache of its own, which loops read batches by.

    Attributes:
        device: Where tokens go.
        can_join: Whether rows may join a batch that was begun; where not, `beside` and `keep` work.
    """

    device: torch.device
    can_join: bool

    def __len__(self) -> int:
        """Positions read, padding included."""

    def read(
        self,
        tokens: Int[Tensor, "batch pos"],
        mask: Int[Tensor, "batch pos"] | None = None,
        *,
        only_last: bool = False,
    ) -> Float[Tensor, "batch out vocab"]:
        """Logits at these positions, or at the last of them.

        Args:
            tokens: What follows the tokens read so far.
            mask: 0 at padding; there is none by default.
            only_last: Whether the last position is enough.
        """

    def read_prompts(self, prompts: Sequence[Sequence[int]]) -> Float[Tensor, "batch vocab"]:
        """Begin a batch of prompts; logits after each."""

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows of the batch only, in this order."""

    def beside(self, batch_size: int) -> "Reader":
        """A reader of another batch by the same model."""

    def join(self, other: Any) -> None:
        """Add the rows of another batch behind these, aligned at the newest position."""

    def trim(self, n_first: int) -> None:
        """Forget the first positions, which are padding in every row."""


class TransformersReader:
    """A transformers model over a cache.

    Args:
        model: The model.
        keep_all: Keep what falls out of a sliding window too, for those who read all positions.
        session: `FastSession` of the edits in force, which hears of tokens before they are read.
        beginning: What prompts of earlier batches began with.
        token_passes: What reads single tokens in the model's stead, where it can.
    """

    def __init__(
        self,
        model: Any,
        *,
        keep_all: bool = False,
        session: Any = None,
        beginning: SharedBeginning | None = None,
        token_passes: TokenPasses | None = None,
    ) -> None:
        self.model = model
        self.keep_all = keep_all
        self.session = session
        self.device = model.device
        cache = column_cache(model.config, keep_all=keep_all)
        self.can_join = cache is not None
        self.cache: Any = DynamicCache(config=model.config) if cache is None else cache
        self._mask = Columns()
        accepted = inspect.signature(model.forward).parameters
        self._only_last = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}
        self._positions = "position_ids" in accepted
        self._beginning = SharedBeginning() if beginning is None else beginning
        self._token_passes = token_passes

    def __len__(self) -> int:
        """Positions read, padding included."""
        return len(self._mask)

    def read(
        self,
        tokens: Int[Tensor, "batch pos"],
        mask: Int[Tensor, "batch pos"] | None = None,
        *,
        only_last: bool = False,
    ) -> Float[Tensor, "batch out vocab"]:
        """As `Reader.read`; where the model cannot tell the last one, at all positions."""
        mask = torch.ones_like(tokens) if mask is None else mask
        if self.session is not None:
            self.session.read(tokens, mask.bool(), n_past=len(self))
        return self._pass(tokens, mask, only_last=only_last)

    def _pass(
        self,
        tokens: Int[Tensor, "batch pos"],
        mask: Int[Tensor, "batch pos"],
        *,
        only_last: bool,
    ) -> Float[Tensor, "batch out vocab"]:
        self._mask.append(mask)
        seen = self._mask.view
        if self._token_passes is not None and tokens.shape[1] == 1 and len(self) > 1:
            positions = _positions(seen, 1)
            logits = self._token_passes.read(tokens, positions, self.cache, seen)
            if logits is not None:
                return logits
        options: dict[str, Any] = {
            "attention_mask": seen,
            "past_key_values": self.cache,
            "use_cache": True,
            **(self._only_last if only_last else {}),
        }
        if self._positions:
            options["position_ids"] = _positions(seen, tokens.shape[1])
        return self._logits(tokens, **options)

    def read_prompts(self, prompts: Sequence[Sequence[int]]) -> Float[Tensor, "batch vocab"]:
        """As `Reader.read_prompts`; what prompts share is read once where nothing acts on it."""
        tokens, mask = left_padded(prompts, self.device)
        if self.session is not None:
            self.session.read(tokens, mask.bool(), n_past=0)
        if not self._shares_prompts:
            return self._pass(tokens, mask, only_last=True)[:, -1]
        if self.session is not None and not self.session.is_idle:
            return self._read_rows(list(map(tuple, prompts)), self.session.n_idle)
        places: dict[Prompt, int] = {}
        rows = [places.setdefault(tuple(prompt), len(places)) for prompt in prompts]
        logits = self._read_rows(list(places))
        if len(places) < len(prompts):
            self._keep_rows(rows)
        return logits[rows]

    @property
    def _shares_prompts(self) -> bool:
        return isinstance(self.cache, ColumnCache) and self._positions

    def _read_rows(
        self, prompts: Sequence[Prompt], most: int | None = None
    ) -> Float[Tensor, "batch vocab"]:
        """Logits after each; of what all begin with, at most so many positions are read once."""
        tokens, mask = left_padded(prompts, self.device)
        n_shared = 0 if self.cache.has_windows else self._read_beginning(prompts, most)
        if n_shared:
            n_later = tokens.shape[1] - n_shared
            lengths = [len(prompt) for prompt in prompts]
            self.cache = self._beginning.in_front_of(lengths, n_later)
            self._mask.append(mask[:, :n_shared])
            tokens, mask = tokens[:, n_shared:], mask[:, n_shared:]
        return self._pass(tokens, mask, only_last=True)[:, -1]

    def _read_beginning(self, prompts: Sequence[Prompt], most: int | None) -> int:
        """Have what the prompts begin with; how many tokens that is."""
        n_known = self._beginning.known(prompts)
        n_known = n_known if most is None else min(n_known, most)
        n_shared = worth_reading(prompts, n_known, most)
        if not n_shared:
            return n_known
        reader = TransformersReader(self.model, keep_all=self.keep_all)
        tokens, mask = left_padded([prompts[0][:n_shared]], self.device)
        with nullcontext() if self.session is None else self.session.unedited():
            reader._pass(tokens, mask, only_last=True)
        self._beginning.take(prompts[0][:n_shared], reader.cache)
        return n_shared

    def _logits(
        self, tokens: Int[Tensor, "batch pos"], **options: Any
    ) -> Float[Tensor, "batch out vocab"]:
        with unembedding_at_once(self.model, tokens.shape[1]):
            output = self.model(tokens, **options)
        self.cache = output.past_key_values
        logits: Float[Tensor, "batch out vocab"] = output.logits
        return logits

    def keep(self, rows: Int[Tensor, "row"] | Sequence[int]) -> None:
        """Go on with these rows of the batch only, in this order."""
        self._keep_rows(rows)

    def _keep_rows(self, rows: Int[Tensor, "row"] | Sequence[int]) -> None:
        kept = torch.as_tensor(rows, dtype=torch.long)
        if isinstance(self.cache, ColumnCache):
            self.cache.keep(kept.tolist())
        else:
            self.cache.batch_select_indices(kept.to(self.device))
        self._mask.keep(kept.tolist())

    def beside(self, batch_size: int) -> "TransformersReader":  # noqa: ARG002
        """A reader of another batch."""
        return TransformersReader(
            self.model,
            keep_all=self.keep_all,
            session=self.session,
            beginning=self._beginning,
            token_passes=self._token_passes,
        )

    def join(self, other: "TransformersReader") -> None:
        """Add the rows of another batch behind these, aligned at the newest position."""
        self.cache.join(other.cache)
        self._mask.join(other._mask)

    def trim(self, n_first: int) -> None:
        """Forget the first positions, which are padding in every row."""
        self.cache.trim(n_first)
        self._mask.trim(n_first)


def unembedding_at_once(model: Any, n_new: int) -> AbstractContextManager[None]:
    """Context in which a transformers model unembeds the last positions of all rows together.

    Without it, torch multiplies what is cut out of longer rows by a copy of the weights for each
    row, which takes longer than the rest of a prompt: it folds rows together only where they lie
    next to each other.

    Args:
        model: A transformers model; nothing is done where it has no output embeddings.
        n_new: Positions of each row in the pass; rows of one lie next to each other as they are.
    """
    head = model.get_output_embeddings() if n_new > 1 else None
    if not isinstance(head, nn.Module):
        return nullcontext()
    dense = owned(lambda _module, args: (args[0].contiguous(), *args[1:]))
    return module_hook(head.register_forward_pre_hook, dense)


def _positions(mask: Int[Tensor, "batch key"], n_new: int) -> Int[Tensor, "batch new"]:
    """Position of each new token in its own row."""
    if n_new == 1:
        return mask.sum(-1, keepdim=True) - 1
    return (mask.cumsum(-1) - 1).clamp(min=0)[:, -n_new:]
