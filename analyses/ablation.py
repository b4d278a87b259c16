"""What does each part of StepFlow do to accuracy? Halves, layers, strengths, placebos.

Each condition answers the same problems with the same random numbers. With a_cp the accuracy of
condition c on problem p (mean over samples) and b the baseline,

    effect        mean_p a_cp - a_bp, corrected and broken answers counted apart (McNemar)
    against       the same against the condition whose placebo it is
    interaction   mean_p a_both,p - a_oeb,p - a_smi,p + a_bp: more together than the sum?
    trend         mean_p of the slope of a_cp on the strength, the baseline being strength 0, for
                  tau_max and alpha apart: one number for a dose-response that is about linear

Groups (``group``): ``method`` (bridge, momentum, both), ``bands`` (third, half, random, automatic
layers), ``sliding`` (a window of a quarter's width over the depth), ``tau_max`` and ``alpha``
(strengths), ``placebo``. Placebos have the strength of what they stand for and mostly another
dose (``match`` mass); those of the sets ``matched`` and ``draws`` have its dose (``match`` kl),
measured on other problems, and the table ``doses`` (``--n-doses``) says what both did to solutions
that took no part in it. Many draws of one placebo make a distribution, among which the real edit
has its place (table ``draws``). Holm's correction is made within each group. A second outcome is
the teacher-forced loss of the gold solution, which moves where no answer flips; it is held against
the baseline (``losses``) and against the placebos (``loss_placebos``).

``p_equivalent`` is the test that the effect is smaller than `MARGIN`: with a large p and a large
p_equivalent nothing is known.

When it misleads: a band, dose or window that is best of many is best in part by chance; the numbers
here are for comparing, `ss.calibrate` is for choosing. The gold loss asks what an intervention does
to the model on a text that is right, not what it does to one that went wrong.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analyses.instruments.losses import LOSSES, gold_losses
from analyses.material.answers import AnswerSettings, answers, chunks
from analyses.material.comparisons import (
    against,
    answers_against,
    contrast,
    corrected_together,
    with_placebos,
)
from analyses.material.conditions import (
    BASELINE,
    SETS,
    Condition,
    DepthSettings,
    check_depth,
    conditions,
)
from analyses.material.doses import ATTRIBUTES, dose_table, doses
from analyses.material.draws import draw_table
from analyses.material.flows import flow_layers, model_flow
from analyses.material.problems import TASK, Item, read_items
from analyses.running.runner import EDITS, Analysis, Unit, main
from analyses.running.settings import option
from step_saliency.stats.equivalence import equivalence
from step_saliency.stats.multiplicity import with_holm
from step_saliency.stats.problems import mean_table, reduce_to_problems

MARGIN = 0.03
"""Difference in accuracy that counts as none, set before looking."""
LAYERS = ("oeb_layers", "smi_layers")


def ablation(
    model: Any, items: Sequence[Item], some: Sequence[Condition], settings: AnswerSettings
) -> pd.DataFrame:
    """Answers to problems under conditions.

    Args:
        model: The model.
        items: Problems.
        some: Conditions.
        settings: How answers are written.

    Returns:
        One row per condition and answer: columns of `answers`, of `Condition.columns` and
        ``oeb_layers, smi_layers``.
    """
    tables = []
    for condition in some:
        flow = model_flow(model, condition, settings)
        _, frame = answers(model, items, flow, settings)
        tables.append(frame.assign(**condition.columns(), **flow_layers(flow)))
    return pd.concat(tables, ignore_index=True)


def losses(
    model: Any, items: Sequence[Item], some: Sequence[Condition], settings: AnswerSettings
) -> pd.DataFrame:
    """Teacher-forced loss of the gold solutions under conditions; otherwise as `ablation`."""
    tables = []
    for condition in some:
        flow = model_flow(model, condition, settings)
        frame = gold_losses(model, items, flow)
        tables.append(frame.assign(**condition.columns(), **flow_layers(flow)))
    return pd.concat(tables, ignore_index=True)


def effects(values: pd.DataFrame, *, seed: int = 0, **draws: Any) -> pd.DataFrame:
    """Each condition against the baseline, with Holm's correction within its group.

    Args:
        values: From `ablation`.
        seed: Of the draws.
        draws: ``n_resamples``, ``n_permutations`` of `step_saliency.stats.binary.binary_table`.

    Returns:
        Columns of `binary_table` with the condition's, and ``p_equivalent``.
    """
    table = answers_against(values, BASELINE, seed=seed, **draws)
    table = described(table.drop(columns="p_holm"), values)
    return with_holm(table, family=["group"]).merge(_equivalent(values), on="condition")


def described(table: pd.DataFrame, values: pd.DataFrame) -> pd.DataFrame:
    """A table with the columns that say what each condition is, after the condition."""
    known = [name for name in (*ATTRIBUTES, "match", *LAYERS) if name in values]
    about = values[["condition", *known]].drop_duplicates("condition")
    merged = table.merge(about, on="condition", how="left")
    front = ["condition", *known]
    return merged[[*front, *(name for name in table.columns if name != "condition")]]


def _equivalent(values: pd.DataFrame) -> pd.DataFrame:
    keys, accuracy = reduce_to_problems(
        values.assign(_right=values["is_correct"].astype(float)), "_right", by=["condition"]
    )
    names = list(keys["condition"])
    base = accuracy[:, names.index(BASELINE)]
    rows = []
    for name, column in zip(names, accuracy.T, strict=True):
        known = ~np.isnan(column - base)
        if name != BASELINE:
            p = np.nan
            if known.sum() > 1:
                p = equivalence((column - base)[known], margin=MARGIN, bound=1.0).p
            rows.append({"condition": name, "p_equivalent": p, "margin": MARGIN})
    return pd.DataFrame(rows)


def against_placebos(values: pd.DataFrame, *, seed: int = 0, **draws: Any) -> pd.DataFrame:
    """The bridge and momentum against their own placebos, paired; empty without placebos."""
    tables = [
        answers_against(pair, placebo, seed=seed, **draws)
        for placebo, pair in with_placebos(values)
    ]
    return corrected_together(tables, family=["condition"])


def interaction(values: pd.DataFrame, *, seed: int = 0, **draws: Any) -> pd.DataFrame:
    """Whether both together do more than the sum of each alone; empty without all four."""
    weights = {"both": 1.0, "oeb": -1.0, "smi": -1.0, BASELINE: 1.0}
    table = contrast(_accuracies(values), weights, kind="share", seed=seed, **draws)
    return pd.DataFrame() if table is None else table.assign(contrast="interaction")


def trends(values: pd.DataFrame, *, seed: int = 0, **draws: Any) -> pd.DataFrame:
    """Slope of accuracy on each strength, per problem, averaged over problems."""
    tables = []
    for dose, plain in (("tau_max", "oeb"), ("alpha", "smi")):
        rows = values[(values["group"] == dose) | (values["condition"] == plain)]
        doses = {BASELINE: 0.0, **dict(zip(rows["condition"], rows[dose], strict=True))}
        if len(doses) < 3:
            continue
        centred = np.array(list(doses.values())) - np.mean(list(doses.values()))
        weights = dict(zip(doses, centred / (centred**2).sum(), strict=True))
        table = contrast(_accuracies(values), weights, kind="share", seed=seed, **draws)
        if table is not None:
            tables.append(table.assign(contrast="slope", dose=dose))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _accuracies(values: pd.DataFrame) -> pd.DataFrame:
    """Mean over samples: one row a problem, one column a condition."""
    return values.groupby(["problem", "condition"], sort=False)["is_correct"].mean().unstack()


def loss_effects(values: pd.DataFrame, *, seed: int = 0, **draws: Any) -> pd.DataFrame:
    """Gold loss of each condition minus the baseline's, paired; Holm within group and outcome."""
    table = _losses_against(values, BASELINE, seed=seed, **draws)
    table = described(table.drop(columns="p_holm"), values)
    return with_holm(table, family=["group", "outcome"])


