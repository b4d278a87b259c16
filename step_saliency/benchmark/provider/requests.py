"""One response that is asked for, and which requests may be decoded in one call."""

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

from step_saliency.benchmark.provider.frame import Frame
from step_saliency.decoding.continuation import Continuation
from step_saliency.options import Decoding
from step_saliency.storage.described import described
from step_saliency.trace import Trace


@dataclass(frozen=True)
class Group:
    """What requests have in common that one call of `ss.generate` can answer.

    Attributes:
        frame: Texts around their questions.
        decoding: How they are decoded; ``n`` is 1. Seed and length are those of requests that have
            none of their own.
        changes: Fields of the flow, in JSON types.
        model: Fields of the model, in JSON types.
        task: Name of the task; questions of two tasks may have one number.
    """

    frame: Frame
    decoding: Decoding
    changes: tuple[tuple[str, Any], ...]
    model: tuple[tuple[str, Any], ...]
    task: str

    @property
    def digest(self) -> str:
        """Hash of all that the texts depend on, beside question, number and sample.

        How many are decoded together is left out: texts do not depend on it.
        """
        facts = {
            "prefix": self.frame.prefix,
            "suffix": self.frame.suffix,
            "decoding": described(replace(self.decoding, batch_size=1)),
            "changes": dict(self.changes),
            "model": dict(self.model),
            "task": self.task,
        }
        text = json.dumps(facts, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:24]


@dataclass(frozen=True)
class Answer:
    """A response, and what is known of the call that it was decoded in.

    Attributes:
        trace: The response.
        facts: ``seconds`` (share of the call), ``responses`` (of the call) and ``effects`` (of the
            call); empty where the process was ended before the call was over.
        is_kept: Whether it was taken from a store.
    """

    trace: Trace
    facts: Mapping[str, Any]
    is_kept: bool = False


@dataclass(eq=False)
class Request:
    """One response that is asked for.

    Attributes:
        group: What it shares with others.
        question: Text of the question.
        number: What stands for the question in the seeds.
        sample: Which sample of the question it is.
        continued: What the response goes on from, with a length and a seed of its own.
        answer: Where the answer will be.
    """

    group: Group
    question: str
    number: int
    sample: int
    continued: Continuation | None = None
    answer: "Future[Answer]" = field(default_factory=Future)

    @property
    def place(self) -> tuple[int, int]:
        """Number and sample, which tell the responses of one call apart."""
        return self.number, self.sample

    @property
    def seed(self) -> int:
        """Seed of the samples."""
        own = None if self.continued is None else self.continued.seed
        return self.group.decoding.seed if own is None else own

    @property
    def limit(self) -> int:
        """New tokens after which the response is cut."""
        own = None if self.continued is None else self.continued.max_new_tokens
        return self.group.decoding.max_new_tokens if own is None else own
