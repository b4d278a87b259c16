"""Which errors appear when lock-in is planted?

A minimum of mass is held on the current step (`analyses.instruments.edits.LockIn`) in shallow or
deep layers, while answers are written: accuracy, and the states of answers
(`analyses.material.error_states`), against none and against placebos on as many random keys. Those
in ``-kl`` (``--equal-dose``) move the same rows as far, in mean KL(after || before), matched on
other problems; the others have as much mass there, and move most rows further, since random keys
have less to begin with.

When it misleads: planted lock-in acts on all heads of a layer, also on those that never looked far,
so that it is more than what the diagnosis finds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analyses.material.answers import AnswerSettings
from analyses.material.comparisons import corrected_together
from analyses.material.conditions import BASELINE, DepthSettings
from analyses.material.error_states import (
    changes,
    flow_against_local,
    rates,
    summary_hazard,
    transitions,
    with_states,
)
from analyses.material.flows import matching_traces
from analyses.material.problems import check_task, read_items
from analyses.mediation.edits import PLACEBOS, injected_edits, matched
from analyses.mediation.written import answer_tables, answered, written, written_units
from analyses.running.runner import EDITS, Analysis, Unit, main
from analyses.running.settings import option
from step_saliency.models.facts import n_layers


@dataclass(frozen=True, kw_only=True)
class InjectionSettings(DepthSettings, AnswerSettings):
    """How answers are written, and under which placebos."""

    equal_dose: bool = option(False, "placebos of equal dose beside the others", later=True)


def units(settings: InjectionSettings) -> list[Unit]:
    """Conditions, chunk by chunk."""
    check_task(settings, "margins and kinds of error")
    edits = injected_edits(settings.depth)
    if not settings.equal_dose:
        edits = {name: each for name, each in edits.items() if not name.endswith("-kl")}
    return written_units("injection", edits, settings)


def run_unit(model: Any, unit: Unit, settings: InjectionSettings) -> pd.DataFrame:
    """One condition on one chunk. Seeds are the run's: conditions share random numbers."""
    part, name, (first, last) = unit.payload
    items = read_items(settings)[first:last]
    edits = injected_edits(n_layers(model))[name]
    if name.endswith("-kl"):
        traces = matching_traces(model, settings)
        edits = [matched(model, edit, traces) for edit in edits]
    frame = written(model, items, name, edits, settings)
    return frame.assign(part=part, level=settings.level, family=settings.family)


def kinds_against_placebos(stated: pd.DataFrame, *, seed: int = 0, **draws: Any) -> pd.DataFrame:
    """Shares of states under planted lock-in minus those under its placebos of equal dose, paired.

    Args:
        stated: Answers with states, `analyses.material.error_states.with_states`.
        seed: Of the draws.
        draws: As of `changes`.
    """
    present = set(stated["condition"])
    tables = [
        changes(stated[stated["condition"].isin([real, fake])], reference=fake, seed=seed, **draws)
        for real, fakes in PLACEBOS.items()
        for fake in fakes
        if fake.endswith("-kl") and {real, fake} <= present
    ]
    return corrected_together(tables, family=["condition"])


def _compared(present: set[str]) -> list[tuple[str, str]]:
    """Every condition beside none, and planted lock-in beside its placebos of equal dose."""
    beside_none = [(name, BASELINE) for name in sorted(present - {BASELINE})]
    doses = [
        (real, fake) for real, fakes in PLACEBOS.items() for fake in fakes if fake[-3:] == "-kl"
    ]
    return beside_none + [pair for pair in doses if present.issuperset(pair)]


def summarise(values: pd.DataFrame, settings: InjectionSettings) -> Mapping[str, pd.DataFrame]:
    """Accuracy, and what becomes of right answers and of errors."""
    seed, answers = settings.seed, answered(values)
    stated = with_states(answers)
    tables = {
        **answer_tables(answers, "injection", seed=seed),
        "injection_kinds": changes(stated, seed=seed),
        "injection_kind_placebos": kinds_against_placebos(stated, seed=seed),
        "injection_rates": rates(stated, seed=seed),
        "injection_caused": transitions(stated, seed=seed),
        "injection_flow": flow_against_local(stated, seed=seed),
        "injection_hazards": summary_hazard(stated, _compared(set(stated["condition"])), seed=seed),
    }
    return {name: table for name, table in tables.items() if not table.empty}


ANALYSIS = Analysis(
    "mediation.injection", InjectionSettings, units, run_unit, summarise, checks=EDITS
)

if __name__ == "__main__":
    main("analyses.mediation.injection")
