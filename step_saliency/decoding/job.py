"""What is asked of a model: rows to be decoded, and the trace of each.

A job knows the model, the edits in force and when a response is over. Which loop decodes its rows
is the matter of `step_saliency.decoding.loops`.
"""

import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import nn

from step_saliency.decoding.continuation import Continuation
from step_saliency.decoding.rows import Row, StopRules
from step_saliency.decoding.sampling import Sampler
from step_saliency.intervene.edit import Edit, EditGroup
from step_saliency.intervene.effects import Effects
from step_saliency.models.facts import rotation_switch, stated_context
from step_saliency.models.identity import generation_config_of_origin
from step_saliency.options import Decoding, refuse
from step_saliency.segment.build import prompt_tokens, written_tokens
from step_saliency.segment.formats import check_format
from step_saliency.segment.pieces import TokenPieces, TokenTable
from step_saliency.segment.splitters import make_splitter
from step_saliency.trace import Trace
from step_saliency.vllm.loaded import LoadedEngine

NO_CONTEXT_LIMIT = 2**31


@runtime_checkable
class Intervention(Protocol):
    """Anything that can be attached to a model for a while, such as `StepFlow`."""

    def attached(self, model: Any) -> AbstractContextManager[Any]:
        """Install on the model until the context ends; may yield a `Follower`."""


