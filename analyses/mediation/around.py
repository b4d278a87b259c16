"""Is lock-in different before, at, or after the first wrong step, and by which reading of the map?

Each problem is answered several times. With k the first wrong step of an answer (from 0, the second
thinking step at the earliest) and x its index at some rows of the thinking,

    before    mean over rows before k            at       row k, with the prediction that decides it
    after     mean over rows behind k            whole    all rows
    whole, summary error    as whole, of the answers alone whose thinking is right and whose summary
                            is not: their k is at least their number of thinking steps

    risk set    answers to the same problem that are right up to and including step k (after, whole:
                without a wrong step at all); x minus their mean, row by row (whole: minus that of
                answers with as many steps, since indices drift along an answer); where there is no
                control, nothing counts
    index       the same answers of all other problems (whole: those with as many steps)

The comparison within risk sets is that of a hazard model, stratified by problem and step index: at
equal step, does the answer that goes wrong now have the higher index? The comparison with other
problems asks the same of all answers at equal step (problems that are controls only count in its
``n``). Rows are filed by the token that is predicted (``rows="target"``), so that row k holds
exactly the predictions of step k. Indices:

    lock_in    share on own and last step beyond a uniform row, shallow layers
    reach      share on earlier thinking steps, deep layers (of thinking rows: no summary is needed)
    decay      share of summary rows on the thinking, middle minus deep layers (``whole`` only)

Loss, log-odds and attention are read side by side in one pooling. Under the loss a row is weighted
by how unsure the model is: an index that is higher by the loss and not by log-odds or attention
says that predictions were unsure, not that attention was elsewhere.

Where a file's worked solutions say which step is wrong, two rules that err to opposite sides can be
asked of the same maps (``--second-rule``, table ``second``): what both have depends on neither.

When it misleads: the wrong step is itself part of row k, and a wrong sentence part of the summary,
so that what is different there can be where the error shows as well as why it came. An answer with
a wrong step may still end right. A grader files a thinking part that ends too early where the
summary begins, so that such an answer counts among the summary errors. Answers of other problems
differ in more than the error.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from analyses.instruments.step_maps import READINGS, WRITTEN_HELP, Reading, step_maps
from analyses.material.answers import AnswerSettings, ForcedSettings, answers
from analyses.material.comparisons import corrected_together
from analyses.material.problems import Item, read_items
from analyses.material.wrong_steps import RULE_HELP, RuleName, check_rule, first_wrong, is_told
from analyses.mediation.reach import reach
from analyses.running.runner import MAPS, Analysis, Unit, main
from analyses.running.settings import option
from step_saliency.diagnosis import diagnose
from step_saliency.models.bands import Bands
from step_saliency.options import Pool, PoolName, Rows, RowsName
from step_saliency.saliency.result import StepSaliency
from step_saliency.stats.problems import mean_table
from step_saliency.trace import Region, Trace

SUMMARY_ERROR = "whole, summary error"
PLACES = ("before", "at", "after", "whole", SUMMARY_ERROR)
CONTROLS = ("risk set", "index")
INDICES = ("lock_in", "reach", "decay")
WHOLE = -1
"""Step of the row that is about the whole answer."""
_KEYS = ["problem", "sample", "reading"]


def step_rows(saliency: StepSaliency) -> pd.DataFrame:
    """Lock-in and reach of each thinking row; and of the whole answer, with decay."""
    trace = saliency.trace
    diagnosis = diagnose(saliency)
    bands = Bands.quarters(saliency.n_layers)
    thinking = trace.region_steps(Region.THINKING)
    lock_in = diagnosis.rows.lock_in[list(bands.shallow)].mean(0)
    reached = reach(saliency)[list(bands.deep)].mean(0)
    rows = pd.DataFrame({"step": range(len(thinking)), "lock_in": lock_in, "reach": reached})
    whole = {
        "step": WHOLE,
        "lock_in": rows["lock_in"].mean(),
        "reach": rows["reach"].mean(),
        "decay": diagnosis.decay_index,
    }
    return pd.concat([rows, pd.DataFrame([whole])], ignore_index=True)


def around(
    model: Any,
    items: Sequence[Item],
    settings: AnswerSettings,
    *,
    samples: int,
    temperature: float = 1.0,
    readings: Sequence[Reading] = READINGS,
    pool: Pool = "mean",
    rows: Rows = "target",
    rule: RuleName = "grader",
    second_rule: RuleName | None = None,
    written_only: bool = False,
) -> pd.DataFrame:
    """Indices by row of several answers to each problem, by each reading.

    Args:
        model: The model.
        items: Problems.
        settings: How answers are written.
        samples: Answers to each problem.
        temperature: Of these.
        readings: How maps are read.
        pool: How tokens are pooled to steps.
        rows: Which predictions are a step's.
        rule: What says which step of a wrong answer is the first wrong one.
        second_rule: What says it too, for ``second_wrong_step``.
        written_only: As of `step_maps`.

    Returns:
        One row per answer, reading and thinking step (`WHOLE` for all together): ``problem, sample,
        reading, is_correct, first_wrong_step, n_steps, step`` and `INDICES`. Where an answer goes
        wrong in its summary, the first wrong step is at least the number of thinking steps.
    """
    rules = {"first_wrong_step": rule}
    if second_rule is not None:
        rules["second_wrong_step"] = second_rule
    written, graded = answers(
        model, items, None, replace(settings, samples=samples, temperature=temperature)
    )
    tables = []
    for number, (answer, grade) in enumerate(zip(written, graded.to_dict("records"), strict=True)):
        item = items[number // samples]
        trace = answer
        if item.problem is not None:
            trace = item.problem.trace(model.tokenizer, answer.response)
        told = all(is_told(item, one) for one in rules.values())
        if len(trace.region_steps(Region.THINKING)) < 2 or not told:
            continue
        about = {name: grade[name] for name in ("problem", "sample", "is_correct", "n_steps")}
        firsts = {name: _first(item, trace, grade, one) for name, one in rules.items()}
        maps = step_maps(model, trace, readings, pool=pool, rows=rows, written_only=written_only)
        for reading, saliency in maps.items():
            frame = step_rows(saliency)
            tables.append(frame.assign(**about, reading=reading, **firsts))
    if not tables:
        return pd.DataFrame()
    return pd.concat(tables, ignore_index=True).astype(dict.fromkeys(rules, "Int64"))


def _first(item: Item, trace: Trace, grade: Mapping[Any, Any], rule: RuleName) -> int | None:
    """A wrong answer whose steps are all in order by a worked solution is wrong in its summary."""
    first = first_wrong(item, trace, grade, rule)
    if first is None and rule != "grader" and not grade["is_correct"]:
        return int(grade["n_steps"])
    return first


def around_table(values: pd.DataFrame, *, seed: int = 0, **draws: Any) -> pd.DataFrame:
    """Index of the answer that goes wrong minus that of its controls, at each place.

    Args:
        values: From `around`.
        seed: Of the draws.
        draws: As of `mean_table`.

    Returns:
        One row per reading, index, place and control: ``estimate, lower, upper, n, p, p_holm``;
        Holm over places and readings of one index and control, summary errors by themselves.
    """
    tables = []
    for (reading, index, place, control), differences in _differences(values):
        if differences["problem"].nunique() > 1:
            table = mean_table(differences, "value", null=0.0, kind="measure", seed=seed, **draws)
            table = table.assign(reading=reading, index=index, place=place, control=control)
            tables.append(table.assign(by_itself=place == SUMMARY_ERROR))
    corrected = corrected_together(tables, family=["index", "control", "by_itself"])
    return corrected.drop(columns="by_itself", errors="ignore")


def _differences(values: pd.DataFrame) -> list[tuple[tuple[str, ...], pd.DataFrame]]:
    """Differences of error answers to their controls, by reading, index, place and control."""
    errors = values.drop_duplicates(_KEYS[:2]).dropna(subset=["first_wrong_step"])
    errors = errors[errors["first_wrong_step"] >= 1]
    found: list[tuple[tuple[str, ...], pd.DataFrame]] = []
    for reading, of_reading in values.groupby("reading", sort=False):
        for place in PLACES:
            tables = [
                _at_place(of_reading, int(k), place) for k in errors["first_wrong_step"].unique()
            ]
            joined = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
            for control in CONTROLS:
                for index in INDICES:
                    differences = _held_against(joined, index, control)
                    if len(differences):
                        found.append(((str(reading), index, place, control), differences))
    return found


def _at_place(values: pd.DataFrame, k: int, place: str) -> pd.DataFrame:
    """Rows of a place, of answers that go wrong at step k and of their controls.

    An index drifts along an answer, so that answers of other lengths are alike row by row only.

    Returns:
        Columns ``problem, sample, k, is_error, step, stratum`` and `INDICES`; a stratum is the rows
        that are held against each other over problems: a step, or whole answers of one length.
    """
    wrong = values["first_wrong_step"]
    is_error = (wrong == k).fillna(False)
    if place == SUMMARY_ERROR:
        is_error &= values["n_steps"] <= k
    later = wrong.isna() | (wrong > k) if place in ("before", "at") else wrong.isna()
    counted = values[is_error | later].assign(is_error=is_error)
    rows = {
        "before": counted["step"].between(0, k - 1),
        "at": counted["step"] == k,
        "after": counted["step"] > k,
        "whole": counted["step"] == WHOLE,
        SUMMARY_ERROR: counted["step"] == WHOLE,
    }[place]
    kept = counted[rows]
    of_whole = place in ("whole", SUMMARY_ERROR)
    keys = ["problem", "sample", "is_error", "step", *INDICES]
    return kept[keys].assign(k=k, stratum=kept["n_steps"] if of_whole else kept["step"])


def _held_against(rows: pd.DataFrame, index: str, control: str) -> pd.DataFrame:
    """What each problem adds to the difference of error answers and controls: ``problem, value``.

    The mean of the values is the mean over problems with an error of (error minus its controls).
    """
    nothing = pd.DataFrame(columns=["problem", "value"])
    if rows.empty:
        return nothing
    known = rows.dropna(subset=[index])
    if control == "risk set":
        return _within_problems(known, index)
    return _across_problems(known, index)


def _within_problems(known: pd.DataFrame, index: str) -> pd.DataFrame:
    """Each error answer minus the mean of its problem's other answers, stratum by stratum."""
    errors, others = known[known["is_error"]], known[~known["is_error"]]
    on = ["problem", "k", "step", "stratum"]
    joined = errors.merge(others.groupby(on)[index].mean().rename("control").reset_index(), on=on)
    differences = joined.assign(value=joined[index] - joined["control"])
    of_answers = differences.groupby(["problem", "sample"], sort=False)["value"].mean()
    return of_answers.reset_index()[["problem", "value"]]