def losses_against_placebos(values: pd.DataFrame, *, seed: int = 0, **draws: Any) -> pd.DataFrame:
    """Gold loss of the bridge and momentum minus that of their own placebos, as for accuracy."""
    tables = [
        _losses_against(pair, placebo, seed=seed, **draws)
        for placebo, pair in with_placebos(values)
    ]
    return corrected_together(tables, family=["condition", "outcome"])


def _losses_against(values: pd.DataFrame, reference: str, **draws: Any) -> pd.DataFrame:
    long = values.melt(
        id_vars=["problem", "condition"], value_vars=[*LOSSES], var_name="outcome"
    ).dropna(subset=["value"])
    return against(long, "value", reference, by=["outcome"], **draws)


@dataclass(frozen=True, kw_only=True)
class AblationSettings(DepthSettings, AnswerSettings):
    """Conditions, and of how many problems."""

    conditions: str = option("all", f"{', '.join(SETS)}, or names: a,b,c")
    n_answers: int | None = option(None, "answer only so many of the problems")
    n_losses: int = option(200, "gold losses of so many problems")
    n_doses: int = option(0, "doses on solutions of so many problems", later=True)


def units(settings: AblationSettings) -> list[Unit]:
    """Chunks of problems, condition by condition."""
    n, size = settings.n, settings.chunk
    most = n if settings.n_answers is None else settings.n_answers
    spans = {
        "answers": [(a, min(b, most)) for a, b in chunks(n, size) if a < most],
        "losses": chunks(min(settings.n_losses, n), size),
        "doses": chunks(min(settings.n_doses, n), size),
    }
    return [
        Unit(f"{kind}-{condition.name}-{span[0]:05d}", (kind, span, condition))
        for kind in spans
        for condition in conditions(settings.depth, settings.conditions)
        for span in spans[kind]
    ]