@dataclass(frozen=True)
class Job:
    """How questions become rows and rows become traces.

    Attributes:
        model: HookedTransformer, TransformerBridge, transformers model or loaded engine.
        tokenizer: Its tokenizer.
        flow: Intervention to decode with.
        decoding: How responses are decoded.
        rules: When they are over.
        effects: Counters of edits, to which those of this job are added.
    """

    model: Any
    tokenizer: Any
    flow: Intervention | None
    decoding: Decoding
    rules: StopRules
    effects: Effects | None

    @classmethod
    def of(
        cls,
        model: Any,
        decoding: Decoding,
        *,
        flow: Intervention | None = None,
        tokenizer: Any = None,
        effects: Effects | None = None,
    ) -> "Job":
        """The job of a call; a model's own tokenizer and stop tokens where none are given.

        Raises:
            ValueError: no tokenizer; something else than a flow, counters, a format or a splitter.
        """
        refuse(
            {
                f"flow={flow!r:.80} is no intervention": not isinstance(flow, Intervention | None),
                f"effects={effects!r:.80} are no Effects": not isinstance(effects, Effects | None),
            }
        )
        check_format(decoding.format)
        make_splitter(decoding.splitter)
        tokenizer = _tokenizer_of(model) if tokenizer is None else tokenizer
        stops = decoding.stop_tokens
        rules = StopRules(
            tokens=frozenset(_stop_tokens(model, tokenizer) if stops is None else stops),
            texts=decoding.endings,
            context=context_of(model),
            table=TokenTable(tokenizer),
            n_tokens=_n_tokens(tokenizer),
        )
        return cls(model, tokenizer, flow, decoding, rules, effects)

    @property
    def sampler(self) -> Sampler:
        """How tokens are drawn."""
        return Sampler(self.decoding.temperature, self.decoding.top_p, self.decoding.top_k)

    @property
    def n_slots(self) -> int:
        """How many responses are decoded together."""
        n_slots = self.decoding.batch_size
        assert n_slots != "auto"  # `slots.with_slots` has chosen
        return n_slots

    @property
    def edits(self) -> tuple[Edit, ...] | None:
        """The flow as edits; None if it is something else."""
        if self.flow is None:
            return ()
        if isinstance(self.flow, EditGroup):
            return tuple(self.flow.edits)
        return (self.flow,) if isinstance(self.flow, Edit) else None

    def rows(
        self,
        questions: Sequence[str],
        numbers: Sequence[int],
        samples: Sequence[int],
        continued: Sequence[Continuation] | None = None,
    ) -> list[Row]:
        """One row per response, before anything of it is decoded.

        Args:
            questions: Their texts.
            numbers: What stands for each in the seeds.
            samples: Number of the first response to each.
            continued: What the responses to each go on from; nothing by default.

        Raises:
            ValueError: a question, with what was written, longer than the context; or something
                written that has ended.
        """
        system, n = self.decoding.system, self.decoding.n
        prompts = [prompt_tokens(self.tokenizer, text, system=system) for text in questions]
        begun = [Continuation()] * len(questions) if continued is None else continued
        starts = [self._start(*of) for of in zip(questions, begun, strict=True)]
        rows = [
            Row(i * n + sample, numbers[i], samples[i] + sample, question, prompts[i], **starts[i])
            for i, question in enumerate(questions)
            for sample in range(n)
        ]
        for row in rows[::n]:
            _check_room(row, self.rules.context, place=row.index // n)
        if not isinstance(self.model, LoadedEngine):
            _keep_rotation(rows, n, rotation_switch(self.model))
        return rows

    def _start(self, question: str, continued: Continuation) -> dict[str, Any]:
        """Fields of the rows that go on from there."""
        seed, limit = continued.seed, continued.max_new_tokens
        return {
            "seed": self.decoding.seed if seed is None else seed,
            "limit": self.decoding.max_new_tokens if limit is None else limit,
            "continued": self._written(question, continued),
        }

    def _written(self, question: str, continued: Continuation) -> list[int]:
        """Tokens of what was written."""
        written, system = continued.written, self.decoding.system
        if isinstance(written, str):
            tokens = written_tokens(self.tokenizer, question, written, system=system)
        else:
            tokens = [int(token) for token in written]
            TokenPieces(self.rules.table).pieces(tokens)  # refuses those that are no tokens
        table, last = self.rules.table, tokens[-1] if tokens else None
        if last is not None and last in self.rules.tokens and table.is_special(last):
            raise ValueError(
                f"the response to {question[:60]!r} ends in {table.literal(last)!r}, which ends "
                "responses: there is nothing to go on from. Leave finished responses out, or take "
                "that token off"
            )
        return tokens

    def trace(self, row: Row) -> Trace:
        """The trace of a row that is done; it gives its tracker away."""
        tracker, row.tracker = row.tracker, None
        return Trace.from_generation(
            self.rules.table,
            row.prompt,
            [*row.continued, *row.response],
            question=row.question,
            format=self.decoding.format,
            splitter=self.decoding.splitter,
            tracker=tracker,
            meta=self._meta(row),
        )

    def _meta(self, row: Row) -> dict[str, Any]:
        """What is known of a response; of its start what is its own."""
        of_start = {"continued_tokens": len(row.continued), "max_new_tokens": row.limit}
        usual = {"continued_tokens": 0, "max_new_tokens": self.decoding.max_new_tokens}
        return {
            "question_index": row.number,
            "sample": row.sample,
            "seed": row.seed,
            "temperature": self.decoding.temperature,
            "finished": row.ended,
            "response_tokens": len(row.response),
            **{name: n for name, n in of_start.items() if n != usual[name]},
        }


def _tokenizer_of(model: Any) -> Any:
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is None:
        raise ValueError(f"{type(model).__name__} has no tokenizer; give one with tokenizer=...")
    return tokenizer


def _n_tokens(tokenizer: Any) -> int | None:
    """Token ids up to the tokenizer's last one; None where it has no vocabulary to ask for."""
    get_vocab = getattr(tokenizer, "get_vocab", None)
    return None if get_vocab is None else 1 + max(get_vocab().values())


def context_of(model: Any) -> int:
    """Longest sequence of the model, in tokens."""
    if isinstance(model, LoadedEngine):
        return model.context
    return stated_context(model) or NO_CONTEXT_LIMIT


def _stop_tokens(model: Any, tokenizer: Any) -> set[int]:
    """End-of-sequence tokens of the tokenizer and, where it is known, of the checkpoint."""
    inner = getattr(model, "original_model", model)
    config = getattr(inner, "generation_config", None)
    if config is None and isinstance(model, nn.Module):
        config = generation_config_of_origin(model)
    declared = getattr(config, "eos_token_id", None)
    stops = {tokenizer.eos_token_id, *(declared if isinstance(declared, list) else [declared])}
    return {int(stop) for stop in stops if stop is not None}


def _keep_rotation(rows: Sequence[Row], n: int, switch: int | None) -> None:
    """Cut rows where all positions would be rotated otherwise (longrope), with a warning.

    Keys that are cached by then would be those of before. What begins beyond is rotated alike from
    its first token on; but one pass rotates all of its rows alike.

    Raises:
        ValueError: rows that begin within that length, and others that begin beyond.
    """
    if switch is None:
        return
    beyond = sum(len(row) > switch for row in rows)
    if 0 < beyond < len(rows):
        raise ValueError(
            f"{beyond} of {len(rows)} responses begin beyond {switch:,} tokens, where this model "
            "rotates all positions otherwise (longrope), and the others do not; ask them in calls "
            "of their own"
        )
    if beyond:
        return
    if any(len(row) + row.limit > switch for row in rows):
        warnings.warn(
            f"responses are cut at {switch:,} tokens, prompt included: beyond, this model rotates "
            "all positions otherwise (longrope), also those whose keys are cached; keep prompt and "
            "max_new_tokens within that",
            stacklevel=4,
        )
    for row in rows:
        _check_room(row, switch, place=row.index // n)
        row.limit = min(row.limit, switch - len(row))


def _check_room(row: Row, context: int, *, place: int) -> None:
    if len(row) >= context:
        begun = f" and {len(row.continued)} that were written" if row.continued else ""
        raise ValueError(
            f"the prompt of question {place} has {len(row.prompt)} tokens{begun} and leaves no "
            f"room in the model's context of {context}"
        )
