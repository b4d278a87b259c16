"""Heads found on one half of the problems, steered together on the other half."""

from typing import Any

import numpy as np
import pandas as pd

from analyses.head_steering.single import TOP, top_heads
from analyses.head_steering.steering import HALVES, bridge_on
from analyses.material.comparisons import against, answers_against
from analyses.material.conditions import BASELINE
from step_saliency.intervene import Edit, OddsEqualBridge
from step_saliency.models.bands import Bands

REFERENCES = (BASELINE, "band")
WRITTEN = (BASELINE, "band", f"top-{TOP[-1]}", f"random-{TOP[-1]}", "top-2")
"""Conditions under which answers are written."""


def transfer_edits(
    values: pd.DataFrame, half: str, *, depth: int, n_heads: int, tau_max: float, seed: int
) -> dict[str, list[Edit]]:
    """Edits for problems of one half: heads come from the other half.

    Args:
        values: Of a first run.
        half: Half that the edits are for.
        depth: Layers of the model.
        n_heads: Heads of a layer.
        tau_max: Of the bridge.
        seed: Of the random heads.
    """
    other = HALVES[1 - HALVES.index(half)]
    every = [(layer, head) for layer in range(depth) for head in range(n_heads)]
    edits: dict[str, list[Edit]] = {
        BASELINE: [],
        "band": [OddsEqualBridge(Bands.quarters(depth).shallow, tau_max=tau_max)],
    }
    for k in TOP:
        best = top_heads(values, half=other, k=k)
        edits[f"top-{k}"] = [bridge_on(best, tau_max=tau_max)]
        rest = [pair for pair in every if pair not in best]
        drawn = np.random.default_rng([seed, k, HALVES.index(half)]).permutation(len(rest))[:k]
        edits[f"random-{k}"] = [bridge_on([rest[i] for i in drawn], tau_max=tau_max)]
    return edits


def transfer_table(values: pd.DataFrame, *, seed: int = 0, **draws: Any) -> pd.DataFrame:
    """Effects of top heads, random heads and the band on the half that they were not found on;
    and of each against the band."""
    options = {"by": ["outcome"], "family": ["outcome"], "seed": seed, **draws}
    tables = [against(values, "value", reference, **options) for reference in REFERENCES]
    return pd.concat(tables, ignore_index=True)


def accuracy_table(values: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """Accuracy of written answers, against the baseline's and against the band's."""
    tables = [answers_against(values, reference, seed=seed) for reference in REFERENCES]
    return pd.concat(tables, ignore_index=True)