def run_unit(model: Any, unit: Unit, settings: AblationSettings) -> pd.DataFrame:
    """One condition on one chunk. Seeds are the run's: conditions share random numbers."""
    check_depth(model, settings.depth)
    kind, (first, last), condition = unit.payload
    items = read_items(settings)[first:last]
    measure = {"answers": ablation, "losses": losses, "doses": doses}[kind]
    frame = measure(model, items, [condition], settings)
    is_task = settings.data == TASK
    return frame.assign(
        kind=kind,
        level=settings.level if is_task else None,
        family=settings.family if is_task else None,
    )


def summarise(values: pd.DataFrame, settings: AblationSettings) -> Mapping[str, pd.DataFrame]:
    """Effects, contrasts with placebos, interaction, trends, accuracy, gold losses."""
    seed = settings.seed
    answered = values[values["kind"] == "answers"].assign(
        is_correct=lambda rows: rows["is_correct"].astype(bool)
    )
    tables = {"accuracy": _accuracy(answered, seed)}
    if answered["condition"].nunique() > 1:
        tables["summary"] = effects(answered, seed=seed)
        tables["placebos"] = against_placebos(answered, seed=seed)
        contrasts = [interaction(answered, seed=seed), trends(answered, seed=seed)]
        tables["contrasts"] = pd.concat(contrasts, ignore_index=True)
        tables["draws"] = draw_table(answered)
    if (values["kind"] == "doses").any():
        tables["doses"] = dose_table(values[values["kind"] == "doses"])
    forced = values[values["kind"] == "losses"]
    if forced["condition"].nunique() > 1:
        tables["losses"] = loss_effects(forced, seed=seed)
        tables["loss_placebos"] = losses_against_placebos(forced, seed=seed)
    return {name: table for name, table in tables.items() if not table.empty}


def _accuracy(values: pd.DataFrame, seed: int) -> pd.DataFrame:
    means = mean_table(values, "is_correct", by=["condition"], kind="share", seed=seed)
    return described(means, values)


ANALYSIS = Analysis("ablation", AblationSettings, units, run_unit, summarise, checks=EDITS)

if __name__ == "__main__":
    main("analyses.ablation")
