"""How well scores of thinking steps agree with what the steps are worth, within answers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from analyses.material.comparisons import against, corrected_together
from analyses.resampling.worths import DIGITS
from step_saliency.saliency.result import StepSaliency
from step_saliency.stats.ranks import rank_correlation
from step_saliency.trace import Region

WORTH, SCORE = "worth", "score"
RIVALS = ("position", "length")
OTHER_HALF = "other half"
GROUP = ["importance", "outcome"]
BY = [*GROUP, "score", "rows"]


def map_scores(saliency: StepSaliency) -> pd.DataFrame:
    """What each thinking step receives in a step map, mean over layers and rows.

    Returns:
        ``step, rows, value``; rows of the summary are missing where there is none.
    """
    trace = saliency.trace
    thinking, summary = (trace.region_steps(r) for r in (Region.THINKING, Region.SUMMARY))
    rows = []
    for step, key in enumerate(thinking):
        later = [query for query in thinking if query > key]
        for name, queries in (("summary", summary), ("later", [*later, *summary])):
            value = _received(saliency, queries, key) if queries else np.nan
            rows.append({"step": step, "rows": name, "value": value})
    return pd.DataFrame(rows)


def _received(saliency: StepSaliency, queries: Sequence[int], key: int) -> float:
    """Mean of a column over rows and layers that see it."""
    seen = saliency.seen[:, queries, key].to(saliency.maps.device)
    values = saliency.mean_heads[:, queries, key].double()
    return float(values[seen].mean()) if bool(seen.any()) else np.nan


def ranked(values: pd.DataFrame) -> pd.DataFrame:
    """Worth and score of each step, beside each other, where an answer can be ranked.

    Args:
        values: From `resampling`, of all problems.

    Returns:
        Columns ``problem, step, importance, outcome, score, rows, worth, value``: at least three
        steps of each answer, of more than one worth and score.
    """
    worth = values.loc[values["kind"] == WORTH, ["problem", "step", *GROUP, "value"]]
    scores = values.loc[values["kind"] == SCORE, ["problem", "step", "score", "rows", "value"]]
    joined = worth.rename(columns={"value": "worth"}).merge(scores, on=["problem", "step"])
    halves = values.loc[values["kind"] == WORTH, ["problem", "step", *GROUP, "half", "other_half"]]
    halves = halves.rename(columns={"half": "worth", "other_half": "value"})
    both = pd.concat([joined, halves.assign(score=OTHER_HALF, rows="none")], ignore_index=True)
    both = both.dropna(subset=["worth", "value"])
    answers_of = both.groupby([*BY, "problem"], sort=False)
    kinds = [answers_of[name].transform("nunique") for name in ("worth", "value")]
    enough = answers_of["step"].transform("size") >= 3
    return both[(kinds[0] > 1) & (kinds[1] > 1) & enough]


def rivals_table(table: pd.DataFrame, *, seed: int = 0, **draws: Any) -> pd.DataFrame:
    """Rho of each map minus that of position and of length, within answers.

    Args:
        table: From `ranked`.
        seed: Of the draws.
        draws: As of `against`.
    """
    rhos = [
        {**dict(zip([*BY, "problem"], names, strict=True)), "rho": _rho(entries)}
        for names, entries in table.groupby([*BY, "problem"], sort=False)
    ]
    frame = pd.DataFrame(rhos)
    means = frame.groupby(BY)["rho"].transform("mean")
    is_rival = frame["score"].isin(RIVALS)
    frame["rho"] = frame["rho"].where(~is_rival | (means >= 0), -frame["rho"])
    frame["condition"] = frame["score"].where(is_rival, frame["score"] + " " + frame["rows"])
    tables = []
    for rival in RIVALS:
        pairs = frame[~frame["score"].isin({*RIVALS, OTHER_HALF}) | (frame["score"] == rival)]
        for _, group in pairs.groupby(GROUP, sort=False):
            shared = set(group.loc[group["score"] == rival, "problem"])
            maps = group[(group["score"] != rival) & group["problem"].isin(shared)]
            if len(maps):
                options = {"by": GROUP, "kind": "measure", "seed": seed, **draws}
                tables.append(against(group, "rho", rival, **options))
    return corrected_together(tables, family=[*GROUP, "reference"])


def _rho(entries: pd.DataFrame) -> float:
    worth, value = (entries[name].to_numpy(float) for name in ("worth", "value"))
    # Equal rhos differ in their last bits, which would be all the spread of their differences.
    return round(float(rank_correlation(value[None], worth)[0]), DIGITS)
