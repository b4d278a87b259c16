"""Does an edit that begins just before the first error lead back to a right answer?

A wrong greedy answer is cut right before its first wrong step, and the model goes on from there
several times, plain, under StepFlow and under a placebo of its dose
(`analyses.material.continuations`). With y_pcs whether continuation s of the answer to problem p
is right under condition c,

    accuracy     mean_p mean_s y_pcs
    summary      mean_p mean_s (y_pcs - y_pc's), c' being the baseline, or the placebo of c

paired by random numbers and tested over problems. By ``place``: ``thinking`` where a thinking step
is the first wrong one; ``summary`` where none is, so that the answer is cut behind its last
thinking step; ``any`` together. Holm's correction takes the rows of one place and kind of contrast
together. The first wrong step is found by the task's grader or by a worked solution
(`analyses.material.wrong_steps`). Under an edit the steps that were kept count as thinking, as if
they had been written under it: only their words are those of the plain answer.

An answer that is cut off is wrong, whatever stands in it, a continuation too.

The first ``n_errors`` wrong answers in the order of the problems are taken, whoever computes them
(a unit goes on from no more than so many of its own). Those that are wrong but have no place are
left out and counted (table ``states``): they have no thinking, or never end it with all steps
right, or steps that the grader cuts otherwise, or a worked solution that computes nothing.

When it misleads: the baseline's continuations are right now and then as well, since they are drawn
and the answer was the greedy one: read the contrasts. Where the rule finds the wrong step too late,
the error is among the words that are kept; where it finds it too early, a part is written anew that
was in order. A model that no longer needs the edit at the error may have needed it before.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from analyses.material.answers import answers
from analyses.material.comparisons import answers_against, corrected_together, with_placebos
from analyses.material.conditions import (
    BASELINE,
    SETS,
    Condition,
    DepthSettings,
    check_depth,
    conditions,
)
from analyses.material.continuations import (
    Fork,
    ForkSettings,
    beginnings,
    check_greedy,
    continuations,
    ends_right,
)
from analyses.material.flows import flow_layers, model_flow
from analyses.material.problems import Item, read_items
from analyses.material.wrong_steps import RULE_HELP, RuleName, check_rule, first_wrong, is_told
from analyses.running.runner import EDITS, Analysis, Unit, main
from analyses.running.settings import option
from step_saliency.stats.problems import mean_table
from step_saliency.trace import Region, Trace

THINKING, SUMMARY, ANY = "thinking", "summary", "any"
GREEDY, FORKED = "greedy", "forked"
_WHOLE = ("first_wrong_step", "kept_steps", "kept_tokens", "sample")


@dataclass(frozen=True, kw_only=True)
class ForkPointSettings(DepthSettings, ForkSettings):
    """Under which conditions, of how many wrong answers, and how these are found."""

    chunk: int = 50
    conditions: str = option("both,both-layers-kl", f"{', '.join(SETS)}, or names: a,b,c")
    n_errors: int = option(100, "wrong answers, the first of them in the order of the problems")
    continuations: int = option(8, "continuations of each wrong answer under each condition")
    rule: RuleName = option("grader", RULE_HELP)


def fork_points(
    model: Any, items: Sequence[Item], some: Sequence[Condition], settings: ForkPointSettings
) -> pd.DataFrame:
    """Greedy answers to problems, and continuations of the wrong ones under conditions.

    Args:
        model: The model.
        items: Problems.
        some: Conditions.
        settings: How answers are written, cut and gone on from.

    Returns:
        One row per greedy answer (``kind`` greedy) and per continuation (forked): ``problem,
        number, is_correct, finished, n_steps, first_wrong_step, place, kept_steps, kept_tokens``;
        of continuations ``sample``, columns of `Condition.columns` and layers besides.
    """
    plain = replace(settings, samples=1, temperature=0.0)
    written, graded = answers(model, items, None, plain)
    rows = [
        _placed(item, trace, grade, settings.rule)
        for item, trace, grade in zip(items, written, graded.to_dict("records"), strict=True)
    ]
    errors = [
        (item, trace, row)
        for item, trace, row in zip(items, written, rows, strict=True)
        if row["place"] is not None
    ][: settings.n_errors]
    forks = [Fork(item, beginnings(trace)[row["kept_steps"]]) for item, trace, row in errors]
    tables = [pd.DataFrame(rows).assign(kind=GREEDY)]
    for condition in some if forks else ():
        flow = model_flow(model, condition, settings)
        found = continuations(model, forks, flow, settings, n=settings.continuations)
        forked = [
            row | _continued(item, trace)
            for (item, _, row), traces in zip(errors, found, strict=True)
            for trace in traces
        ]
        about = {**condition.columns(), **flow_layers(flow), "kind": FORKED}
        tables.append(pd.DataFrame(forked).assign(**about))
    types = dict.fromkeys(_WHOLE, "Int64") | {"place": "string"}
    joined = pd.concat(tables, ignore_index=True)
    return joined.astype({name: kind for name, kind in types.items() if name in joined})


def _placed(item: Item, trace: Trace, grade: Mapping[Any, Any], rule: RuleName) -> dict[str, Any]:
    """Row of a greedy answer, with the place that it is to be cut at; None where it has none."""
    grade = {**grade, "is_correct": bool(grade["is_correct"] and grade["finished"])}
    row: dict[str, Any] = {
        "problem": item.id,
        "number": item.number,
        **{name: grade[name] for name in ("is_correct", "finished", "n_steps")},
        **dict.fromkeys(("first_wrong_step", "place", "kept_steps", "kept_tokens")),
    }
    begun = beginnings(trace)
    if row["is_correct"] or len(begun) != row["n_steps"] + 1 or not is_told(item, rule):
        return row
    last = len(begun) - 1
    first = row["first_wrong_step"] = first_wrong(item, trace, grade, rule)
    kept = last if first is None else min(first, last)
    if kept == last and not trace.region_steps(Region.SUMMARY):
        return row
    place = THINKING if kept < last else SUMMARY
    return row | {"place": place, "kept_steps": kept, "kept_tokens": len(begun[kept])}


def _continued(item: Item, trace: Trace) -> dict[str, Any]:
    """What a continuation has of its own."""
    return {
        "sample": int(trace.meta["sample"]),
        "is_correct": ends_right(item, trace),
        "finished": bool(trace.meta["finished"]),
        "n_steps": len(trace.region_steps(Region.THINKING)),
    }


def states(values: pd.DataFrame) -> pd.DataFrame:
    """How many greedy answers are right, wrong at a place, or wrong without one: ``state, n``."""
    greedy = values[values["kind"] == GREEDY]
    right = greedy["is_correct"].astype(bool)
    state = greedy["place"].astype("object").fillna("left out").where(~right, "right")
    counts = [(name, int((state == name).sum())) for name in ("right", THINKING, SUMMARY)]
    counts.append(("left out", int((state == "left out").sum())))
    return pd.DataFrame(counts, columns=["state", "n"])


def first_errors(values: pd.DataFrame, n_errors: int) -> pd.DataFrame:
    """Continuations of the first wrong answers in the order of the problems, by place and of any.

    Args:
        values: From `fork_points`, of all problems.
        n_errors: Wrong answers.
    """
    forked = values[values["kind"] == FORKED]
    numbers = sorted(forked["number"].unique())[:n_errors]
    kept = forked[forked["number"].isin(numbers)].assign(
        is_correct=lambda rows: rows["is_correct"].astype(bool)
    )
    return pd.concat([kept, kept.assign(place=ANY)], ignore_index=True)


def contrasts(forked: pd.DataFrame, *, seed: int = 0, **draws: Any) -> pd.DataFrame:
    """Conditions against the baseline, and edits against their placebos, by place.

    Args:
        forked: From `first_errors`.
        seed: Of the draws.
        draws: As of `answers_against`.

    Returns:
        Columns of `answers_against` with ``contrast``; Holm within place and contrast.
    """
    options = {"by": ["place"], "seed": seed, **draws}
    plain = answers_against(forked, BASELINE, **options)
    placebos = set(forked.loc[forked["placebo"].notna(), "condition"])
    is_placebo = plain["condition"].isin(placebos)
    plain["contrast"] = is_placebo.map({True: "placebo - baseline", False: "edit - baseline"})
    tables = [plain] + [
        answers_against(pair, placebo, **options).assign(contrast="edit - placebo")
        for placebo, pair in with_placebos(forked)
    ]
    return corrected_together(tables, family=["place", "contrast"])


def units(settings: ForkPointSettings) -> list[Unit]:
    """Chunks of problems; each has all conditions."""
    check_rule(settings, settings.rule)
    check_greedy(settings)
    return [Unit(f"forks-{start:05d}", (start, stop)) for start, stop in settings.spans]


def run_unit(model: Any, unit: Unit, settings: ForkPointSettings) -> pd.DataFrame:
    """One chunk. Seeds are the run's: conditions share random numbers."""
    check_depth(model, settings.depth)
    first, last = unit.payload
    items = read_items(settings)[first:last]
    some = conditions(settings.depth, settings.conditions)
    return fork_points(model, items, some, settings)


def summarise(values: pd.DataFrame, settings: ForkPointSettings) -> Mapping[str, pd.DataFrame]:
    """States of the answers; accuracy from the cut on, its contrasts, and what was kept."""
    seed = settings.seed
    tables = {"states": states(values)}
    forked = first_errors(values, settings.n_errors)
    if forked.empty:
        return tables
    tables["accuracy"] = mean_table(
        forked, "is_correct", by=["place", "condition"], kind="share", seed=seed
    )
    once = forked.drop_duplicates(["place", "problem"])
    tables["kept"] = pd.concat(
        [
            mean_table(once, name, by=["place"], kind="measure", seed=seed).assign(outcome=name)
            for name in ("kept_steps", "kept_tokens")
        ],
        ignore_index=True,
    )
    if forked["condition"].nunique() > 1:
        tables["summary"] = contrasts(forked, seed=seed)
    return tables


ANALYSIS = Analysis("fork_points", ForkPointSettings, units, run_unit, summarise, checks=EDITS)

if __name__ == "__main__":
    main("analyses.fork_points")
