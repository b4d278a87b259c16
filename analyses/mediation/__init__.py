"""Does StepFlow work by what it is said to work by, and do the patterns come before the errors?

Three questions, each a module that runs by itself, and all of them in one folder by
``python -m analyses.mediation``; their parts (column ``part``):

    forced, answers   `analyses.mediation.blocking`: by which path does an intervention work?
    injection         `analyses.mediation.injection`: which errors appear when lock-in is planted?
    prediction        `analyses.mediation.prediction`: does lock-in come before the error?

What is planted, blocked and read lies in `analyses.mediation.edits` and
`analyses.mediation.mediators`; the questions know nothing of each other.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import pandas as pd

from analyses.material.problems import check_task
from analyses.mediation import blocking, injection, prediction
from analyses.mediation.blocking import BlockingSettings
from analyses.mediation.injection import InjectionSettings
from analyses.mediation.prediction import PredictionSettings
from analyses.running.runner import EDITS, MAPS, Analysis, Unit
from analyses.running.settings import option

Part = Literal["forced", "answers", "injection", "prediction"]
PARTS: tuple[Part, ...] = get_args(Part)


@dataclass(frozen=True, kw_only=True)
class MediationSettings(BlockingSettings, PredictionSettings, InjectionSettings):
    """Parts, and of how many problems."""

    parts: tuple[Part, ...] = PARTS
    n_maps: int = option(300, "problems of forced and prediction")


UNITS: Mapping[Part, Callable[[MediationSettings], list[Unit]]] = {
    "forced": blocking.forced_units,
    "answers": blocking.answer_units,
    "injection": injection.units,
    "prediction": prediction.units,
}


def units(settings: MediationSettings) -> list[Unit]:
    """Those of the parts, in their order."""
    check_task(settings, "margins and kinds of error")
    return [unit for part in settings.parts for unit in UNITS[part](settings)]


def run_unit(model: Any, unit: Unit, settings: MediationSettings) -> pd.DataFrame:
    """One part on one chunk."""
    part = unit.payload[0]
    if part == "prediction":
        return prediction.run_unit(model, unit, settings)
    question = injection if part == "injection" else blocking
    return question.run_unit(model, unit, settings)


def summarise(values: pd.DataFrame, settings: MediationSettings) -> Mapping[str, pd.DataFrame]:
    """Tables of the parts that were run."""
    seed = settings.seed
    by_part = {part: values[values["part"] == part] for part in PARTS}
    tables: dict[str, pd.DataFrame] = {}
    if not by_part["forced"].empty:
        tables |= blocking.forced_tables(by_part["forced"], seed=seed)
    if not by_part["prediction"].empty:
        tables |= prediction.summarise(by_part["prediction"], settings)
    if not by_part["answers"].empty:
        tables |= blocking.written_tables(by_part["answers"], seed=seed)
    if not by_part["injection"].empty:
        tables |= injection.summarise(by_part["injection"], settings)
    return {name: table for name, table in tables.items() if not table.empty}


ANALYSIS = Analysis(
    "mediation", MediationSettings, units, run_unit, summarise, checks=(*EDITS, *MAPS)
)
