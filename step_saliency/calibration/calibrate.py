"""Which layer bands, tau_max and alpha: chosen on a validation set, judged on what was left out.

Candidates are pairs of bands (shallow layers for the odds-equal bridge, deep layers for momentum)
with a strength of each. Every candidate answers every problem once, with the same random numbers;
a_cp is the accuracy of candidate c on problem p, averaged over samples. With F_1 ... F_k a split of
the problems,

    c_i        = argmax_c mean_{p not in F_i} a_cp            chosen without fold i
    held out   = mean_p a_{c_i(p) p} - a_{0 p}                i(p) the fold of p, 0 no intervention
    chosen     = argmax_c mean_p a_cp                         what is returned

The largest entry of the curve is biased upwards, since it was chosen for being large; the held-out
difference is not. Intervals draw problems with replacement (`stats.resampling.Bootstrap`). In
stages, no fold's choice sees its own problems either (`step_saliency.calibration.search`).

When it misleads: the folds' choices share most of their problems, so that the interval of the
held-out difference is somewhat too narrow; a gain within it is no gain. Problems of one kind
calibrate for that kind. No candidate need be better than none: look at ``held_out`` first.
"""

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Unpack

import numpy as np
from jaxtyping import Int

from step_saliency.calibration.band_pairs import bands_to_try
from step_saliency.calibration.candidates import NO_FLOW, Grid
from step_saliency.calibration.folds import Chooser, Intervals, cross_validated, fold_numbers
from step_saliency.calibration.problems import GradedQuestion
from step_saliency.calibration.result import Calibration, curve_of
from step_saliency.calibration.search import search_in_full, search_in_stages
from step_saliency.calibration.trials import Trials
from step_saliency.diagnosis import BandChoice
from step_saliency.models.bands import Bands
from step_saliency.options import (
    CALIBRATION_DRAWS,
    Decoding,
    DecodingMethod,
    DecodingOptions,
    Draws,
    check_keywords,
    check_option,
    is_finite,
    is_whole,
    refuse,
    shows_keywords,
    with_keywords,
)
from step_saliency.storage.files import make_folder
from step_saliency.storage.lock import FolderLock
from step_saliency.tasks.answers import Grader

Search = Literal["auto", "full", "staged"]

FULL_GRID = 24
"""Largest grid that "auto" evaluates in full."""


class CalibrationOptions(DecodingOptions, total=False):
    """The fields of `Decoding`, the loop, and how intervals are drawn, as keywords."""

    method: DecodingMethod
    confidence: float | int
    n_resamples: int
    grade: Grader | None


DEFAULTS: dict[str, Any] = (
    vars(CALIBRATION_DRAWS) | vars(Decoding()) | {"method": "auto", "grade": None}
)


