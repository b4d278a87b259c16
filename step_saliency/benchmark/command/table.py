"""The table: estimates, paired differences, and the published numbers beside them.

    estimate      mean over problems of the share of right samples, with an interval that draws
                  problems
    difference    a condition minus the baseline, paired by problem and sample, tested by sign
                  flips; ``p_holm`` is corrected over all rows of the table, all else is drawn suite
                  by suite, so that it does not depend on which others are there
    as_script     share of all responses that are right as a main program; one without a program is
                  wrong
    chance        two runs on the same problems differ by less than this in 95% of cases by their
                  samples alone: 1.96 sqrt(2 v / (k P)) for k samples of each of P problems, v the
                  mean over problems of p (1 - p) k / (k - 1); of one sample a problem v = p (1 - p)
                  of all, which is too wide
    reading       what the distance to the published number can mean at that size

Right, wrong and unknown: unknown (no answer, or none that can be compared) counts as wrong.
"""

import math
from dataclasses import fields
from typing import Any

import numpy as np
import pandas as pd

from step_saliency.benchmark.command.page import BenchmarkTable
from step_saliency.benchmark.command.published import published
from step_saliency.benchmark.command.settings import BenchmarkSettings
from step_saliency.benchmark.command.votes import voted_rows, without_votes
from step_saliency.benchmark.conditions import CONDITIONS
from step_saliency.benchmark.suites.livecodebench.problems import WINDOW
from step_saliency.benchmark.suites.suites import suite_of
from step_saliency.options import Draws
from step_saliency.stats.binary import binary_table
from step_saliency.stats.multiplicity import holm
from step_saliency.stats.paired import paired_table
from step_saliency.stats.problems import mean_table

CELL = ["suite", "condition"]
Z = 1.96
"""Of a two-sided interval of 95%."""


def make_table(
    rows: pd.DataFrame, settings: BenchmarkSettings, *, draws: Draws | None = None
) -> BenchmarkTable:
    """The table of a run.

    Args:
        rows: One row a response (`rows.read_rows`).
        settings: Of the run.
        draws: How intervals and tests are drawn.

    Raises:
        ValueError: there is no row.
    """
    draws = draws or Draws()
    votes = [
        voted_rows(rows, condition.votes, name=name)
        for name, condition in CONDITIONS.items()
        if condition.votes is not None and name in settings.conditions
    ]
    whole = pd.concat([rows, *votes], ignore_index=True)
    whole = whole.assign(place=whole["suite"] + "\0" + whole["problem"])
    cells = _estimates(whole, draws).merge(_differences(whole, draws), on=CELL, how="left")
    cells = cells.merge(_costs(whole), on=CELL)
    cells = _with_published(cells, settings.preset.published)
    order = {suite: place for place, suite in enumerate(settings.suites)}
    conditions = {name: place for place, name in enumerate(CONDITIONS)}
    cells = cells.sort_values(
        CELL, key=lambda names: names.map({**order, **conditions}), ignore_index=True
    )
    return BenchmarkTable(
        cells,
        settings.model,
        missing=_missing(rows, settings),
        unlike=unlike_published(settings) if cells["published"].notna().any() else (),
        notes=without_votes(settings),
    )


def _estimates(rows: pd.DataFrame, draws: Draws) -> pd.DataFrame:
    tables = [
        mean_table(part, "is_correct", by=CELL, problem="place", kind="share", draws=draws)
        for _, part in rows.groupby("suite", sort=False)
    ]
    table = pd.concat(tables, ignore_index=True)
    numbers = ["estimate", "lower", "upper"]
    table[numbers] *= 100
    return table[[*CELL, *numbers, "n"]]


def _differences(rows: pd.DataFrame, draws: Draws) -> pd.DataFrame:
    """Each condition minus the baseline; votes are compared by the means of problems."""
    columns = [*CELL, "difference", "difference_lower", "difference_upper", "p", "p_holm"]
    columns += ["detectable", "corrected", "broken", "n_pairs"]
    by_sample = ~rows["condition"].map(lambda name: CONDITIONS[name].votes is not None)
    tables = [
        compare(of_suite, draws)
        for part, compare in ((rows[by_sample], _by_sample), (rows, _by_problem))
        for _, of_suite in part.groupby("suite", sort=False)
        if "baseline" in set(of_suite["condition"]) and of_suite["condition"].nunique() > 1
    ]
    if not tables:
        return pd.DataFrame(columns=pd.Index(columns))
    table = pd.concat(tables).drop_duplicates(CELL, keep="first")
    table = table.rename(
        columns={
            "estimate": "difference",
            "lower": "difference_lower",
            "upper": "difference_upper",
        }
    ).assign(p_holm=lambda frame: holm(frame["p"].to_numpy(float)))
    percents = ["difference", "difference_lower", "difference_upper", "detectable"]
    table[percents] *= 100
    return table.reindex(columns=columns)


