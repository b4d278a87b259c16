"""The state that an answer is in, and what an intervention does to the shares of the states.

Every answer is ``correct``, or in the state of its first error (`step_saliency.tasks.grading`:
premise, order, recall, arithmetic, summary, format). For a condition and the baseline's answer to
the same problem and sample,

    rate        P(state = kind), of each condition
    per_step    first errors of a kind / thinking steps up to the first error: a base rate that does
                not grow with the length of the answer
    corrected   P(correct under the condition | the baseline's error is of the kind)
    caused      P(state = kind under the condition | the baseline is correct)
    change      P(state = kind) under the condition minus the baseline, paired within problems
    flow        corrected for errors of the flow from step to step (premise, order, recall, summary)
                minus corrected for local ones (arithmetic, format)
    hazard      P(state = summary | no error in the thinking), of a condition minus a reference: an
                answer that goes wrong earlier cannot go wrong first in the summary, so that shares
                of all answers fall where the thinking breaks

When it misleads: at temperature 1 any new sample corrects many errors, so ``corrected`` alone is
no achievement. Kinds are of the *first* error: an intervention that moves it hides the later ones.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analyses.material.comparisons import against, corrected_together
from analyses.material.conditions import BASELINE
from step_saliency.options import Draws
from step_saliency.stats.counts import share_from_counts, unpaired_from_counts
from step_saliency.stats.problems import mean_table
from step_saliency.stats.statistic import bootstrap_means, ratio
from step_saliency.tasks.grading import ERROR_KINDS

CORRECT = "correct"
STATES = (CORRECT, *ERROR_KINDS)
FLOW = ("premise", "order", "recall", "summary")


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
        hits = values.assign(value=(values["state"] == kind).astype(float))
        table = mean_table(hits, "value", by=["condition"], kind="share", seed=seed, **draws)
        tables.append(table.assign(state=kind, per="answer"))
    for kind in ERROR_KINDS:
        tables.append(_per_step(values, kind, seed).assign(state=kind, per="step"))
    return pd.concat(tables, ignore_index=True).drop(columns="p")


def _per_step(values: pd.DataFrame, kind: str, seed: int) -> pd.DataFrame:
    rows = []
    hits = values.assign(hit=(values["state"] == kind).astype(float))
    for name, frame in hits.groupby("condition", sort=False):
        sums = frame.groupby("problem", sort=False)[["hit", "exposure"]].sum().to_numpy(float)
        share = bootstrap_means(sums, ratio, interval="percentile", seed=seed)
        limits = {"interval": "bootstrap", "interval_corrected": False, **_few_hits(frame)}
        rows.append({"condition": name, **share.row(), **limits})
    return pd.DataFrame(rows)


def _few_hits(frame: pd.DataFrame) -> dict[str, Any]:
    """Limits of a rate per step where too few problems have a hit for a bootstrap.

    Wilson's of the share of answers, over their mean number of steps.
    """
    shares = frame.groupby("problem", sort=False)["hit"].mean().to_numpy(float)
    limits = share_from_counts(shares, Draws().confidence)
    if limits is None:
        return {}
    lower, upper = np.array(limits) / frame["exposure"].mean()
    return {"lower": lower, "upper": upper, "interval": "wilson"}


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
    hits = rows.assign(value=hit.astype(float))
    table = mean_table(hits, "value", by=["condition"], kind="share", seed=seed, **draws)
    counts = hits.groupby("condition", sort=False)["value"].agg(["size", "sum"]).reset_index()
    counts.columns = ["condition", "n_answers", "n_hits"]
    return table.merge(counts, on="condition")


def changes(
    values: pd.DataFrame, *, reference: str = BASELINE, seed: int = 0, **draws: Any
) -> pd.DataFrame:
    """Change of each state's share from a condition, paired; Holm over kinds within condition."""
    long = pd.concat(
        [values.assign(share=(values["state"] == kind).astype(float), kind=kind) for kind in STATES]
    )
    options = {"by": ["kind"], "pair": ["sample"], "seed": seed, **draws}
    table = against(long, "share", reference, kind="share", **options)
    return corrected_together([table], family=["condition"]).rename(columns={"kind": "state"})


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
        difference = _difference_of_shares(sums.to_numpy(float), seed)
        total = sums.sum()
        sizes = {"n_flow": int(total["flow"]), "n_local": int(total["local"])}
        shares = {"flow": total["flow_right"] / total["flow"]}
        shares["local"] = total["local_right"] / total["local"]
        rows.append({"condition": name, **difference, **sizes, **shares})
    return pd.DataFrame(rows)


def summary_hazard(
    values: pd.DataFrame, pairs: Sequence[tuple[str, str]], *, seed: int = 0
) -> pd.DataFrame:
    """Among answers with right thinking: share that is first wrong in the summary, compared.

    Args:
        values: Answers with states, `with_states`.
        pairs: Condition and reference; problems are drawn with their answers to both.
        seed: Of the draws.

    Returns:
        Columns ``condition, reference, estimate, lower, upper, n`` (problems), ``mean,
        mean_reference`` (the two shares) and ``n_answers, n_answers_reference`` (those with right
        thinking). Pairs in which one has no answer with right thinking are left out.
    """
    rows = []
    for name, reference in pairs:
        counts = [_with_right_thinking(values, each) for each in (name, reference)]
        sums = pd.concat(counts, axis=1, join="inner")
        hit, reached, hit_reference, reached_reference = sums.sum().tolist()
        if not reached or not reached_reference:
            continue
        rows.append(
            {
                "condition": name,
                "reference": reference,
                **_difference_of_shares(sums.to_numpy(float), seed),
                "mean": hit / reached,
                "mean_reference": hit_reference / reached_reference,
                "n_answers": int(reached),
                "n_answers_reference": int(reached_reference),
            }
        )
    return pd.DataFrame(rows)


def _with_right_thinking(values: pd.DataFrame, condition: str) -> pd.DataFrame:
    """Per problem: answers first wrong in the summary, and answers that reached it unharmed."""
    rows = values[values["condition"] == condition]
    hit, right = rows["state"] == "summary", rows["state"] == CORRECT
    table = pd.DataFrame({"hit": hit, "reached": hit | right}).astype(float)
    return table.groupby(rows["problem"].to_numpy()).sum()


def _difference_of_shares(sums: np.ndarray, seed: int) -> dict[str, Any]:
    """Hits and totals of two groups by problem: share of the one minus that of the other."""
    difference = bootstrap_means(sums, _share_difference, interval="percentile", seed=seed)
    few = unpaired_from_counts(sums[:, [0, 2]], sums[:, [1, 3]], Draws().confidence)
    limits: dict[str, Any] = {"interval": "bootstrap"}
    if few is not None:
        limits = {"lower": few[0], "upper": few[1], "interval": "newcombe"}
    return {**difference.row(), **limits}


def _share_difference(means: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return means[..., 0] / means[..., 1] - means[..., 2] / means[..., 3]
