"""Which kinds of error does StepFlow correct, and which does it cause?

Every answer is in one state: ``correct``, or the kind of its first error (`step_saliency.tasks.
grading`: premise, order, recall, arithmetic, summary, format). For a condition and the baseline's
answer to the same problem and sample,

    rate        P(state = kind), of each condition
    per_step    first errors of a kind / thinking steps up to the first error: a base rate that does
                not grow with the length of the answer
    corrected   P(correct under the condition | the baseline's error is of the kind)
    caused      P(state = kind under the condition | the baseline is correct)
    change      P(state = kind) under the condition minus the baseline, paired within problems
    placebo     corrected minus corrected by a placebo, of the same baseline errors
    flow        corrected for errors of the flow from step to step (premise, order, recall, summary)
                minus corrected for local ones (arithmetic, format)

Answers are made here (``methods`` and placebos), or taken from earlier runs of `ablation` or
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

import numpy as np
import pandas as pd

from analyses.ablation import conditions
from analyses.material.conditions import (
    BASELINE,
    AnswerSettings,
    answers,
    check_depth,
    chunks,
    model_flow,
)
from analyses.material.problems import check_task, read_items
from analyses.running.runner import Analysis, Unit, main
from analyses.running.settings import option
from step_saliency.stats.multiplicity import with_holm
from step_saliency.stats.paired import paired_table
from step_saliency.stats.problems import mean_table
from step_saliency.stats.statistic import bootstrap_means
from step_saliency.tasks.grading import ERROR_KINDS

CORRECT = "correct"
STATES = (CORRECT, *ERROR_KINDS)
FLOW = ("premise", "order", "recall", "summary")
PLACEBO_OF = {"oeb": "oeb-bridge", "smi": "smi-boundaries"}
KEPT = (
    "problem",
    "sample",
    "condition",
    "is_correct",
    "error_kind",
    "first_wrong_step",
    "n_steps",
)
SETTING = ("source", "level", "family", "temperature")


def with_states(values: pd.DataFrame) -> pd.DataFrame:
    """Answers with ``state`` and ``exposure``, the thinking steps up to the first error."""
    state = values["error_kind"].astype("object").where(~values["is_correct"].astype(bool), CORRECT)
    if state.isna().any():
        raise ValueError(
            f"{int(state.isna().sum())} wrong answers have no kind of error; kinds are known for "
            "the bundled task alone"
        )
    first = values["first_wrong_step"].astype("Float64")
    steps = values["n_steps"].astype("Float64")
    exposure = first.fillna(steps).clip(upper=steps - 1) + 1
    return values.assign(state=state.astype(str), exposure=exposure.astype(float).clip(lower=1))


def rates(values: pd.DataFrame, *, seed: int = 0, **draws: Any) -> pd.DataFrame:
    """Share of answers in each state, by condition; and first errors per thinking step."""
    tables = []
    for kind in STATES:
        found = values.assign(value=(values["state"] == kind).astype(float))
        table = mean_table(found, "value", by=["condition"], seed=seed, **draws)
        tables.append(table.assign(state=kind, per="answer"))
    for kind in ERROR_KINDS:
        tables.append(_per_step(values, kind, seed).assign(state=kind, per="step"))
    return pd.concat(tables, ignore_index=True).drop(columns="p")


def _per_step(values: pd.DataFrame, kind: str, seed: int) -> pd.DataFrame:
    rows = []
    hits = values.assign(hit=(values["state"] == kind).astype(float))
    for name, frame in hits.groupby("condition", sort=False):
        sums = frame.groupby("problem", sort=False)[["hit", "exposure"]].sum().to_numpy(float)
        found = bootstrap_means(sums, _share, interval="percentile", seed=seed)
        rows.append({"condition": name, **found.row()})
    return pd.DataFrame(rows)


def _share(means: np.ndarray) -> np.ndarray:
    return means[..., 0] / means[..., 1]


def paired_states(values: pd.DataFrame) -> pd.DataFrame:
    """Each answer beside the baseline's of the same problem and sample, `before` and `after`."""
    base = values[values["condition"] == BASELINE]
    if base.empty:
        raise ValueError(f"there is no condition {BASELINE!r} to compare with")
    before = base[["problem", "sample", "state"]].rename(columns={"state": "before"})
    others = values[values["condition"] != BASELINE].rename(columns={"state": "after"})
    return others.merge(before, on=["problem", "sample"])


def transitions(values: pd.DataFrame, *, seed: int = 0, **draws: Any) -> pd.DataFrame:
    """Rates of ``corrected`` and ``caused`` per kind, with the number of answers they are of.

    Returns:
        Columns ``condition, rate, state, estimate, lower, upper, n`` (problems) and ``n_answers``.
    """
    pairs = paired_states(values)
    tables = []
    for kind in (*ERROR_KINDS, "any"):
        wrong = pairs["before"] != CORRECT
        of_kind = pairs[wrong if kind == "any" else pairs["before"] == kind]
        if not of_kind.empty:
            table = _rate(of_kind, of_kind["after"] == CORRECT, seed, draws)
            tables.append(table.assign(rate="corrected", state=kind))
        right = pairs[pairs["before"] == CORRECT]
        if not right.empty:
            hit = right["after"] != CORRECT if kind == "any" else right["after"] == kind
            tables.append(_rate(right, hit, seed, draws).assign(rate="caused", state=kind))
    return pd.concat(tables, ignore_index=True).drop(columns="p")


