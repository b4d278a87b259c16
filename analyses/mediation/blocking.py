"""Does an intervention work by the path that it is said to work by?

forced    Teacher-forced passes under interventions: mediators and outcomes
          (`analyses.mediation.mediators`). Path: across problems, does the change in the mediator
          go with the change in the outcome (rank correlation)? Blocked: the bridge acting in one
          region alone; ``diverted``, which takes the same mass from the current part but withholds
          it from the bridge; momentum with the summary's sight of the thinking cut
          (`analyses.instruments.edits`). Placebos: the bridge on as many random keys, momentum in
          random directions.
answers   The same edits while answers are written: accuracy, against none and against placebos.

When it misleads: a mediator that moves with the outcome may be moved by it, or both by something
that differs between problems, such as length; mediators are of the gold solution, margins of the
answer.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import pandas as pd

from analyses.material.answers import AnswerSettings, ForcedSettings
from analyses.material.comparisons import against, contrast, corrected_together
from analyses.material.conditions import BASELINE, DepthSettings
from analyses.material.problems import check_task, read_items
from analyses.mediation.edits import forced_edits
from analyses.mediation.mediators import MEDIATORS, OUTCOMES, forced
from analyses.mediation.written import (
    answer_tables,
    answered,
    part_unit,
    written,
    written_units,
)
from analyses.running.runner import EDITS, Analysis, Unit, main
from step_saliency.models.facts import n_layers
from step_saliency.stats.ranks import rank_correlation_over_problems

CONTRASTS = {
    "bridge total": {"oeb-strong": 1, BASELINE: -1},
    "bridge with its gain diverted": {"oeb-strong-diverted": 1, BASELINE: -1},
    "bridge through the bridge": {"oeb-strong": 1, "oeb-strong-diverted": -1},
    "bridge against random keys": {"oeb-strong": 1, "oeb-strong-random": -1},
    "momentum total": {"smi-strong": 1, BASELINE: -1},
    "momentum against random directions": {"smi-strong": 1, "smi-strong-direction": -1},
    "momentum with the summary cut": {"smi-strong-cut": 1, "cut": -1},
    "momentum through the summary": {
        "smi-strong": 1,
        BASELINE: -1,
        "smi-strong-cut": -1,
        "cut": 1,
    },
}
"""Weights of conditions; names are those of committed tables."""


def path_table(values: pd.DataFrame, *, seed: int = 0, **draws: Any) -> pd.DataFrame:
    """Mediators and outcomes minus the baseline's, paired; Holm over conditions per column."""
    tables = []
    for name in (*MEDIATORS, *OUTCOMES):
        known = values.dropna(subset=[name])
        if known.empty:
            continue
        table = against(known, name, BASELINE, seed=seed, **draws)
        role = "mediator" if name in MEDIATORS else "outcome"
        tables.append(table.assign(variable=name, role=role))
    return pd.concat(tables, ignore_index=True)


def path_correlations(values: pd.DataFrame, *, seed: int = 0, **draws: Any) -> pd.DataFrame:
    """Does the change in a mediator go with the change in an outcome, across problems?

    Spearman's rho over problems; interval and test by problem (each problem is one entry).
    """
    base = values[values["condition"] == BASELINE].set_index("problem")
    columns = [*MEDIATORS, *OUTCOMES]
    moved = values[values["condition"] != BASELINE].copy()
    moved[columns] -= base.loc[moved["problem"], columns].to_numpy()
    tables = []
    for mediator, outcome in product(MEDIATORS, OUTCOMES):
        known = moved.dropna(subset=[mediator, outcome])
        spread = known.groupby("condition")[[mediator, outcome]].std()
        sure = spread.index[(spread > 1e-7).all(axis=1)]
        known = known[known["condition"].isin(sure)]
        if not known.empty:
            table = _across(known, mediator, outcome, seed=seed, **draws)
            tables.append(table.assign(mediator=mediator, outcome=outcome))
    return corrected_together(tables, family=["mediator", "outcome"])


