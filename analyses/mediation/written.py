"""Accuracy of answers written under edits, against none and against placebos."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from analyses.instruments.forced import group_of
from analyses.material.answers import AnswerSettings, answers
from analyses.material.comparisons import answers_against, corrected_together
from analyses.material.conditions import BASELINE
from analyses.material.problems import Item
from analyses.mediation.edits import PLACEBOS
from analyses.running.workers import Unit
from step_saliency.intervene import Edit


def part_unit(part: str, name: str, span: tuple[int, int]) -> Unit:
    """A chunk of problems of one part, under one condition or, without a name, under all."""
    return Unit("-".join(filter(None, (part, name, f"{span[0]:05d}"))), (part, name, span))


def written_units(part: str, names: Iterable[str], settings: AnswerSettings) -> list[Unit]:
    """Conditions under which answers are written, chunk by chunk."""
    return [part_unit(part, name, span) for name in names for span in settings.spans]


def written(
    model: Any, items: Sequence[Item], name: str, edits: Sequence[Edit], settings: AnswerSettings
) -> pd.DataFrame:
    """Answers under one condition."""
    return answers(model, items, group_of(edits), settings)[1].assign(condition=name)


def answered(values: pd.DataFrame) -> pd.DataFrame:
    """Answers with types that hold no missing values."""
    return values.astype({"is_correct": bool, "sample": int})


def answer_tables(values: pd.DataFrame, part: str, *, seed: int) -> Mapping[str, pd.DataFrame]:
    """Accuracy against the baseline, and against the placebos where there are any."""
    placebos = against_placebos(values, seed=seed)
    accuracy = {f"{part}_accuracy": answers_against(values, BASELINE, seed=seed)}
    return accuracy if placebos.empty else {**accuracy, f"{part}_placebos": placebos}


def against_placebos(values: pd.DataFrame, *, seed: int = 0, **draws: Any) -> pd.DataFrame:
    """Accuracy under interventions minus that under their placebos, paired; Holm over all."""
    present = set(values["condition"])
    pairs = [(real, fake) for real, fakes in PLACEBOS.items() for fake in fakes]
    tables = [
        answers_against(values[values["condition"].isin(pair)], pair[1], seed=seed, **draws)
        for pair in pairs
        if set(pair) <= present
    ]
    return corrected_together(tables)