def _across_problems(known: pd.DataFrame, index: str) -> pd.DataFrame:
    """Each problem's errors minus its part in the controls of other problems' errors.

    A problem stands on both sides, with its errors and as a control, and its level cancels in the
    mean. With the values filed by the problem of the *error* the level would stay in the spread
    that the mean is tested against. So they are filed by the problem that they come from,

        value_r = sum over errors i of r of  w_i (x_i - m)
                  - sum over errors i of others of  w_i (sum of r's controls of i - m) / n_i

    with i the rows of errors, w_i = 1 / (errors of the problem of i * rows of its answer), n_i the
    controls of i, and m the mean of all controls at the same row, which cancels in the sum. (The
    first order of the statistic, as in the Hajek projection: van der Vaart, Asymptotic Statistics,
    1998, chapter 11.)
    """
    strata, stratum = np.unique(known[["stratum", "k"]].to_numpy(), axis=0, return_inverse=True)
    row, names = pd.factorize(known["problem"])
    is_error = known["is_error"].to_numpy(dtype=bool)
    x = known[index].to_numpy(dtype=float)
    shape = (len(names), len(strata))

    def filed(weights: np.ndarray, kept: np.ndarray) -> np.ndarray:
        table = np.zeros(shape)
        np.add.at(table, (row[kept], stratum[kept]), weights[kept])
        return table

    n_controls = filed(np.ones_like(x), ~is_error)
    centre = filed(x, ~is_error).sum(0) / np.maximum(n_controls.sum(0), 1)
    x = x - centre[stratum]
    of_others = n_controls.sum(0) - n_controls
    counted = is_error & (of_others[row, stratum] > 0)
    answer, _ = pd.factorize(pd.MultiIndex.from_frame(known[["problem", "sample"]]))
    weights = counted / np.maximum(np.bincount(answer[counted], minlength=len(x)), 1)[answer]
    n_errors = np.bincount(row, weights, minlength=len(names))
    weights = weights / np.where(n_errors > 0, n_errors, 1.0)[row]
    as_control = filed(weights, counted) / np.maximum(of_others, 1)
    values = filed(weights * x, counted) - filed(x, ~is_error) * (as_control.sum(0) - as_control)
    on_a_side = (n_errors > 0) | ((n_controls > 0) & (as_control.sum(0) > as_control)).any(1)
    scale = on_a_side.sum() / max((n_errors > 0).sum(), 1)
    table = pd.DataFrame({"problem": names, "value": values.sum(1) * scale})
    return table[on_a_side] if n_errors.any() else table.iloc[:0]


