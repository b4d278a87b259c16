"""Decoding: questions in, traces out.

Two loops over left-padded batches and a key-value cache:

    hooks   the TransformerLens object itself, so that every hook on it is in force
    fast    the ``generate`` of the transformers model behind it, several times faster; edits act
            inside its attention, see `step_saliency.intervene.fast`

A response depends on its own seed alone: the random numbers of question i, sample s come from
(seed, i, s), whatever else is in the batch. Both loops draw by them in the same way, so a row has
the same text in any batch and by either loop, as long as rounding (different kernels add numbers in
different orders) does not decide between two tokens.
"""

import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

from jaxtyping import Int
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from step_saliency.decoding.fast import decode_fast
from step_saliency.decoding.hooked import decode_with_hooks
from step_saliency.decoding.rows import Row, StopRules, batches
from step_saliency.decoding.sampling import Sampler
from step_saliency.intervene.edit import Edit, EditGroup
from step_saliency.intervene.effects import Effects
from step_saliency.intervene.fast import fast_session
from step_saliency.models.facts import backend_of, n_ctx
from step_saliency.models.identity import origin_of, weights_digest
from step_saliency.models.reference import check_twin, has_twin, is_inside, transformers_twin
from step_saliency.options import check_option
from step_saliency.segment.build import prompt_tokens
from step_saliency.segment.formats import FormatName
from step_saliency.segment.pieces import TokenTable
from step_saliency.segment.splitters import SplitterLike
from step_saliency.storage.manifest import described
from step_saliency.storage.trace_log import TraceLog
from step_saliency.trace import Trace

DecodingMethod = Literal["auto", "hooks", "fast"]

WORTH_READING_AGAIN = 1000
"""Tokens that may be drawn, from which on "auto" reads the weights once more for the fast loop."""
NO_CONTEXT_LIMIT = 2**31

_Rows: TypeAlias = Generator[Row, None, None]


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


def generate(
    model: Any,
    questions: str | Sequence[Any],
    *,
    flow: Intervention | None = None,
    method: DecodingMethod = "auto",
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
    stop_texts: str | Sequence[str] = (),
    question_numbers: Sequence[int] | None = None,
    tokenizer: Any = None,
    save_to: str | os.PathLike[str] | None = None,
    effects: Effects | None = None,
    progress: bool = True,
) -> list[Trace]:
    """Let the model answer questions, step by step.

    Args:
        model: HookedTransformer or TransformerBridge with a tokenizer; or, for the fast loop, a
            transformers model.
        questions: Questions, or problems that have a ``question``; put through the chat template.
        flow: Intervention to decode with.
        method: ``"hooks"`` decodes by the model itself. ``"fast"`` decodes by the transformers
            model that it was made from: read once more and kept as long as the model lives, or the
            one inside a bridge that `load_model` did not make. ``"auto"`` takes the fast loop if
            the model has no hooks, the flow is an `Edit` or an `EditGroup`, the transformers model
            makes the same predictions, and it is there already or a thousand tokens may be drawn.
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
        stop_texts: Texts that end a response as soon as they stand in it; the token that completes
            the text is the last.
        question_numbers: What stands for each question in the seeds, so that a part of a list can
            be answered as the whole would be; 0, 1, ... by default.
        tokenizer: Tokenizer, for a transformers model.
        save_to: JSONL file to which each trace is written when it is done, with its settings
            beside it. A second call with the same settings goes on where the first was broken off,
            in the same batches, so that the texts are those of an unbroken run.
        effects: Counters of edits, to which those of this call are added.
        progress: Show a progress bar.

    Returns:
        ``n`` traces per question, questions in order. ``meta`` holds question_index, sample, seed,
        temperature, response_tokens and finished (False where the response was cut).

    Raises:
        ValueError: no question, a question longer than the context, or an option out of range; a
            method that this model or flow cannot be decoded by; a file of other settings.
    """
    tokenizer = _tokenizer_of(model) if tokenizer is None else tokenizer
    asked = [questions] if isinstance(questions, str) else questions
    texts = [_text(question) for question in asked]
    endings = (stop_texts,) if isinstance(stop_texts, str) else tuple(stop_texts)
    _check_options(texts, n, temperature, top_p, top_k, max_new_tokens, batch_size, endings)
    check_option("method", method, ("auto", "hooks", "fast"))
    numbers = list(range(len(texts)) if question_numbers is None else question_numbers)
    if len(numbers) != len(texts) or len(set(numbers)) < len(numbers):
        raise ValueError(
            f"{len(numbers)} question_numbers for {len(texts)} questions; each needs one of its own"
        )
    stops = _stop_tokens(model, tokenizer) if stop_tokens is None else set(stop_tokens)
    context = _context(model)
    rules = StopRules(frozenset(stops), endings, max_new_tokens, context, TokenTable(tokenizer))
    prompts = [prompt_tokens(tokenizer, text, system=system) for text in texts]
    _check_prompts(prompts, context)
    rows = [
        Row(i * n + sample, numbers[i], sample, texts[i], prompts[i], seed)
        for i in range(len(texts))
        for sample in range(n)
    ]
    sampler = Sampler(temperature, top_p, top_k)
    job = _Job(model, tokenizer, flow, sampler, rules, format, splitter, effects)
    log = None
    if save_to is not None:
        log = TraceLog(save_to, _settings(job, method, seed, system))
    traces = {} if log is None else _known(log, rows)
    open_batches = [
        batch
        for batch in batches(rows, batch_size)
        if any(row.index not in traces for row in batch)
    ]
    if open_batches:
        twin = _choose_twin(job, method, rows)
        with tqdm(
            total=len(rows), initial=len(traces), unit="response", disable=not progress
        ) as bar:
            for batch in open_batches:
                with closing(job.decode(batch, twin)) as done:
                    for row in done:
                        if row.index not in traces:
                            traces[row.index] = job.trace(row)
                            bar.update()
                            if log is not None:
                                log.append(traces[row.index])
    return [traces[row.index] for row in rows]


