"""What a calibration found: the choice, its held-out gain, and the accuracy of every candidate."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from step_saliency.calibration.candidates import NO_FLOW, Candidate, spelled
from step_saliency.calibration.folds import Intervals
from step_saliency.calibration.trials import Trials
from step_saliency.diagnosis import BandChoice
from step_saliency.intervene.stepflow import StepFlow
from step_saliency.storage.files import write_text
from step_saliency.storage.tables import write_frame


@dataclass(frozen=True, eq=False)
class Calibration:
    """What was chosen, and how sure it is.

    Attributes:
        flow: The intervention that was best on all problems.
        chosen: The same as bands and strengths.
        curve: One row per candidate and one, ``bands="none"``, without intervention: ``stage,
            bands, shallow, deep, tau_max, alpha, estimate, lower, upper, n, error``; accuracy with
            its interval over ``n`` problems, or why the candidate failed.
        differences: The same of the accuracy minus that without intervention, paired by problem.
        folds: Per fold, what was chosen without it and three rows of accuracy on it by
            ``condition``: ``chosen``, ``baseline`` and ``difference``.
        held_out: The three conditions over all folds: what to expect on new problems.
        label_free: Bands read off the depth curves of the answers without intervention, which needs
            no grades; None where no curve could be had, or bands were given.
    """

    flow: StepFlow
    chosen: Candidate
    curve: pd.DataFrame
    differences: pd.DataFrame
    folds: pd.DataFrame
    held_out: pd.DataFrame
    label_free: BandChoice | None

    def __str__(self) -> str:
        gain = self.held_out.set_index("condition").loc["difference"]
        n_failed = int(self.curve["error"].notna().sum())
        failed = f"; {n_failed} of {len(self.curve) - 1} candidates failed" if n_failed else ""
        return (
            f"bands {self.chosen.bands} (OEB in {spelled(self.chosen.shallow)}, SMI in "
            f"{spelled(self.chosen.deep)}), tau_max {self.chosen.tau_max:g}, alpha "
            f"{self.chosen.alpha:g}; held-out gain {gain['estimate']:+.3f} "
            f"[{gain['lower']:+.3f}, {gain['upper']:+.3f}] over {gain['n']:.0f} problems{failed}"
        )

    def _repr_html_(self) -> str:
        tables = {
            "Held out": self.held_out,
            "Folds": self.folds,
            "Accuracy of every candidate": self.curve,
        }
        parts = [
            f"<h4>{name}</h4>{table.to_html(index=False, na_rep='', float_format='{:.3g}'.format)}"
            for name, table in tables.items()
        ]
        return f"<p>{self}</p>{''.join(parts)}"

    def save(self, folder: Path) -> None:
        """Write the tables and the choice into a folder."""
        for name in ("curve", "differences", "folds", "held_out"):
            write_frame(folder / f"{name}.parquet", getattr(self, name))
        write_text(folder / "chosen.json", json.dumps(asdict(self.chosen), indent=2))


def curve_of(trials: Trials, intervals: Intervals, *, relative: bool) -> pd.DataFrame:
    """One row per candidate, see `Calibration`.

    Args:
        trials: All that was tried.
        intervals: Of means over problems.
        relative: Whether the accuracy without intervention is taken off.
    """
    missing = {"estimate": np.nan, "lower": np.nan, "upper": np.nan, "n": 0}
    rows = []
    for candidate, stage in trials.stages.items():
        scores = trials.scores.get(candidate)
        if scores is not None and relative:
            scores = scores - trials.scores[NO_FLOW]
        numbers = missing if scores is None else intervals.of(scores)
        error = trials.errors.get(candidate)
        rows.append({"stage": stage, **candidate.columns(), **numbers, "error": error})
    return pd.DataFrame(rows).astype({"error": "string"})
