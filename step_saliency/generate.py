"""Decoding: questions in, traces out.

One loop serves both model classes: left-padded batches, a key-value cache, one forward pass of the
TransformerLens object itself per token, so that every hook on it is in force. A sample depends on
its own seed alone: the random numbers of question i, sample s come from (seed, i, s), whatever else
is in the batch. Rows that have ended leave the batch.
"""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from step_saliency.models.facts import backend_of, device_of, n_ctx, n_layers
from step_saliency.segment.build import prompt_tokens
from step_saliency.segment.formats import FormatName
from step_saliency.segment.splitters import SplitterLike
from step_saliency.trace import Trace


@runtime_checkable
class Intervention(Protocol):
    """Anything that can be attached to a model for a while, such as `StepFlow`."""

    def attached(self, model: Any) -> AbstractContextManager[Any]:
        """Install on the model until the context ends; may yield a `Follower`."""


@runtime_checkable
class Follower(Protocol):
    """What an intervention yields if it wants to know which rows are decoded."""

    def expect(
        self,
        *,
        questions: Sequence[str] | None = None,
        n_prompt: int | Sequence[int] | None = None,
        format: FormatName = "auto",  # noqa: A002
        splitter: SplitterLike = "sentence",
    ) -> None:
        """Hear what the rows of the next batch are."""

    def keep(self, rows: Int[Tensor, "row"] | Sequence[int]) -> None:
        """Hear that the batch goes on with these rows only."""


@dataclass(eq=False)
class _Row:
    """One response in the making."""

    index: int
    prompt: list[int]
    uniforms: Float[np.ndarray, "pos"]
    response: list[int] = field(default_factory=list)
    ended: bool = False