@dataclass(frozen=True)
class _Job:
    """How rows become traces."""

    model: Any
    tokenizer: Any
    flow: Intervention | None
    sampler: Sampler
    rules: StopRules
    format: FormatName
    splitter: SplitterLike
    effects: Effects | None

    @property
    def edits(self) -> tuple[Edit, ...] | None:
        """The flow as edits; None if it is something else."""
        if self.flow is None:
            return ()
        if isinstance(self.flow, EditGroup):
            return self.flow.edits
        return (self.flow,) if isinstance(self.flow, Edit) else None

    def decode(self, rows: Sequence[Row], twin: PreTrainedModel | None) -> _Rows:
        """Fill the rows of one batch; yields each when it is done."""
        return self._decode_hooked(rows) if twin is None else self._decode_fast(rows, twin)

    def _decode_hooked(self, rows: Sequence[Row]) -> _Rows:
        attached = nullcontext() if self.flow is None else self.flow.attached(self.model)
        with attached as session:
            follower = session if isinstance(session, Follower) else None
            self._announce(rows, follower)
            keep = None if follower is None else follower.keep
            yield from decode_with_hooks(self.model, rows, self.sampler, self.rules, keep)
        self._count(session)

    def _decode_fast(self, rows: Sequence[Row], twin: PreTrainedModel) -> _Rows:
        edits = self.edits
        assert edits is not None
        with self._fast_session(twin, edits) as session:
            self._announce(rows, session)
            yield from decode_fast(twin, rows, self.sampler, self.rules, session)
        self._count(session)

    @contextmanager
    def _fast_session(self, twin: PreTrainedModel, edits: Sequence[Edit]) -> Iterator[Any]:
        if twin is self.model and not edits:
            yield None
            return
        bridge = self.model if is_inside(self.model, twin) else None
        with fast_session(twin, edits, self.tokenizer, bridge=bridge) as session:
            yield session if edits else None

    def _announce(self, rows: Sequence[Row], follower: Follower | None) -> None:
        if follower is not None:
            follower.expect(
                questions=[row.question for row in rows],
                n_prompt=[len(row.prompt) for row in rows],
                format=self.format,
                splitter=self.splitter,
            )

    def _count(self, session: Any) -> None:
        found = getattr(session, "effects", None)
        if self.effects is not None and isinstance(found, Effects):
            self.effects.include(found)

    def trace(self, row: Row) -> Trace:
        """The trace of a row that is done."""
        return Trace.from_generation(
            self.tokenizer,
            row.prompt,
            row.response,
            question=row.question,
            format=self.format,
            splitter=self.splitter,
            meta={
                "question_index": row.number,
                "sample": row.sample,
                "seed": row.seed,
                "temperature": self.sampler.temperature,
                "finished": row.ended,
                "response_tokens": len(row.response),
            },
        )


