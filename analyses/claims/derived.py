"""Tables that claims need and that follow from the values of finished runs.

difficulty    gain of each condition by stratum (`analyses.claims.strata`), and hard minus easy
contrasts     quarter of the layers against other bands; votes with StepFlow against twice as
              many without
"""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from analyses.claims.strata import gains_by_difficulty
from analyses.material.comparisons import contrast

SEED = 0
CONTRASTS: Mapping[str, tuple[str, Mapping[str, float]]] = {
    "quarter - third": ("ablation", {"both": 1, "both-third": -1}),
    "quarter - half": ("ablation", {"both": 1, "both-half": -1}),
    "vote of 2 with StepFlow - vote of 4": (
        "compute_matched",
        {"both vote-2": 1, "baseline vote-4": -1},
    ),
    "vote of 4 with StepFlow - vote of 8": (
        "compute_matched",
        {"both vote-4": 1, "baseline vote-8": -1},
    ),
}


def derived_tables(results: Path) -> dict[str, pd.DataFrame]:
    """Tables by name; those whose runs are there.

    Args:
        results: Folder of results folders.
    """
    answers = _values(results, "ablation")
    decoded = _values(results, "compute_matched")
    tables: dict[str, pd.DataFrame] = {}
    if answers is not None and decoded is not None:
        samples = decoded[(decoded["condition"] == "baseline") & (decoded["method"] == "sample")]
        tables["difficulty"] = gains_by_difficulty(answers, samples, seed=SEED)
    means = {"ablation": answers, "compute_matched": None if decoded is None else _named(decoded)}
    rows = [
        table.assign(contrast=name)
        for name, (folder, weights) in CONTRASTS.items()
        if (values := means[folder]) is not None
        and (table := contrast(_by_condition(values), weights, kind="share", seed=SEED)) is not None
    ]
    if rows:
        tables["contrasts"] = pd.concat(rows, ignore_index=True)
    return tables


def _values(results: Path, folder: str) -> pd.DataFrame | None:
    file = results / folder / "values.parquet"
    if not file.is_file():
        return None
    values = pd.read_parquet(file)
    if "kind" in values:
        values = values[values["kind"] == "answers"]
    return values.assign(is_correct=values["is_correct"].astype(float))


def _named(decoded: pd.DataFrame) -> pd.DataFrame:
    """Conditions with the way of decoding in their names."""
    ways = decoded["method"] + "-" + decoded["k"].astype(str)
    return decoded.assign(condition=decoded["condition"] + " " + ways)


def _by_condition(values: pd.DataFrame) -> pd.DataFrame:
    return values.groupby(["problem", "condition"])["is_correct"].mean().unstack()
