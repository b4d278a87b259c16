"""What a thinking step is worth by what was drawn before and behind it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool

from analyses.material.worked import stated

Differs = Literal["numbers", "text"]
DIGITS = 9
"""Of worths."""


@dataclass(frozen=True)
class Drawn:
    """What continuations from one place became.

    Attributes:
        outcomes: Whether each ends in the same answer, and in the right one; without the former
            where the answer itself has none.
        differs: Whether its first new step is another one than it was.
    """

    outcomes: Mapping[str, Bool[np.ndarray, "rollout"]]
    differs: Bool[np.ndarray, "rollout"]


def worths(drawn: Mapping[int, Drawn], steps: Sequence[int]) -> pd.DataFrame:
    """What steps are worth by what was drawn before and behind them.

    Args:
        drawn: Continuations by place; place i is before step i.
        steps: Steps, each with both of its places.

    Returns:
        One row per step, importance and outcome: ``kept, anew, n_anew, value``, and ``half,
        other_half``, the value by every other continuation. Missing where no step was another one.
    """
    rows = []
    for step in steps:
        before, behind = drawn[step], drawn[step + 1]
        masks = {"resample": np.ones_like(before.differs), "counterfactual": before.differs}
        for importance, mask in masks.items():
            for outcome, kept in behind.outcomes.items():
                anew = before.outcomes[outcome]
                about = {"step": step, "importance": importance, "outcome": outcome}
                rows.append(about | _worth(kept, anew, mask))
    return pd.DataFrame(rows)


def _worth(
    kept: Bool[np.ndarray, "rollout"],
    anew: Bool[np.ndarray, "rollout"],
    counted: Bool[np.ndarray, "rollout"],
) -> dict[str, float | int]:
    """Difference of shares, by all continuations and by every other one."""
    values = [
        _share(kept[part]) - _share(anew[part][counted[part]])
        for part in (slice(None), slice(0, None, 2), slice(1, None, 2))
    ]
    # Equal differences differ in their last bits, by which ranks would tell them apart.
    whole, half, other_half = (round(value, DIGITS) for value in values)
    shares = {"kept": _share(kept), "anew": _share(anew[counted]), "n_anew": int(counted.sum())}
    return {**shares, "value": whole, "half": half, "other_half": other_half}


def _share(values: Bool[np.ndarray, "rollout"]) -> float:
    return float(values.mean()) if len(values) else np.nan


def is_another(new: str, old: str, by: Differs) -> bool:
    """Whether a drawn step is another one than it was; see the module docstring."""
    if by == "numbers":
        numbers = set(stated(new)), set(stated(old))
        if any(numbers):
            return numbers[0] != numbers[1]
    return new.casefold().split() != old.casefold().split()
