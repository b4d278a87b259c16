"""Which candidates of the grid are evaluated: all, or in stages.

In stages, bands are chosen first, all at the default strengths, then tau_max and alpha for the
bands of each fold and of the whole; no fold's choice sees its own problems.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int

from step_saliency.calibration.candidates import Candidate, Grid, distinct
from step_saliency.calibration.folds import Chooser, best_of
from step_saliency.calibration.trials import Trials
from step_saliency.models.bands import Bands


def search_in_full(trials: Trials, grid: Grid, named: Mapping[str, Bands]) -> Chooser:
    """Evaluate every combination; returns what chooses from them."""
    trials.run_all(grid.of_all(named), "full grid")
    return lambda train: _best(grid.of_all(named), trials, train)


def search_in_stages(
    trials: Trials, grid: Grid, named: Mapping[str, Bands], folds: Int[np.ndarray, "problem"]
) -> Chooser:
    """Evaluate bands, then strengths for the best of them; returns what chooses likewise."""
    defaults = [grid.default(name, bands) for name, bands in named.items()]
    first = distinct(candidate for candidate in defaults if candidate.flow is not None)
    trials.run_all(first, "bands")

    def choose_bands(train: np.ndarray) -> str:
        return _best(first, trials, train).bands

    trains = [np.ones(len(folds), dtype=bool), *(folds != fold for fold in np.unique(folds))]
    for name in dict.fromkeys(choose_bands(train) for train in trains):
        trials.run_all(grid.of(name, named[name]), "strengths")

    def choose(train: np.ndarray) -> Candidate:
        name = choose_bands(train)
        return _best(grid.of(name, named[name]), trials, train)

    return choose


def _best(candidates: Sequence[Candidate], trials: Trials, train: np.ndarray) -> Candidate:
    scores = {c: trials.scores[c] for c in candidates if c in trials.scores}
    if not scores:
        reasons = "; ".join(dict.fromkeys(trials.errors.values())) or "there are none"
        raise ValueError(f"no candidate is left to choose from: {reasons}")
    return best_of(scores, train)
