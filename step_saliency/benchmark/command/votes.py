"""Self-consistency, counted from the samples of the baseline.

The samples of a problem are taken in order, so many a time; the answer that most of them give is
the answer of the group, the earlier one where two have equally many. So k samples make k // votes
groups, each one row. Samples without an answer have no vote. Programs have no vote either: two that
do the same seldom are the same text.
"""

from collections.abc import Sequence
from itertools import product
from typing import Any

import pandas as pd

from step_saliency.benchmark.command.settings import BenchmarkSettings
from step_saliency.benchmark.conditions import condition_of
from step_saliency.benchmark.suites.suites import suite_of
from step_saliency.tasks.answers import same_answer


def voted_rows(rows: pd.DataFrame, votes: int, *, name: str) -> pd.DataFrame:
    """Rows of a condition in which samples of the baseline vote.

    Args:
        rows: Rows of a run.
        votes: Samples that vote together.
        name: Name of the condition.

    Returns:
        One row a group, with the columns of ``rows``; tokens and seconds are those of all votes.
    """
    baseline = rows[rows["condition"] == "baseline"]
    kinds = baseline["suite"].map(lambda suite: suite_of(suite).kind)
    groups = [
        (samples.iloc[start : start + votes], start // votes)
        for _, samples in baseline[kinds != "code"].groupby(["suite", "problem"], sort=False)
        for start in range(0, len(samples) - votes + 1, votes)
    ]
    voted = [_voted(group, number, name) for group, number in groups]
    return pd.concat(voted, ignore_index=True) if voted else rows.iloc[:0]


def without_votes(settings: BenchmarkSettings) -> list[str]:
    """What is said of suites that cannot have the votes that are asked for."""
    notes = []
    for name, suite in product(settings.conditions, settings.suites):
        votes, samples = condition_of(name).votes, settings.samples_of(suite)
        if votes is not None and suite_of(suite).kind == "code":
            notes.append(f"{suite} has no {name}: programs have no vote")
        elif votes is not None and samples < votes:
            notes.append(
                f"{suite} has no {name}: {votes} samples of a problem vote, and it has {samples} "
                "(--samples)"
            )
    return notes


def _voted(group: pd.DataFrame, number: int, name: str) -> pd.DataFrame:
    winner = _winner(group["answer"].tolist())
    row = group.iloc[[0 if winner is None else winner]].copy()
    sums: dict[str, Any] = {
        column: group[column].sum(min_count=len(group))
        for column in ("input_tokens", "output_tokens", "reasoning_tokens", "seconds")
    }
    stops = group["stop"]
    cut = "stop" if winner is not None or (stops == "stop").any() else stops.iloc[0]
    wrong: dict[str, Any] = (
        {"is_correct": False, "verdict": "unknown", "answer": None} if winner is None else {}
    )
    return row.assign(condition=name, sample=number, stop=cut, **sums, **wrong)


def _winner(answers: Sequence[Any]) -> int | None:
    """Index of the first sample that gives the answer with most votes."""
    counts: dict[int, int] = {}
    for index, answer in enumerate(answers):
        if isinstance(answer, str):
            known = (i for i in counts if same_answer(str(answers[i]), answer))
            first = next(known, index)
            counts[first] = counts.get(first, 0) + 1
    return max(counts, key=lambda i: counts[i]) if counts else None
