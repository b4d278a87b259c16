"""What is asked of a model: rows to be decoded, and the trace of each.

A job knows the model, the edits in force and when a response is over. Which loop decodes its rows
is the matter of `step_saliency.decoding.loops`.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from step_saliency.decoding.rows import Row, StopRules
from step_saliency.decoding.sampling import Sampler
from step_saliency.intervene.edit import Edit, EditGroup
from step_saliency.intervene.effects import Effects
from step_saliency.models.facts import stated_context
from step_saliency.options import Decoding, refuse
from step_saliency.segment.build import prompt_tokens
from step_saliency.segment.pieces import TokenTable
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
        """The job of a call; a model's own tokenizer and stop tokens where none are given."""
        refuse(
            {
                f"flow={flow!r:.80} is no intervention": not isinstance(flow, Intervention | None),
                f"effects={effects!r:.80} are no Effects": not isinstance(effects, Effects | None),
            }
        )
        tokenizer = _tokenizer_of(model) if tokenizer is None else tokenizer
        stops = decoding.stop_tokens
        rules = StopRules(
            tokens=frozenset(_stop_tokens(model, tokenizer) if stops is None else stops),
            texts=decoding.endings,
            max_new_tokens=decoding.max_new_tokens,
            context=_context(model),
            table=TokenTable(tokenizer),
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
        self, questions: Sequence[str], numbers: Sequence[int], samples: Sequence[int]
    ) -> list[Row]:
        """One row per response, before anything of it is decoded.

        Args:
            questions: Their texts.
            numbers: What stands for each in the seeds.
            samples: Number of the first response to each.

        Raises:
            ValueError: a question longer than the context.
        """
        system, n, seed = self.decoding.system, self.decoding.n, self.decoding.seed
        prompts = [prompt_tokens(self.tokenizer, text, system=system) for text in questions]
        _check_prompts(prompts, self.rules.context)
        return [
            Row(i * n + sample, numbers[i], samples[i] + sample, question, prompts[i], seed)
            for i, question in enumerate(questions)
            for sample in range(n)
        ]

    def trace(self, row: Row) -> Trace:
        """The trace of a row that is done; it gives its tracker away."""
        tracker, row.tracker = row.tracker, None
        return Trace.from_generation(
            self.rules.table,
            row.prompt,
            row.response,
            question=row.question,
            format=self.decoding.format,
            splitter=self.decoding.splitter,
            tracker=tracker,
            meta={
                "question_index": row.number,
                "sample": row.sample,
                "seed": row.seed,
                "temperature": self.decoding.temperature,
                "finished": row.ended,
                "response_tokens": len(row.response),
            },
        )


def _tokenizer_of(model: Any) -> Any:
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is None:
        raise ValueError(f"{type(model).__name__} has no tokenizer; give one with tokenizer=...")
    return tokenizer


def _context(model: Any) -> int:
    """Longest sequence of the model, in tokens."""
    if isinstance(model, LoadedEngine):
        return model.context
    return stated_context(model) or NO_CONTEXT_LIMIT


def _stop_tokens(model: Any, tokenizer: Any) -> set[int]:
    """End-of-sequence tokens of the tokenizer and, where it is known, of the checkpoint."""
    inner = getattr(model, "original_model", model)
    config = getattr(inner, "generation_config", None)
    declared = getattr(config, "eos_token_id", None)
    stops = {tokenizer.eos_token_id, *(declared if isinstance(declared, list) else [declared])}
    return {int(stop) for stop in stops if stop is not None}


def _check_prompts(prompts: Sequence[Sequence[int]], context: int) -> None:
    for i, prompt in enumerate(prompts):
        if len(prompt) >= context:
            raise ValueError(
                f"the prompt of question {i} has {len(prompt)} tokens and leaves no room in the "
                f"model's context of {context}"
            )