def _by_sample(rows: pd.DataFrame, draws: Draws) -> pd.DataFrame:
    return binary_table(
        rows,
        condition="condition",
        reference="baseline",
        by=["suite"],
        pair=["sample"],
        problem="place",
        draws=draws,
    )


def _by_problem(rows: pd.DataFrame, draws: Draws) -> pd.DataFrame:
    return paired_table(
        rows.assign(is_correct=rows["is_correct"].astype(float)),
        "is_correct",
        condition="condition",
        reference="baseline",
        by=["suite"],
        problem="place",
        kind="share",
        draws=draws,
    )


def _costs(rows: pd.DataFrame) -> pd.DataFrame:
    is_code = rows["suite"].map(lambda suite: suite_of(suite).kind == "code")
    as_script = rows["is_correct_as_script"].eq(True).astype(float).where(is_code)
    groups = rows.assign(as_script=100 * as_script).groupby(CELL, sort=False)
    costs = groups.agg(
        responses=("sample", "size"),
        samples=("place", lambda places: len(places) / places.nunique()),
        truncated=("stop", lambda stops: 100 * (stops != "stop").mean()),
        unknown=("verdict", lambda verdicts: 100 * (verdicts == "unknown").mean()),
        tokens=("output_tokens", "mean"),
        seconds=("seconds", "mean"),
        as_script=("as_script", "mean"),
    ).reset_index()
    chance = groups[["place", "is_correct"]].apply(chance_of).rename("chance").reset_index()
    return costs.merge(chance, on=CELL)


def chance_of(rows: pd.DataFrame) -> float:
    """Difference, in percent, that two runs on the same problems stay below in 95% of cases."""
    by_problem = rows.groupby("place")["is_correct"].agg(["mean", "size"])
    share, k = by_problem["mean"].to_numpy(float), by_problem["size"].to_numpy(float)
    spread = share * (1 - share)
    if (k > 1).all():
        variances = spread * k / (k - 1)
    else:
        variances = np.full(len(k), share.mean() * (1 - share.mean()))
    return 100 * Z * math.sqrt(2 * float((variances / k).sum())) / len(k)


def _with_published(cells: pd.DataFrame, model: str | None) -> pd.DataFrame:
    known = [
        published(model, suite, condition)
        for suite, condition in cells[CELL].itertuples(index=False)
    ]
    numbers = [math.nan if number is None else number.percent for number in known]
    facts = pd.DataFrame(
        {
            "source": [None if n is None else n.source for n in known],
            "checked": [None if n is None else n.checked for n in known],
            "verified": [None if n is None else n.is_verified for n in known],
        },
        index=cells.index,
        dtype=object,
    )
    cells = cells.assign(published=numbers, distance=cells["estimate"] - numbers).join(facts)
    return cells.assign(reading=[_reading(row) for row in cells.itertuples(index=False)])


def unlike_published(settings: BenchmarkSettings) -> list[str]:
    """Settings that change answers and are not those that stand for the published protocol."""
    defaults = {field.name: field.default for field in fields(BenchmarkSettings)}
    names = ("problems", "temperature", "top_p", "max_tokens", "tau_max", "alpha")
    unlike = [
        f"{name}={getattr(settings, name)!r}"
        for name in names
        if getattr(settings, name) != defaults[name]
    ]
    unlike += [f"{suite} from a file" for suite in settings.data]
    window = settings.start, settings.end
    if "livecodebench" in settings.suites and window != WINDOW:
        unlike.append(f"livecodebench not from {WINDOW[0]} to {WINDOW[1]}")
    return unlike


def _reading(row: Any) -> str:
    """What the distance to a published number can mean; see `page.READINGS`."""
    if math.isnan(row.published):
        return ""
    if abs(row.distance) <= row.chance:
        return "chance"
    return "problems" if row.lower <= row.published <= row.upper else "apart"


def _missing(rows: pd.DataFrame, settings: BenchmarkSettings) -> dict[tuple[str, str], int]:
    """Responses that suites and conditions lack, of the problems that their logs were made for."""
    problems = rows.groupby("suite")["problems"].max()
    there = rows.groupby(CELL).size()
    lacks = {}
    for suite, condition in settings.runs:
        size = int(problems[suite]) if suite in problems else settings.size_of(suite)
        whole = size * settings.samples_of(suite)
        lacks[suite, condition] = whole - int(there.get((suite, condition), 0))
    return {run: count for run, count in lacks.items() if count > 0}
