"""What a model answers to problems under an intervention, and how that is graded.

Pairing. Whatever the intervention, problem i, sample s draws the random numbers of (seed, i, s),
and greedy answers draw none: conditions differ by the intervention alone, and are compared within
problem and sample.

When it misleads: common random numbers make pairs alike only up to the first token that differs;
after it, the two answers are as good as independent. Many answers that an intervention "corrects"
would have been right in another sample too: compare with a placebo, never with zero.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import pandas as pd

import step_saliency as ss
from analyses.material.problems import Item, SourceSettings, asked, is_right, opened
from analyses.running.settings import Settings, option
from step_saliency.options import Decoding, FormatName, SplitterName
from step_saliency.tasks.grading import split_response
from step_saliency.trace import Region, Trace


@dataclass(frozen=True, kw_only=True)
class AnswerSettings(SourceSettings):
    """Of an analysis in which a model answers problems: what `answers` reads."""

    max_new_tokens: int = 192
    samples: int = option(1, "answers per problem")
    batch_size: int = 250
    chunk: int = option(250, "problems per unit")

    @property
    def decoding(self) -> Decoding:
        """How answers are decoded."""
        return Decoding(
            n=self.samples,
            temperature=self.temperature,
            max_new_tokens=self.max_new_tokens,
            seed=self.seed,
            batch_size=self.batch_size,
            system=self.system or None,
            format=cast(FormatName, self.format),
            splitter=cast(SplitterName, self.splitter),
        )

    @property
    def spans(self) -> list[tuple[int, int]]:
        """First problem of each unit, and the first after it."""
        return chunks(self.n, self.chunk)


@dataclass(frozen=True, kw_only=True)
class ForcedSettings(Settings):
    """Of an analysis with teacher-forced passes over some of the problems."""

    n_maps: int = option(300, "problems of teacher-forced passes")
    map_chunk: int = option(50, "problems per unit of these")

    @property
    def forced_spans(self) -> list[tuple[int, int]]:
        """First problem of each unit of passes, and the first after it."""
        return chunks(min(self.n_maps, self.n), self.map_chunk)


def chunks(count: int, size: int) -> list[tuple[int, int]]:
    """First problem of each unit, and the first after it."""
    return [(start, min(start + size, count)) for start in range(0, count, size)]


def answers(
    model: Any, items: Sequence[Item], flow: Any, settings: AnswerSettings
) -> tuple[list[Trace], pd.DataFrame]:
    """What the model answers, and how that is graded.

    Args:
        model: The model.
        items: Problems.
        flow: Intervention, or None.
        settings: How answers are written.

    Returns:
        Traces, and one row per answer: ``problem, sample, is_correct, answer, error_kind,
        first_wrong_step, n_steps, n_tokens, finished``. Kind and place of the first error are known
        for the bundled task alone.
    """
    written = ss.generate(
        model,
        [asked(item, settings.instruction) for item in items],
        flow=flow,
        tokenizer=opened(model.tokenizer, settings.opening),
        decoding=settings.decoding,
        question_numbers=[item.number for item in items],
        progress=False,
    )
    owners = [item for item in items for _ in range(settings.samples)]
    rows = [_graded(item, trace) for item, trace in zip(owners, written, strict=True)]
    types = {"first_wrong_step": "Int64", "error_kind": "string", "answer": "string"}
    return written, pd.DataFrame(rows).astype(types)


def _graded(item: Item, trace: Trace) -> dict[str, Any]:
    row: dict[str, Any] = {
        "problem": item.id,
        "sample": int(trace.meta["sample"]),
        "n_tokens": int(trace.meta["response_tokens"]),
        "finished": bool(trace.meta["finished"]),
        "answer": None,
        "error_kind": None,
        "first_wrong_step": None,
    }
    if item.problem is None:
        steps = trace.region_steps(Region.THINKING)
        return row | {"is_correct": is_right(item, trace.response), "n_steps": len(steps)}
    grade = item.problem.grade(trace.response)
    return row | {
        "is_correct": grade.is_correct,
        "answer": grade.answer,
        "error_kind": grade.error_kind,
        "first_wrong_step": grade.first_wrong_step,
        "n_steps": len(split_response(trace.response)[0]),
    }


def greedy_answers(model: Any, items: Sequence[Item], settings: AnswerSettings) -> list[Trace]:
    """One greedy answer to each problem, without an intervention."""
    return answers(model, items, None, replace(settings, samples=1, temperature=0.0))[0]
