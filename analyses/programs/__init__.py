"""Does StepFlow change how often a model writes a right program?

Small Python problems of our own (`problems`), answered under conditions with the same random
numbers; the program in each answer (`extraction`) is run on its tests in a box (`grading`). With
a_cp the share of right answers of condition c to problem p and b the baseline,

    accuracy   mean_p a_cp by condition, and within each level
    summary    mean_p a_cp - a_bp of edits and of placebos, mean_p a_cp - a_qp of an edit and each
               placebo q of its own; corrected and broken answers counted apart (McNemar). Holm's
               correction is made within each ``question``
    levels     the same differences to the baseline within each level
    outcomes   share of answers that are right, wrong, an error, a timeout or no code
    kinds      accuracy by kind of problem
    forms      share of answers that end by themselves, have a summary, a fence; tokens
    doses      what edits did to the model's own answers to so many problems (``--n-doses``)

Where no box works nothing is answered: a program that a model wrote is run in a box or not at all.

When it misleads: problems of one kind are alike, and the kinds are ours (`problems`). An edit that
makes a model leave out a fence or the end of its thinking lowers accuracy without having touched a
program: read ``outcomes`` and ``forms`` beside it. A program in a fence is as a rule one step of
the summary, however long: edits know nothing of its statements. The prompt
(``analyses/prompts/think_then_program.txt``) is what makes a model that was not trained to think
write thinking and summary at all; accuracies under it are not those of its usual prompt.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pandas as pd

from analyses.material.answers import answers, chunks
from analyses.material.comparisons import answers_against, corrected_together, with_placebos
from analyses.material.conditions import (
    BASELINE,
    Condition,
    check_depth,
    conditions,
)
from analyses.material.doses import dose_table, doses
from analyses.material.flows import flow_layers, model_flow
from analyses.material.problems import Item, read_items
from analyses.programs.asking import ProgramsSettings, asked_of, with_rows
from analyses.programs.extraction import answered_part, program_in
from analyses.programs.grading import RESULTS, grade_all, working_box
from analyses.running.runner import EDITS, Analysis, Unit
from step_saliency.benchmark.sandbox import Bubblewrap
from step_saliency.stats.problems import mean_table
from step_saliency.trace import Region, Trace

FORMS: Mapping[str, Literal["share", "measure"]] = {
    "finished": "share",
    "has_summary": "share",
    "is_fenced": "share",
    "n_tokens": "measure",
}
ALL = "all"


def programs(
    model: Any,
    items: Sequence[Item],
    some: Sequence[Condition],
    settings: ProgramsSettings,
    box: Bubblewrap,
) -> pd.DataFrame:
    """Answers to problems under conditions, graded.

    Args:
        model: The model.
        items: Problems, as rows with tests.
        some: Conditions.
        settings: How answers are written; ``data`` is a file.
        box: Where programs run.

    Returns:
        One row per condition and answer: ``problem, kind, level, sample, result, is_correct,
        failed_test, raised, form, program, n_tokens, finished, has_summary``, columns of
        `Condition.columns` and ``oeb_layers, smi_layers``.
    """
    tables = []
    for condition in some:
        flow = model_flow(model, condition, settings)
        written, frame = answers(model, items, flow, settings)
        owners = [item for item in items for _ in range(settings.samples)]
        graded = graded_answers(owners, written, box)
        kept = frame[["problem", "sample", "n_tokens", "finished"]]
        table = pd.concat([kept, graded], axis=1)
        tables.append(table.assign(**condition.columns(), **flow_layers(flow)))
    return pd.concat(tables, ignore_index=True)


def graded_answers(
    items: Sequence[Item], written: Sequence[Trace], box: Bubblewrap
) -> pd.DataFrame:
    """What is in answers, and whether it is right; one row an answer, see `programs`."""
    asked = [asked_of(item) for item in items]
    found = [
        program_in(answered_part(trace), one.function)
        for trace, one in zip(written, asked, strict=True)
    ]
    grades = grade_all(
        [one.program for one in found],
        [one.function for one in asked],
        [one.tests for one in asked],
        box,
    )
    return pd.DataFrame(
        {
            "kind": [one.kind for one in asked],
            "level": [one.level for one in asked],
            "result": [one.result for one in grades],
            "is_correct": [one.result == "right" for one in grades],
            "failed_test": pd.array([one.failed for one in grades], dtype="Int64"),
            "raised": pd.array([one.raised for one in grades], dtype="string"),
            "form": [one.form for one in found],
            "program": pd.array([_storable(one.program) for one in found], dtype="string"),
            "has_summary": [bool(trace.region_steps(Region.SUMMARY)) for trace in written],
        }
    )


def _storable(program: str | None) -> str | None:
    return None if program is None else program.encode("utf-8", "replace").decode("utf-8")


def units(settings: ProgramsSettings) -> list[Unit]:
    """Chunks of problems, condition by condition."""
    spans = {"answers": settings.spans}
    spans["doses"] = chunks(min(settings.n_doses, settings.n), settings.chunk)
    return [
        Unit(f"{measured}-{condition.name}-{span[0]:05d}", (measured, span, condition))
        for measured in spans
        for condition in conditions(settings.depth, settings.conditions)
        for span in spans[measured]
    ]


def run_unit(model: Any, unit: Unit, settings: ProgramsSettings) -> pd.DataFrame:
    """One condition on one chunk. Seeds are the run's: conditions share random numbers."""
    check_depth(model, settings.depth)
    box = working_box()
    settings = with_rows(settings)
    measured, (first, last), condition = unit.payload
    items = read_items(settings)[first:last]
    if measured == "doses":
        return doses(model, items, [condition], settings).assign(measured=measured)
    return programs(model, items, [condition], settings, box).assign(measured=measured)