@dataclass(frozen=True, kw_only=True)
class AroundSettings(ForcedSettings, AnswerSettings):
    """Of how many problems, how many answers of each, and how maps are read."""

    around_samples: int = option(8, "answers of each problem")
    around_temperature: float = option(1.0, "of these", later=True)
    pool: PoolName = "mean"
    rows: RowsName = "target"
    written_only: bool = option(False, WRITTEN_HELP, later=True)
    rule: RuleName = option("grader", RULE_HELP, later=True)
    second_rule: RuleName | None = option(
        None, "the same by another, in tables of its own", later=True
    )


def units(settings: AroundSettings) -> list[Unit]:
    """Chunks of problems."""
    check_rule(settings, settings.rule)
    if settings.second_rule is not None:
        check_rule(settings, settings.second_rule)
    return [Unit(f"around-{a:05d}", (a, b)) for a, b in settings.forced_spans]


def run_unit(model: Any, unit: Unit, settings: AroundSettings) -> pd.DataFrame:
    """One chunk. Seeds are the run's."""
    first, last = unit.payload
    items = read_items(settings)[first:last]
    return around(
        model,
        items,
        settings,
        samples=settings.around_samples,
        temperature=settings.around_temperature,
        pool=settings.pool,
        rows=settings.rows,
        rule=settings.rule,
        second_rule=settings.second_rule,
        written_only=settings.written_only,
    )


def summarise(values: pd.DataFrame, settings: AroundSettings) -> Mapping[str, pd.DataFrame]:
    """Error minus controls, by reading, index, place and control; ``second`` by the second rule."""
    if values.empty:
        raise ValueError(
            "no answer has two thinking steps and a problem whose wrong steps are told"
        )
    tables = {"summary": around_table(values, seed=settings.seed)}
    if settings.second_rule is not None:
        other = values.assign(first_wrong_step=values["second_wrong_step"])
        tables["second"] = around_table(other, seed=settings.seed)
    return {name: table for name, table in tables.items() if not table.empty}


ANALYSIS = Analysis("mediation.around", AroundSettings, units, run_unit, summarise, checks=MAPS)

if __name__ == "__main__":
    main("analyses.mediation.around")
