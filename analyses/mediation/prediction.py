"""Does lock-in come before the error?

Lock-in of a trace before its first wrong step (steps before it only) against a correct trace cut at
the same step: of the same problem (``within``: equal difficulty), and of a problem without errors
whose cut trace has most nearly as many tokens (``matched``: equal length). What length is left is
in ``gap``, and in the rows of ``n_tokens``, which are not tested where traces were matched by it.

When it misleads: correct and error traces of one problem are mostly the same text up to the error,
and then their lock-in is the same number: ``ties`` says how often. The summary comes after all
errors but its own, so that decay cannot come before them; ``reach`` (share of the thinking rows of
deep layers on earlier thinking steps) stands in for it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

import step_saliency as ss
from analyses.material.answers import AnswerSettings, ForcedSettings, answers
from analyses.material.comparisons import corrected_together
from analyses.material.problems import Item, check_task, read_items
from analyses.mediation.reach import reach
from analyses.mediation.written import part_unit
from analyses.running.runner import MAPS, Analysis, Unit, main
from step_saliency.diagnosis import diagnose
from step_saliency.models.bands import Bands
from step_saliency.stats.problems import mean_table
from step_saliency.trace import Region, Trace

INDICES = ("lock_in_index", "reach", "n_tokens")


def cut_before(trace: Trace, step: int) -> Trace:
    """The trace up to, and without, a thinking step.

    Args:
        trace: A trace whose thinking steps are the lines of the response.
        step: Index among its thinking steps, at least 1.

    Raises:
        ValueError: there is no such step.
    """
    thinking = trace.region_steps(Region.THINKING)
    if not 1 <= step <= len(thinking):
        raise ValueError(f"step={step} must be from 1 to {len(thinking)}")
    last = thinking[step - 1]
    stop = trace.steps[last].stop
    return replace(
        trace,
        tokens=trace.tokens[:stop],
        steps=trace.steps[: last + 1],
        meta={**trace.meta, "problem": trace.id},
    )


def indices(model: Any, trace: Trace) -> dict[str, float]:
    """Lock-in index and reach of a cut trace, and its length."""
    saliency = ss.step_saliency(model, trace)
    deep = list(Bands.quarters(saliency.n_layers).deep)
    return {
        "lock_in_index": diagnose(saliency).lock_in_index,
        "reach": float(reach(saliency)[deep].nanmean()),
        "n_tokens": float(len(trace)),
    }


def prediction(
    model: Any, items: Sequence[Item], settings: AnswerSettings, *, samples: int
) -> pd.DataFrame:
    """Indices of error traces before the error, and of correct traces cut at the same step.

    Each problem gives its first sample (at temperature 1) whose first wrong step is the second or a
    later one of the thinking, and its first correct sample with as many steps; problems without
    errors give their first correct sample cut at every step, to be matched with.

    Returns:
        One row per problem, ``outcome`` (error, correct) and ``cut``: `INDICES`, ``error_kind``,
        ``has_pair``.
    """
    sampled = replace(settings, samples=samples, temperature=1.0)
    written, frame = answers(model, items, None, sampled)
    rows = []
    for number, item in enumerate(items):
        assert item.problem is not None
        mine = slice(number * samples, (number + 1) * samples)
        grades = frame.iloc[mine].to_dict("records")
        rows += _predicted(model, item, list(zip(written[mine], grades, strict=True)))
    return pd.DataFrame(rows).astype({"error_kind": "string"})


def _predicted(
    model: Any, item: Item, graded: Sequence[tuple[Trace, Mapping[Any, Any]]]
) -> list[dict[str, Any]]:
    assert item.problem is not None
    cases: list[tuple[str, int, Trace, str | None]] = []
    error = next((pair for pair in graded if _is_error(pair[1])), None)
    right = [t for t, g in graded if g["is_correct"] and pd.isna(g["first_wrong_step"])]
    if error is not None:
        cut = int(error[1]["first_wrong_step"])
        cases.append(("error", cut, error[0], str(error[1]["error_kind"])))
    if right:
        steps = len(item.problem.graph_of(right[0].response).steps)
        cuts = range(1, steps) if error is None else [int(error[1]["first_wrong_step"])]
        cases += [("correct", cut, right[0], None) for cut in cuts if cut <= steps]
    both = len({outcome for outcome, *_ in cases}) == 2
    rows = []
    for outcome, cut, trace, kind in cases:
        short = cut_before(item.problem.trace(model.tokenizer, trace.response), cut)
        names = {"problem": item.id, "outcome": outcome, "cut": cut, "error_kind": kind}
        rows.append({**names, "has_pair": both, **indices(model, short)})
    return rows


def _is_error(grade: Mapping[Any, Any]) -> bool:
    """A wrong answer that went wrong in its second thinking step or a later one."""
    first = grade["first_wrong_step"]
    if grade["is_correct"] or pd.isna(first):
        return False
    return 1 <= int(first) < int(grade["n_steps"])


def prediction_table(values: pd.DataFrame, *, seed: int = 0, **draws: Any) -> pd.DataFrame:
    """Indices of error traces minus those of correct ones, within problems and matched.

    Returns:
        One row per index and ``control``: ``estimate, lower, upper, n, p, p_holm, ties`` (share of
        pairs with exactly the same value) and ``gap`` (mean difference in tokens).
    """
    pairs = {"within": _within(values), "matched": _matched(values)}
    tables = []
    for control, frame in pairs.items():
        for name in INDICES:
            difference = (frame[f"{name}_error"] - frame[f"{name}_correct"]).rename("value")
            known = pd.concat([frame["problem"], difference], axis=1).dropna()
            if len(known) < 2:
                continue
            is_matched_by = control == "matched" and name == "n_tokens"
            null = None if is_matched_by else 0.0
            table = mean_table(known, "value", null=null, kind="measure", seed=seed, **draws)
            ties = float((known["value"].abs() < 1e-9).mean())
            gap = float((frame["n_tokens_error"] - frame["n_tokens_correct"]).mean())
            tables.append(table.assign(control=control, index=name, ties=ties, gap=gap))
    return corrected_together(tables, family=["control"])


def _within(values: pd.DataFrame) -> pd.DataFrame:
    paired = values[values["has_pair"].astype(bool)]
    error = paired[paired["outcome"] == "error"]
    correct = paired[paired["outcome"] == "correct"]
    return error.merge(correct, on=["problem", "cut"], suffixes=("_error", "_correct"))


def _matched(values: pd.DataFrame) -> pd.DataFrame:
    """Each error trace with the correct one cut there that is nearest in tokens.

    Correct traces are those of problems without an error trace, and no problem is taken twice, so
    that pairs have nothing in common.
    """
    errors = values[values["outcome"] == "error"]
    pool = values[(values["outcome"] == "correct") & ~values["problem"].isin(errors["problem"])]
    pool = pool.reset_index(drop=True)
    rows = []
    for error in errors.to_dict("records"):
        same = pool[pool["cut"] == error["cut"]]
        if same.empty:
            continue
        nearest = int((same["n_tokens"] - error["n_tokens"]).abs().idxmin())
        row: dict[str, Any] = {"problem": error["problem"], "cut": error["cut"]}
        for name in INDICES:
            row[f"{name}_error"] = error[name]
            row[f"{name}_correct"] = float(pool[name].to_numpy()[nearest])
        rows.append(row)
        pool = pool[pool["problem"] != pool.loc[nearest, "problem"]].reset_index(drop=True)
    columns = ["problem", "cut", *(f"{n}_{o}" for n in INDICES for o in ("error", "correct"))]
    return pd.DataFrame(rows, columns=columns)


@dataclass(frozen=True, kw_only=True)
class PredictionSettings(ForcedSettings, AnswerSettings):
    """Of how many problems, and how many samples of each."""

    prediction_samples: int = 4


def units(settings: PredictionSettings) -> list[Unit]:
    """Chunks of problems."""
    check_task(settings, "margins and kinds of error")
    return [part_unit("prediction", "", span) for span in settings.forced_spans]


def run_unit(model: Any, unit: Unit, settings: PredictionSettings) -> pd.DataFrame:
    """One chunk. Seeds are the run's."""
    part, _, (first, last) = unit.payload
    items = read_items(settings)[first:last]
    frame = prediction(model, items, settings, samples=settings.prediction_samples)
    return frame.assign(part=part, level=settings.level, family=settings.family)


def summarise(values: pd.DataFrame, settings: PredictionSettings) -> Mapping[str, pd.DataFrame]:
    """Error minus correct, by index and control; nothing where no pair is there."""
    table = prediction_table(values, seed=settings.seed)
    return {} if table.empty else {"prediction": table}


ANALYSIS = Analysis(
    "mediation.prediction", PredictionSettings, units, run_unit, summarise, checks=MAPS
)

if __name__ == "__main__":
    main("analyses.mediation.prediction")