def _rate(rows: pd.DataFrame, hit: pd.Series, seed: int, draws: Mapping[str, Any]) -> pd.DataFrame:
    found = rows.assign(value=hit.astype(float))
    table = mean_table(found, "value", by=["condition"], seed=seed, **draws)
    counts = found.groupby("condition", sort=False)["value"].agg(["size", "sum"]).reset_index()
    counts.columns = ["condition", "n_answers", "n_hits"]
    return table.merge(counts, on="condition")


def changes(values: pd.DataFrame, *, seed: int = 0, **draws: Any) -> pd.DataFrame:
    """Change of each state's share from the baseline, paired; Holm over kinds within condition."""
    long = pd.concat(
        [values.assign(share=(values["state"] == kind).astype(float), kind=kind) for kind in STATES]
    )
    table = paired_table(
        long,
        "share",
        condition="condition",
        reference=BASELINE,
        by=["kind"],
        pair=["sample"],
        seed=seed,
        **draws,
    ).drop(columns="p_holm")
    return with_holm(table, family=["condition"]).rename(columns={"kind": "state"})


def against_placebo(values: pd.DataFrame, *, seed: int = 0, **draws: Any) -> pd.DataFrame:
    """Share corrected by the bridge and by momentum minus that by their placebos, per kind."""
    pairs = paired_states(values)
    wrong = pairs[pairs["before"] != CORRECT]
    wrong = wrong.assign(corrected=(wrong["after"] == CORRECT).astype(float))
    long = pd.concat([wrong, wrong.assign(before="any")], ignore_index=True)
    tables = []
    for real, fake in PLACEBO_OF.items():
        chosen = long[long["condition"].isin([real, fake])]
        if chosen["condition"].nunique() == 2:
            table = paired_table(
                chosen,
                "corrected",
                condition="condition",
                reference=fake,
                by=["before"],
                pair=["sample"],
                seed=seed,
                **draws,
            )
            tables.append(table.rename(columns={"before": "state"}))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def flow_against_local(values: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """Are errors of the flow between steps corrected more often than local ones?"""
    pairs = paired_states(values)
    wrong = pairs[pairs["before"] != CORRECT]
    rows = []
    for name, frame in wrong.groupby("condition", sort=False):
        is_flow = frame["before"].isin(FLOW).to_numpy()
        right = (frame["after"] == CORRECT).to_numpy()
        counts = pd.DataFrame(
            {
                "flow_right": is_flow & right,
                "flow": is_flow,
                "local_right": ~is_flow & right,
                "local": ~is_flow,
            }
        ).astype(float)
        sums = counts.groupby(frame["problem"].to_numpy()).sum()
        if not sums["flow"].any() or not sums["local"].any():
            continue
        found = bootstrap_means(
            sums.to_numpy(float), _share_difference, interval="percentile", seed=seed
        )
        total = sums.sum()
        told = {"n_flow": int(total["flow"]), "n_local": int(total["local"])}
        shares = {"flow": total["flow_right"] / total["flow"]}
        shares["local"] = total["local_right"] / total["local"]
        rows.append({"condition": name, **found.row(), **told, **shares})
    return pd.DataFrame(rows)


def _share_difference(means: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return means[..., 0] / means[..., 1] - means[..., 2] / means[..., 3]


@dataclass(frozen=True, kw_only=True)
class ErrorSettings(AnswerSettings):
    """Folders of earlier answers, or the conditions under which answers are written."""

    answers: tuple[str, ...] = option((), "folders of earlier runs")
    conditions: str = option("core", "as for ablation")
    depth: int = option(8, "layers of the model")


def units(settings: ErrorSettings) -> list[Unit]:
    """Earlier answers by folder, or chunks of problems."""
    if settings.answers:
        return [Unit(f"answers-{Path(name).name}", name) for name in settings.answers]
    check_task(settings, "kinds of error")
    return [
        Unit(f"{condition.name}-{start:05d}", ((start, stop), condition))
        for condition in conditions(settings.depth, settings.conditions)
        for start, stop in chunks(settings.n, settings.chunk)
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
    return frame.assign(**setting)[[*SETTING, *KEPT]]


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
    wanted = values.assign(source=folder.name)
    return wanted[[*SETTING, *KEPT]].reset_index(drop=True)


def summarise(values: pd.DataFrame, settings: ErrorSettings) -> Mapping[str, pd.DataFrame]:
    """Rates, transitions, changes, placebos and flow against local, by source."""
    made: dict[str, list[pd.DataFrame]] = {}
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
        for name, function in functions.items():
            table = function(stated, seed=seed)
            told: dict[str, Any] = dict(zip(SETTING, names, strict=True))
            made.setdefault(name, []).append(table.assign(**told))
    joined = {name: pd.concat(tables, ignore_index=True) for name, tables in made.items()}
    return {name: table for name, table in joined.items() if not table.empty}


ANALYSIS = Analysis(
    "error_kinds",
    ErrorSettings,
    units=units,
    run_unit=run_unit,
    summarise=summarise,
    checks=("score_edits", "head_edits"),
    keep_values=False,
)

if __name__ == "__main__":
    main("analyses.error_kinds")