def summarise(values: pd.DataFrame, settings: ProgramsSettings) -> Mapping[str, pd.DataFrame]:
    """The tables of the module docstring."""
    seed = settings.seed
    written = values[values["measured"] == "answers"].assign(
        is_correct=lambda rows: rows["is_correct"].astype(bool),
        finished=lambda rows: rows["finished"].astype(bool),
        has_summary=lambda rows: rows["has_summary"].astype(bool),
        is_fenced=lambda rows: rows["form"] == "fenced",
    )
    tables = {
        "accuracy": accuracy(written, seed=seed),
        "summary": effects(written, seed=seed),
        "levels": level_effects(written, seed=seed),
        "outcomes": outcomes(written, seed=seed),
        "kinds": _shares(written, "is_correct", ["condition", "kind"], seed),
        "forms": forms(written, seed=seed),
    }
    if (values["measured"] == "doses").any():
        tables["doses"] = dose_table(values[values["measured"] == "doses"])
    return {name: table for name, table in tables.items() if not table.empty}


def _with_all(written: pd.DataFrame) -> pd.DataFrame:
    """Rows once for all levels together, and once for their own."""
    own = written[written["level"] != ""]
    return pd.concat([written.assign(level=ALL), own], ignore_index=True)


def _shares(written: pd.DataFrame, column: str, by: Sequence[str], seed: int) -> pd.DataFrame:
    return mean_table(written, column, by=[*by], kind="share", seed=seed).drop(columns="p")


def accuracy(written: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """Share of right answers by condition and level (``"all"``: of all levels)."""
    return _shares(_with_all(written), "is_correct", ["condition", "level"], seed)


def outcomes(written: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """Share of answers of each ``result``, by condition and level."""
    rows = _with_all(written)
    by = ["condition", "level"]
    tables = [
        _shares(rows.assign(share=rows["result"] == result), "share", by, seed).assign(
            result=result
        )
        for result in RESULTS
    ]
    return pd.concat(tables, ignore_index=True)


def effects(written: pd.DataFrame, *, seed: int = 0, **draws: Any) -> pd.DataFrame:
    """Edits and placebos against the baseline, edits against their placebos; paired.

    Args:
        written: Answers, from `programs`.
        seed: Of the draws.
        draws: Others of `step_saliency.stats.binary.binary_table`.

    Returns:
        Its rows, with ``question``: ``"edit"`` or ``"placebo"`` (against the baseline) or
        ``"against placebo"``. Empty where the baseline is alone.
    """
    if written["condition"].nunique() < 2:
        return pd.DataFrame()
    plain = answers_against(written, BASELINE, seed=seed, **draws)
    fakes = set(written.loc[written["placebo"].notna(), "condition"])
    is_fake = plain["condition"].isin(fakes)
    tables = [plain.assign(question=is_fake.map({True: "placebo", False: "edit"}))]
    tables += [
        answers_against(pair, placebo, seed=seed, **draws).assign(question="against placebo")
        for placebo, pair in with_placebos(written)
    ]
    return corrected_together(tables, family=["question"])


def level_effects(written: pd.DataFrame, *, seed: int = 0, **draws: Any) -> pd.DataFrame:
    """Conditions against the baseline within each level; empty where there is one level."""
    if written["condition"].nunique() < 2 or written["level"].nunique() < 2:
        return pd.DataFrame()
    return answers_against(written, BASELINE, by=["level"], seed=seed, **draws)


def forms(written: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """What answers look like, by condition: one row per condition and ``outcome``."""
    tables = [
        mean_table(
            written.assign(**{name: written[name].astype(float)}),
            name,
            by=["condition"],
            kind=kind,
            seed=seed,
        ).assign(outcome=name)
        for name, kind in FORMS.items()
    ]
    return pd.concat(tables, ignore_index=True).drop(columns="p")


ANALYSIS = Analysis("programs", ProgramsSettings, units, run_unit, summarise, checks=EDITS)
