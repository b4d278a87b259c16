"""Tables that claims need and that follow from the values of finished runs, for each model.

difficulty    gain of each condition by stratum (`analyses.claims.strata`); the same of placebos
              with the bridge's KL, and of the bridge and both halves against these (``reference``)
whole         both halves against no edit and against random layers, over the rows of two runs on
              one file (``ablation`` and ``ablation_rest``)
contrasts     quarter of the layers against other bands; votes with StepFlow against twice as
              many without; StepFlow against none, "Wait", and answers of up to `LONGER` times and
              of up to twice the length
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from analyses.claims.models import MODELS
from analyses.claims.strata import gains_by_difficulty
from analyses.material.comparisons import answers_against, contrast, corrected_together
from analyses.material.conditions import BASELINE

SEED = 0
LONGER = 1.35
"""How many times as long answers may be that are to cost what StepFlow does."""
ANSWERS = ("ablation", "ablation_strengths", "ablation_matched")
"""Runs with greedy answers under StepFlow; the first that is there counts."""
VOTES = {"compute_matched": "1", "compute_matched_t06": "0.6", "compute_matched_t07": "0.7"}
"""Runs with votes, and their temperature."""
PLACEBOS = ("oeb-layers-kl", "oeb-block-kl", "both-layers-kl")
"""Placebos of equal dose, in ``ablation_matched`` or beside the methods."""
BANDS: Mapping[str, Mapping[str, float]] = {
    "quarter - third": {"both": 1, "both-third": -1},
    "quarter - half": {"both": 1, "both-half": -1},
}


def derived_tables(results: Path) -> dict[str, pd.DataFrame]:
    """Tables by folder and name, such as ``claims_reporter/contrasts``; those whose runs are there.

    Args:
        results: Folder of results folders.
    """
    tables = {}
    for model in MODELS.values():
        for name, table in _of_model(results, model.suffix).items():
            tables[f"claims{model.suffix}/{name}"] = table
    return tables


def _of_model(results: Path, suffix: str) -> dict[str, pd.DataFrame]:
    answers = _first(results, ANSWERS, suffix)
    decoded = {name: _values(results, f"{name}{suffix}") for name in VOTES}
    sampled = next((values for values in decoded.values() if values is not None), None)
    tables: dict[str, pd.DataFrame] = {}
    if answers is not None and sampled is not None:
        samples = sampled[(sampled["condition"] == "baseline") & (sampled["method"] == "sample")]
        placebos = _first(results, ("ablation_matched", "ablation"), suffix)
        tables["difficulty"] = _difficulty(answers, placebos, samples)
    rest = _values(results, f"ablation_rest{suffix}")
    if answers is not None and rest is not None:
        tables["whole"] = _whole(pd.concat([answers, rest], ignore_index=True))
    rows = [] if answers is None else _contrasts(answers, BANDS)
    for name, values in decoded.items():
        if values is not None:
            rows += _contrasts(_named(values), _votes(VOTES[name]))
    latest = next((values for values in reversed(decoded.values()) if values is not None), None)
    if latest is not None:
        rows += _contrasts(_named(latest), length_contrasts(latest))
    if rows:
        tables["contrasts"] = pd.concat(rows, ignore_index=True)
    return tables


def _difficulty(
    answers: pd.DataFrame, placebos: pd.DataFrame | None, samples: pd.DataFrame
) -> pd.DataFrame:
    """Gains over the baseline; and of placebos, and over each placebo."""
    tables = [gains_by_difficulty(answers, samples, seed=SEED).assign(reference=BASELINE)]
    if placebos is None:
        return tables[0]
    for reference in (BASELINE, *PLACEBOS):
        others = PLACEBOS if reference == BASELINE else ("oeb", "both")
        some = placebos[placebos["condition"].isin([reference, *others])]
        if reference in set(some["condition"]) and some["condition"].nunique() > 1:
            gains = gains_by_difficulty(some, samples, baseline=reference, seed=SEED)
            tables.append(gains.assign(reference=reference))
    table = pd.concat(tables, ignore_index=True)
    return table.drop_duplicates(["condition", "stratum", "reference"], ignore_index=True)


def _whole(values: pd.DataFrame) -> pd.DataFrame:
    """Conditions of both runs, each against no edit; and both halves against random layers."""
    some = values[values["condition"].isin([BASELINE, "both", "both-layers-kl"])]
    some = some.assign(is_correct=some["is_correct"].astype(bool))
    placebo = some[some["condition"] != BASELINE]
    tables = [
        answers_against(some, BASELINE, seed=SEED),
        answers_against(placebo, "both-layers-kl", seed=SEED),
    ]
    return corrected_together(tables)


def _votes(temperature: str) -> dict[str, Mapping[str, float]]:
    return {
        f"vote of {k} with StepFlow - vote of {2 * k}, temperature {temperature}": {
            f"both vote-{k}": 1,
            f"baseline vote-{2 * k}": -1,
        }
        for k in (2, 4)
    }


def length_contrasts(values: pd.DataFrame) -> dict[str, Mapping[str, float]]:
    """StepFlow's greedy answers of half the longest limit against none, and against longer ones."""
    limits = sorted(values["limit"].dropna().astype(int).unique())
    own = limits[-1] // 2
    mine = f"both greedy-{own}"
    near = min(limits, key=lambda limit: abs(limit - LONGER * own))
    contrasts: dict[str, Mapping[str, float]] = {
        "StepFlow - none": {mine: 1, f"baseline greedy-{own}": -1},
        "StepFlow - 'Wait'": {mine: 1, "baseline wait-1": -1},
        "StepFlow - longer": {mine: 1, f"baseline greedy-{limits[-1]}": -1},
    }
    if abs(near - LONGER * own) < 1:
        contrasts[f"StepFlow - {LONGER} times as long"] = {mine: 1, f"baseline greedy-{near}": -1}
    return contrasts


def _contrasts(
    values: pd.DataFrame, weights: Mapping[str, Mapping[str, float]]
) -> list[pd.DataFrame]:
    means = values.groupby(["problem", "condition"])["is_correct"].mean().unstack()
    tables = {
        name: contrast(means, of_name, kind="share", seed=SEED) for name, of_name in weights.items()
    }
    return [table.assign(contrast=name) for name, table in tables.items() if table is not None]


def _first(results: Path, folders: Sequence[str], suffix: str) -> pd.DataFrame | None:
    found = (_values(results, f"{name}{suffix}") for name in folders)
    return next((values for values in found if values is not None), None)


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
    number = decoded["limit"].fillna(decoded["k"]).astype(int).astype(str)
    return decoded.assign(condition=decoded["condition"] + " " + decoded["method"] + "-" + number)