@shows_keywords(CalibrationOptions, DEFAULTS, documented_by=Decoding)
def calibrate(
    model: Any,
    problems: Sequence[Any],
    *,
    taus: Sequence[float | int] = (0.05, 0.15, 0.3),
    alphas: Sequence[float | int] = (0.02, 0.06, 0.12),
    bands: str | Mapping[str, Bands] = "auto",
    search: Search = "auto",
    n_folds: int = 5,
    n_label_free: int = 32,
    decoding: Decoding | None = None,
    draws: Draws | None = None,
    out: str | os.PathLike[str] | None = None,
    progress: bool = True,
    **options: Unpack[CalibrationOptions],
) -> Calibration:
    """Choose layer bands, tau_max and alpha of `StepFlow` on a validation set.

    Generates ``n`` responses per problem without intervention and for each candidate. In stages
    that is 1 + B + C (T A - 1) runs, with B pairs of bands (10 at most by default), T taus, A
    alphas, and C, from 1 to B, the different bands that the folds and the whole set choose: about
    20 to 50 runs by default. In full it is 1 + B T A.

    How responses are decoded is said by keywords (``n=4, temperature=1.0``), by a `Decoding` that
    several calls share, or by both: keywords change the object. So it is with `Draws`.

    Args:
        model: HookedTransformer or TransformerBridge with a tokenizer.
        problems: Objects or mappings with a ``question`` and either ``grade(trace)``, whose result
            has ``is_correct``, or a gold ``answer``. Those with the same question count as one.
        taus: Candidates of tau_max; 0 is no bridge.
        alphas: Candidates of alpha; 0 is no injection.
        bands: Pairs by name; or ``"auto"``: bottom and top quarter, third and half, pairs of
            windows of a quarter, and the label-free choice of `find_bands`.
        search: ``"full"``, every combination; ``"staged"``, bands at the default strengths (0.15
            and 0.06, or the middle of those given), then strengths for the best bands; ``"auto"``,
            in full up to 24 combinations.
        n_folds: Folds of problems.
        n_label_free: Problems whose responses without intervention give the depth curves of the
            label-free choice.
        decoding: How responses are decoded; a `Decoding` of defaults if there is none.
        draws: How intervals are drawn; by default 2000 draws of problems by the seed of decoding.
        out: Folder to which every response is written as it is done, and the tables at the end; a
            second call with the same settings goes on where the first was broken off. One call
            writes there at a time.
        progress: Show a progress bar, and say how many responses are to come.
        options: Fields of `Decoding`, and those below.
        method: As for `generate`.
        seed: Of all samples, of the folds and of the intervals.
        confidence: Level of the intervals.
        n_resamples: Draws of problems.
        grade: Judges responses in place of the problems: a function of the part that is graded and
            the gold answer (empty without one), see `step_saliency.tasks.answers.is_correct`.

    Returns:
        The flow that was chosen, with the held-out gain and the accuracy of every candidate.

    Raises:
        TypeError: an unknown keyword.
        ValueError: too few problems, a problem without a gold answer, an option out of range, or no
            candidate that could be evaluated; a folder that another call is writing.
        RuntimeError: memory that is not enough; ``batch_size=`` says how much is decoded together.

    Warns:
        UserWarning: candidates that could not be evaluated, of which ``curve`` says why.
    """
    check_keywords("calibrate", options, CalibrationOptions)
    check_option("search", search, ("auto", "full", "staged"))
    decoding = with_keywords(decoding or Decoding(), options)
    draws = with_keywords(draws or replace(CALIBRATION_DRAWS, seed=decoding.seed), options)
    graded = [GradedQuestion.of(problem, options.get("grade")) for problem in problems]
    n_questions = len({problem.question for problem in graded})
    _check(n_questions, n_folds, n_label_free, taus, alphas, bands)
    folds = fold_numbers(n_questions, n_folds, decoding.seed)
    grid = Grid(tuple(map(float, taus)), tuple(map(float, alphas)))
    folder = None if out is None else Path(out)
    method = options.get("method", "auto")
    with (
        _alone_in(folder),
        Trials(model, graded, decoding, method=method, out=folder, progress=progress) as trials,
    ):
        traces = trials.run(NO_FLOW)
        choice, named = bands_to_try(trials, model, bands, traces[: n_label_free * decoding.n])
        small = len(grid.of_all(named)) <= FULL_GRID
        if search == "full" or (search == "auto" and small):
            choose = search_in_full(trials, grid, named)
        else:
            choose = search_in_stages(trials, grid, named, folds)
        trials.warn()
        result = _judged(trials, folds, choose, Intervals(draws), choice)
        if folder is not None:
            result.save(folder)
    return result


def _alone_in(folder: Path | None) -> AbstractContextManager[object]:
    """The lock of a folder, which is made if it is not there."""
    if folder is None:
        return nullcontext()
    make_folder(folder)
    return FolderLock(folder)


def _judged(
    trials: Trials,
    folds: Int[np.ndarray, "problem"],
    choose: Chooser,
    intervals: Intervals,
    label_free: BandChoice | None,
) -> Calibration:
    """The choice on all problems, and what such choices are worth on those they did not see."""
    by_fold, held_out = cross_validated(trials.scores, folds, choose, intervals)
    chosen = choose(np.ones(len(folds), dtype=bool))
    assert chosen.flow is not None
    return Calibration(
        flow=chosen.flow,
        chosen=chosen,
        curve=curve_of(trials, intervals, relative=False),
        differences=curve_of(trials, intervals, relative=True),
        folds=by_fold,
        held_out=held_out,
        label_free=label_free,
    )


def _check(
    n: int,
    n_folds: int,
    n_label_free: int,
    taus: Sequence[float | int],
    alphas: Sequence[float | int],
    bands: str | Mapping[str, Bands],
) -> None:
    if not is_whole(n_folds) or not is_whole(n_label_free):
        raise ValueError(f"n_folds={n_folds!r} and n_label_free={n_label_free!r} are whole numbers")
    wrong = {
        f"n_folds={n_folds} is below 2": n_folds < 2,
        f"n_label_free={n_label_free} is below 1": n_label_free < 1,
        f"{n} different problems are too few for {n_folds} folds": n < n_folds,
        f"taus={list(taus)} must be in [0, 1)": not taus
        or any(not is_finite(t) or not 0 <= t < 1 for t in taus),
        f"alphas={list(alphas)} must be 0 or above": not alphas
        or any(not is_finite(a) or a < 0 for a in alphas),
        "taus and alphas are all 0, which leaves no candidate": not any(taus) and not any(alphas),
        f"bands={bands!r} is neither 'auto' nor a mapping from names to Bands": (
            bands != "auto" if isinstance(bands, str) else not _are_bands(bands)
        ),
    }
    refuse(wrong)


def _are_bands(bands: object) -> bool:
    return (
        isinstance(bands, Mapping)
        and bool(bands)
        and all(isinstance(some, Bands) for some in bands.values())
    )
