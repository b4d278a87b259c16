"""Traces to be mapped: one for each response of a row, or for each answer of the model to it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from step_saliency.runs.answers import sample_name
from step_saliency.runs.inputs import Row
from step_saliency.trace import Trace


@dataclass(frozen=True)
class Job:
    """One trace to map.

    Attributes:
        row: The row that it comes from.
        sample: Which answer of the model it is, if there are several.
        trace: The model's answer; None where the row holds the response.
    """

    row: Row
    sample: int | None = None
    trace: Trace | None = None

    @property
    def id(self) -> str:
        """Name of the trace in tables."""
        return self.row.id if self.sample is None else sample_name(self.row, self.sample)


def jobs_of_row(row: Row, answers: Mapping[str, Trace], n: int) -> Iterator[Job]:
    """Traces of a row.

    Args:
        row: The row.
        answers: The model's answers by `sample_name`; one that failed is missing.
        n: Answers per question.
    """
    if row.kind != "problem":
        yield Job(row)
        return
    for sample in range(n):
        name = sample_name(row, sample)
        if name in answers:
            yield Job(row, sample if n > 1 else None, answers[name])