def generate(
    model: Any,
    questions: str | Sequence[Any],
    *,
    flow: Intervention | None = None,
    n: int = 1,
    temperature: float | int = 0.6,
    top_p: float | int = 1.0,
    top_k: int | None = None,
    max_new_tokens: int = 2048,
    seed: int = 0,
    batch_size: int = 64,
    system: str | None = None,
    format: FormatName = "auto",  # noqa: A002
    splitter: SplitterLike = "sentence",
    stop_tokens: Sequence[int] | None = None,
    question_numbers: Sequence[int] | None = None,
    progress: bool = True,
) -> list[Trace]:
    """Let the model answer questions, step by step.

    Args:
        model: HookedTransformer or TransformerBridge with a tokenizer.
        questions: Questions, or problems that have a ``question``; put through the chat template.
        flow: Intervention to decode with.
        n: Responses per question.
        temperature: Of the softmax; 0 decodes greedily.
        top_p: Sample from the smallest set of tokens with this share of the probability.
        top_k: Sample from this many most probable tokens.
        max_new_tokens: Tokens after which a response is cut, if the context does not end before.
        seed: Seed of all samples.
        batch_size: Responses decoded together.
        system: System prompt.
        format: Format of the responses, see `Trace.from_text`.
        splitter: How responses are cut into steps.
        stop_tokens: Token ids that end a response; by default the model's own.
        question_numbers: What stands for each question in the seeds, so that a part of a list can
            be answered as the whole would be; 0, 1, ... by default.
        progress: Show a progress bar.

    Returns:
        ``n`` traces per question, questions in order. ``meta`` holds question_index, sample, seed,
        temperature, response_tokens and finished (False where the response was cut).

    Raises:
        ValueError: no question, a question longer than the context, or an option out of range.
    """
    asked = [questions] if isinstance(questions, str) else questions
    texts = [_text(question) for question in asked]
    _check_options(texts, n, temperature, top_p, top_k, max_new_tokens, batch_size)
    prompts = [prompt_tokens(model.tokenizer, text, system=system) for text in texts]
    _check_prompts(prompts, n_ctx(model))
    numbers = list(range(len(texts)) if question_numbers is None else question_numbers)
    if len(numbers) != len(texts):
        raise ValueError(f"{len(numbers)} question_numbers for {len(texts)} questions")
    stops = frozenset(default_stop_tokens(model) if stop_tokens is None else stop_tokens)
    rows = [
        _Row(i * n + sample, prompts[i], _uniforms(max_new_tokens, seed, numbers[i], sample))
        for i in range(len(texts))
        for sample in range(n)
    ]
    attached = flow.attached if flow is not None else lambda _: nullcontext()
    choose = _Sampler(temperature, top_p, top_k)
    with tqdm(total=len(rows), unit="response", disable=not progress) as bar:
        for batch in _batches(rows, batch_size):
            with torch.no_grad(), attached(model) as session:
                follower = session if isinstance(session, Follower) else None
                if follower is not None:
                    follower.expect(
                        questions=[texts[row.index // n] for row in batch],
                        n_prompt=[len(row.prompt) for row in batch],
                        format=format,
                        splitter=splitter,
                    )
                for _ in _decode(model, batch, choose, stops, max_new_tokens, follower):
                    bar.update()
    return [
        Trace.from_generation(
            model.tokenizer,
            row.prompt,
            row.response,
            question=texts[row.index // n],
            format=format,
            splitter=splitter,
            meta={
                "question_index": numbers[row.index // n],
                "sample": row.index % n,
                "seed": seed,
                "temperature": temperature,
                "finished": row.ended,
                "response_tokens": len(row.response),
            },
        )
        for row in rows
    ]


def default_stop_tokens(model: Any) -> set[int]:
    """End-of-sequence tokens of the tokenizer and, where it is known, of the checkpoint."""
    stops = {model.tokenizer.eos_token_id}
    if backend_of(model) == "bridge":
        config = getattr(model.original_model, "generation_config", None)
        declared = getattr(config, "eos_token_id", None)
        stops |= set(declared) if isinstance(declared, list) else {declared}
    return {int(stop) for stop in stops if stop is not None}


def _text(question: Any) -> str:
    text = question if isinstance(question, str) else getattr(question, "question", None)
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{question!r:.80} is no question; a text or a problem is needed")
    return text


def _check_options(
    texts: Sequence[str],
    n: int,
    temperature: float | int,
    top_p: float | int,
    top_k: int | None,
    max_new_tokens: int,
    batch_size: int,
) -> None:
    wrong = {
        "questions=[] is empty": not texts,
        f"n={n} is below 1": n < 1,
        f"temperature={temperature} is below 0": temperature < 0,
        f"top_p={top_p} is not in (0, 1]": not 0 < top_p <= 1,
        f"top_k={top_k} is below 1": top_k is not None and top_k < 1,
        f"max_new_tokens={max_new_tokens} is below 1": max_new_tokens < 1,
        f"batch_size={batch_size} is below 1": batch_size < 1,
    }
    found = [what for what, is_wrong in wrong.items() if is_wrong]
    if found:
        raise ValueError("; ".join(found))


def _check_prompts(prompts: Sequence[Sequence[int]], context: int) -> None:
    for i, prompt in enumerate(prompts):
        if len(prompt) >= context:
            raise ValueError(
                f"the prompt of question {i} has {len(prompt)} tokens and leaves no room in the "
                f"model's context of {context}"
            )


def _uniforms(count: int, *seeds: int) -> Float[np.ndarray, "pos"]:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seeds))).random(count)


def _batches(rows: Sequence[_Row], size: int) -> Iterator[list[_Row]]:
    """Rows of similar prompt length together, so that little is padding."""
    ordered = sorted(rows, key=lambda row: -len(row.prompt))
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]


def _decode(
    model: Any,
    rows: Sequence[_Row],
    choose: "_Sampler",
    stops: frozenset[int],
    max_new_tokens: int,
    follower: Follower | None = None,
) -> Iterator[_Row]:
    """Fill the rows' responses; yields each row when it is done."""
    live = list(rows)
    decoder = _decoder(model, len(live))
    tokens, mask = _left_padded([row.prompt for row in live], device_of(model))
    for position in range(max_new_tokens):
        logits = decoder.next_logits(tokens, mask)
        if not logits.isfinite().any(-1).all() or logits.isnan().any():
            raise ValueError(f"the model's logits are not finite at response token {position}")
        chosen = choose(logits, [row.uniforms[position] for row in live])
        drawn = zip(live, chosen.tolist(), strict=True)
        done = [_append(row, token, stops, n_ctx(model)) for row, token in drawn]
        if position == max_new_tokens - 1:
            done = [True] * len(live)
        yield from (row for row, is_done in zip(live, done, strict=True) if is_done)
        staying = [i for i, is_done in enumerate(done) if not is_done]
        if not staying:
            return
        if len(staying) < len(live):
            live = [live[i] for i in staying]
            decoder.keep(torch.tensor(staying, device=chosen.device))
            if follower is not None:
                follower.keep(staying)
            chosen = chosen[staying]
        tokens, mask = chosen.unsqueeze(-1), torch.ones_like(chosen).unsqueeze(-1)