def _across(frame: pd.DataFrame, mediator: str, outcome: str, **draws: Any) -> pd.DataFrame:
    """rho of each condition over problems, with a bootstrap of problems and a permutation test."""
    rows = []
    for name, some in frame.groupby("condition", sort=False):
        if len(some) < 4:
            continue
        rho = rank_correlation_over_problems(
            some[mediator].to_numpy(float), some[outcome].to_numpy(float), **draws
        )
        rows.append({"condition": name, **rho.row()})
    return pd.DataFrame(rows)


def blocking_table(values: pd.DataFrame, *, seed: int = 0, **draws: Any) -> pd.DataFrame:
    """What an intervention does when its path is blocked, and what blocking takes away.

    ``momentum``: (smi - baseline) - (smi with cut - cut), the part of momentum's effect that needs
    the summary's sight of the thinking. ``bridge``: oeb - diverted, the part of the bridge's effect
    that needs the mass to be on the bridge. ``against`` the placebos: oeb - the same mass on as
    many random keys, smi - as long vectors in random directions.
    """
    tables = []
    for outcome in OUTCOMES:
        wide = values.pivot(index="problem", columns="condition", values=outcome)
        for name, weights in CONTRASTS.items():
            table = contrast(wide, weights, kind="measure", seed=seed, **draws)
            if table is not None:
                tables.append(table.assign(contrast=name, outcome=outcome))
    return corrected_together(tables, family=["outcome"])


@dataclass(frozen=True, kw_only=True)
class BlockingSettings(DepthSettings, ForcedSettings, AnswerSettings):
    """Of how many problems."""


def units(settings: BlockingSettings) -> list[Unit]:
    """Chunks of teacher-forced passes, then conditions under which answers are written."""
    check_task(settings, "margins and kinds of error")
    return [*forced_units(settings), *answer_units(settings)]


def forced_units(settings: BlockingSettings) -> list[Unit]:
    """Chunks of teacher-forced passes, each under all edits."""
    return [part_unit("forced", "", span) for span in settings.forced_spans]


def answer_units(settings: BlockingSettings) -> list[Unit]:
    """Conditions under which answers are written, chunk by chunk."""
    return written_units("answers", forced_edits(settings.depth), settings)


def run_unit(model: Any, unit: Unit, settings: BlockingSettings) -> pd.DataFrame:
    """One part on one chunk. Seeds are the run's: conditions share random numbers."""
    part, name, (first, last) = unit.payload
    items = read_items(settings)[first:last]
    edits = forced_edits(n_layers(model))
    if part == "forced":
        frame = forced(model, items, edits, settings)
    else:
        frame = written(model, items, name, edits[name], settings)
    return frame.assign(part=part, level=settings.level, family=settings.family)


def summarise(values: pd.DataFrame, settings: BlockingSettings) -> Mapping[str, pd.DataFrame]:
    """Paths, what blocking takes away, and accuracy."""
    return forced_tables(values[values["part"] == "forced"], seed=settings.seed) | dict(
        written_tables(values[values["part"] == "answers"], seed=settings.seed)
    )


def forced_tables(values: pd.DataFrame, *, seed: int) -> dict[str, pd.DataFrame]:
    """Of teacher-forced passes."""
    return {
        "paths": path_table(values, seed=seed),
        "correlations": path_correlations(values, seed=seed),
        "summary": blocking_table(values, seed=seed),
    }


def written_tables(values: pd.DataFrame, *, seed: int) -> Mapping[str, pd.DataFrame]:
    """Of written answers."""
    return answer_tables(answered(values), "answers", seed=seed)


ANALYSIS = Analysis(
    "mediation.blocking",
    BlockingSettings,
    units,
    run_unit,
    summarise,
    checks=(*EDITS, "pattern_rows"),
)

if __name__ == "__main__":
    main("analyses.mediation.blocking")
