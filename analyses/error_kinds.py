"""Which kinds of error does StepFlow correct, and which does it cause?

The states of answers, and what is made of them, are those of `analyses.material.error_states`;
besides,

    placebo     corrected minus corrected by a placebo, of the same baseline errors

Answers are written here (``methods`` and placebos), or taken from earlier runs of `ablation` or
`compute_matched` (``--answers FOLDER ...``), which keep kind and place of the first error.

When it misleads: ``corrected`` alone is no achievement: at temperature 1 any new sample corrects
many errors, so read it beside a placebo's, beside ``caused``, and beside ``change``. A right
answer after a wrong step counts as correct. Kinds are of the *first* error: an intervention that
moves it hides the later ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analyses.material.answers import AnswerSettings, answers
from analyses.material.comparisons import against
from analyses.material.conditions import BASELINE, DepthSettings, check_depth, conditions
from analyses.material.error_states import (
    CORRECT,
    changes,
    flow_against_local,
    paired_states,
    rates,
    transitions,
    with_states,
)
from analyses.material.flows import model_flow
from analyses.material.problems import check_task, read_items
from analyses.running.runner import EDITS, Analysis, Unit, main
from analyses.running.settings import option

PLACEBO_OF = {"oeb": "oeb-bridge", "smi": "smi-boundaries"}
COLUMNS = (
    "problem",
    "sample",
    "condition",
    "is_correct",
    "error_kind",
    "first_wrong_step",
    "n_steps",
)
SETTING = ("source", "level", "family", "temperature")


def against_placebo(values: pd.DataFrame, *, seed: int = 0, **draws: Any) -> pd.DataFrame:
    """Share corrected by the bridge and by momentum minus that by their placebos, per kind."""
    pairs = paired_states(values)
    wrong = pairs[pairs["before"] != CORRECT]
    wrong = wrong.assign(corrected=(wrong["after"] == CORRECT).astype(float))
    long = pd.concat([wrong, wrong.assign(before="any")], ignore_index=True)
    tables = []
    for real, fake in PLACEBO_OF.items():
        pair = long[long["condition"].isin([real, fake])]
        if pair["condition"].nunique() == 2:
            options = {"by": ["before"], "pair": ["sample"], "seed": seed, **draws}
            table = against(pair, "corrected", fake, kind="share", **options)
            tables.append(table.rename(columns={"before": "state"}))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


@dataclass(frozen=True, kw_only=True)
class ErrorSettings(DepthSettings, AnswerSettings):
    """Folders of earlier answers, or the conditions under which answers are written."""

    answers: tuple[str, ...] = option((), "folders of earlier runs")
    conditions: str = option("core", "as for ablation")


def units(settings: ErrorSettings) -> list[Unit]:
    """Earlier answers by folder, or chunks of problems."""
    if settings.answers:
        return [Unit(f"answers-{Path(name).name}", name) for name in settings.answers]
    check_task(settings, "kinds of error")
    return [
        Unit(f"{condition.name}-{start:05d}", ((start, stop), condition))
        for condition in conditions(settings.depth, settings.conditions)
        for start, stop in settings.spans
    ]


def run_unit(model: Any, unit: Unit, settings: ErrorSettings) -> pd.DataFrame:
    """One folder, or one condition on one chunk."""
    if isinstance(unit.payload, str):
        return read_answers(Path(unit.payload))
    check_depth(model, settings.depth)
    (first, last), condition = unit.payload
    items = read_items(settings)[first:last]
    _, frame = answers(model, items, model_flow(model, condition, settings), settings)
    frame = frame.assign(condition=condition.name, source="error_kinds")
    setting = {name: getattr(settings, name) for name in SETTING[1:]}
    return frame.assign(**setting)[[*SETTING, *COLUMNS]]


def read_answers(folder: Path) -> pd.DataFrame:
    """Single answers that `ablation` or `compute_matched` kept.

    Raises:
        ValueError: the folder has none.
    """
    file = folder / "values.parquet"
    if not file.is_file():
        raise ValueError(f"there is no {file}; finish the run that writes it")
    values = pd.read_parquet(file)
    if "kind" in values:
        values = values[values["kind"] == "answers"]
    if "method" in values:
        values = values[values["method"] == "sample"]
    if "temperature" not in values:
        values = values.assign(temperature=0.0)
    named = values.assign(source=folder.name)
    return named[[*SETTING, *COLUMNS]].reset_index(drop=True)


def summarise(values: pd.DataFrame, settings: ErrorSettings) -> Mapping[str, pd.DataFrame]:
    """Rates, transitions, changes, placebos and flow against local, by source.

    A source of the baseline alone has rates and nothing else.
    """
    tables: dict[str, list[pd.DataFrame]] = {}
    seed = settings.seed
    functions = {
        "rates": rates,
        "summary": transitions,
        "changes": changes,
        "placebos": against_placebo,
        "flow": flow_against_local,
    }
    for names, frame in values.groupby([*SETTING], dropna=False, sort=False):
        stated = with_states(frame.assign(sample=frame["sample"].astype(int)))
        is_alone = (stated["condition"] == BASELINE).all()
        for name, function in functions.items():
            if is_alone and name != "rates":
                continue
            table = function(stated, seed=seed)
            setting: dict[str, Any] = dict(zip(SETTING, names, strict=True))
            tables.setdefault(name, []).append(table.assign(**setting))
    joined = {name: pd.concat(some, ignore_index=True) for name, some in tables.items()}
    return {name: table for name, table in joined.items() if not table.empty}


ANALYSIS = Analysis(
    "error_kinds", ErrorSettings, units, run_unit, summarise, checks=EDITS, keep_values=False
)

if __name__ == "__main__":
    main("analyses.error_kinds")