def _choose_twin(job: _Job, method: DecodingMethod, rows: Sequence[Row]) -> PreTrainedModel | None:
    """The transformers model to decode with; None for the hooks' loop."""
    if method == "hooks":
        if isinstance(job.model, PreTrainedModel):
            raise ValueError(
                f"method='hooks' needs a HookedTransformer or TransformerBridge, got "
                f"{type(job.model).__name__}"
            )
        return None
    few = len(rows) * job.rules.max_new_tokens < WORTH_READING_AGAIN
    if method == "auto" and few and not has_twin(job.model):
        return None
    try:
        return _fast_twin(job, rows[0].prompt)
    except ValueError:
        if method == "fast" or isinstance(job.model, PreTrainedModel):
            raise
        return None


def _fast_twin(job: _Job, prompt: list[int]) -> PreTrainedModel:
    if job.edits is None:
        raise ValueError(
            f"method='fast' takes an Edit or an EditGroup such as StepFlow, but the flow is a "
            f"{type(job.flow).__name__}; use method='hooks'"
        )
    hooked = _hooked_points(job.model)
    if hooked:
        raise ValueError(
            f"method='fast' does not run the model's hooks, but there are some at "
            f"{', '.join(hooked[:3])}; remove them or use method='hooks'"
        )
    twin = transformers_twin(job.model)
    bridge = job.model if is_inside(job.model, twin) else None
    if job.edits or twin is not job.model:
        with fast_session(twin, job.edits, job.tokenizer, bridge=bridge):
            check_twin(job.model, twin, prompt)
    return twin


def _hooked_points(model: Any) -> list[str]:
    """Hook points of the user's hooks."""
    points = getattr(model, "hook_dict", {})
    return [name for name, point in points.items() if point.has_hooks()]


def _settings(job: _Job, method: DecodingMethod, seed: int, system: str | None) -> dict[str, Any]:
    """What the texts depend on, in JSON types."""
    model = job.model
    is_plain = isinstance(model, PreTrainedModel)
    return {
        "model": {
            "class": "transformers" if is_plain else backend_of(model),
            "origin": None if is_plain else described(origin_of(model)),
            "weights": weights_digest(model),
            "dtype": str(next(model.parameters()).dtype),
        },
        "flow": described(job.flow),
        "method": method,
        **described(job.sampler),
        "max_new_tokens": job.rules.max_new_tokens,
        "seed": seed,
        "system": system,
        "format": job.format,
        "splitter": described(job.splitter),
        "stop_tokens": sorted(job.rules.tokens),
        "stop_texts": list(job.rules.texts),
    }


def _known(log: TraceLog, rows: Sequence[Row]) -> dict[int, Trace]:
    """Traces of these rows that the log holds, by index of the row.

    Raises:
        ValueError: it holds an answer to another question of the same number.
    """
    by_name = {(row.number, row.sample): row for row in rows}
    found: dict[int, Trace] = {}
    for trace in log:
        row = by_name.get((trace.meta.get("question_index", -1), trace.meta.get("sample", -1)))
        if row is None:
            continue
        if trace.question != row.question:
            raise ValueError(
                f"{log.path} holds an answer to {trace.question[:60]!r}, but question {row.number} "
                f"is {row.question[:60]!r} now; choose another file"
            )
        found[row.index] = trace
    return found


def _tokenizer_of(model: Any) -> Any:
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is None:
        raise ValueError(f"{type(model).__name__} has no tokenizer; give one with tokenizer=...")
    return tokenizer


def _context(model: Any) -> int:
    """Longest sequence of the model, in tokens."""
    if not isinstance(model, PreTrainedModel):
        return n_ctx(model)
    config = model.config.get_text_config(decoder=True)
    return int(getattr(config, "max_position_embeddings", None) or NO_CONTEXT_LIMIT)


def default_stop_tokens(model: Any) -> set[int]:
    """End-of-sequence tokens of the tokenizer and, where it is known, of the checkpoint."""
    return _stop_tokens(model, model.tokenizer)


def _stop_tokens(model: Any, tokenizer: Any) -> set[int]:
    inner = getattr(model, "original_model", model)
    config = getattr(inner, "generation_config", None)
    declared = getattr(config, "eos_token_id", None)
    stops = {tokenizer.eos_token_id, *(declared if isinstance(declared, list) else [declared])}
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
    stop_texts: Sequence[str],
) -> None:
    wrong = {
        "questions=[] is empty": not texts,
        f"n={n} is below 1": n < 1,
        f"temperature={temperature} is below 0": temperature < 0,
        f"top_p={top_p} is not in (0, 1]": not 0 < top_p <= 1,
        f"top_k={top_k} is below 1": top_k is not None and top_k < 1,
        f"max_new_tokens={max_new_tokens} is below 1": max_new_tokens < 1,
        f"batch_size={batch_size} is below 1": batch_size < 1,
        f"stop_texts={list(stop_texts)} has an empty text": not all(stop_texts),
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