def _append(row: _Row, token: int, stops: frozenset[int], context: int) -> bool:
    """Add a token; whether the response is over."""
    row.response.append(token)
    row.ended = token in stops
    return row.ended or len(row.prompt) + len(row.response) >= context


def _left_padded(
    prompts: Sequence[Sequence[int]], device: torch.device
) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"]]:
    """Prompts of several lengths as one batch, and 1 where it is no padding."""
    longest = max(len(prompt) for prompt in prompts)
    tokens = [[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(tokens, device=device), torch.tensor(mask, device=device)


@dataclass(frozen=True)
class _Sampler:
    """Next tokens from logits, one uniform number per row."""

    temperature: float | int
    top_p: float | int
    top_k: int | None

    def __call__(
        self, logits: Float[Tensor, "batch vocab"], uniforms: Sequence[float]
    ) -> Int[Tensor, "batch"]:
        if self.temperature == 0:
            return logits.argmax(-1)
        kept = self._keep((logits.double() / self.temperature).softmax(-1))
        cumulative = kept.cumsum(-1)
        draws = torch.tensor(uniforms, device=logits.device, dtype=cumulative.dtype)
        levels = draws.unsqueeze(-1) * cumulative[:, -1:]
        return torch.searchsorted(cumulative, levels, right=True).squeeze(-1)

    def _keep(self, probabilities: Float[Tensor, "batch vocab"]) -> Float[Tensor, "batch vocab"]:
        """Zero where top_p or top_k leave a token out; rows need not sum to one."""
        kept = probabilities
        if self.top_k is not None and self.top_k < kept.shape[-1]:
            least = kept.topk(self.top_k, dim=-1).values[:, -1:]
            kept = kept.masked_fill(kept < least, 0)
        if self.top_p < 1:
            ordered, order = torch.sort(kept / kept.sum(-1, keepdim=True), dim=-1, descending=True)
            beyond = ordered.cumsum(-1) - ordered >= self.top_p
            kept = kept.masked_fill(beyond.scatter(-1, order, beyond), 0)
        return kept


def _decoder(model: Any, batch_size: int) -> "_HookedDecoder | _BridgeDecoder":
    if backend_of(model) == "hooked":
        return _HookedDecoder(model, batch_size)
    return _BridgeDecoder(model)


class _HookedDecoder:
    """Cached decoding with a HookedTransformer; only the last position is unembedded."""

    def __init__(self, model: Any, batch_size: int) -> None:
        from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

        self.model = model
        self.cache = TransformerLensKeyValueCache.init_cache(
            model.cfg, device_of(model), batch_size
        )

    def next_logits(
        self, tokens: Int[Tensor, "batch pos"], mask: Int[Tensor, "batch pos"]
    ) -> Float[Tensor, "batch vocab"]:
        resid = self.model(
            tokens,
            past_kv_cache=self.cache,
            attention_mask=mask,
            stop_at_layer=n_layers(self.model),
        )[:, -1:]
        if self.model.cfg.normalization_type is not None:
            resid = self.model.ln_final(resid)
        logits = self.model.unembed(resid)[:, -1]
        cap = self.model.cfg.output_logits_soft_cap
        return cap * (logits / cap).tanh() if cap > 0 else logits

    def keep(self, rows: Int[Tensor, "row"]) -> None:
        for entry in self.cache.entries:
            entry.past_keys = entry.past_keys[rows]
            entry.past_values = entry.past_values[rows]
        self.cache.previous_attention_mask = self.cache.previous_attention_mask[rows]


class _BridgeDecoder:
    """Cached decoding with a TransformerBridge, over the cache of transformers."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.cache: Any = None
        self.mask: Int[Tensor, "batch pos"] | None = None
        accepted = inspect.signature(model.original_model.forward).parameters
        self.options = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}

    def next_logits(
        self, tokens: Int[Tensor, "batch pos"], mask: Int[Tensor, "batch pos"]
    ) -> Float[Tensor, "batch vocab"]:
        self.mask = mask if self.mask is None else torch.cat([self.mask, mask], dim=-1)
        positions = (self.mask.cumsum(-1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
        logits, self.cache = self.model(
            tokens,
            return_type="logits_and_cache",
            attention_mask=self.mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            **self.options,
        )
        return logits[:, -1]

    def keep(self, rows: Int[Tensor, "row"]) -> None:
        assert self.mask is not None
        self.cache.batch_select_indices(rows)
        self.mask = self.mask[rows]
