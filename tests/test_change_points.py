"""Bands read off depth curves: planted changes are found, and none where there is none."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from maps import make_saliency, make_trace

from step_saliency.diagnosis import Bands, Diagnosis, diagnose, find_bands
from step_saliency.diagnosis.change_points import FEWEST

N_LAYERS = 12


@pytest.fixture(scope="module")
def some_diagnosis() -> Diagnosis:
    return diagnose(make_saliency(torch.rand(N_LAYERS, 5, 5).tril(), make_trace("QTTTS")))


def diagnoses(some: Diagnosis, lock_in: np.ndarray, decay: np.ndarray) -> list[Diagnosis]:
    """One trace a problem; curves of shape problem x layer."""
    return [
        replace(some, lock_in=torch.tensor(a), decay=torch.tensor(b), problem=f"p{i}")
        for i, (a, b) in enumerate(zip(lock_in, decay, strict=True))
    ]


def levels(before: float, after: float, change: int, noise: np.ndarray) -> np.ndarray:
    return np.where(np.arange(N_LAYERS) < change, before, after) + noise


def test_planted_changes_are_found(some_diagnosis: Diagnosis) -> None:
    rng = np.random.default_rng(0)
    lock_in = levels(0.8, 0.3, 3, 0.1 * rng.normal(size=(20, N_LAYERS)))
    decay = levels(0.5, 0.2, 10, 0.1 * rng.normal(size=(20, N_LAYERS)))
    choice = find_bands(diagnoses(some_diagnosis, lock_in, decay))
    assert choice.bands == Bands(tuple(range(3)), tuple(range(3, 10)), (10, 11))
    assert min(choice.explained.values()) > 0.9
    table = choice.layers.set_index(["metric", "layer"])
    assert table.loc[("lock_in", 0), "frequency"] == 1
    assert table.loc[("lock_in", 11), "frequency"] == 0
    assert table.loc[("decay", 11), "estimate"] == pytest.approx(decay[:, 11].mean())


def test_single_curves_against_all_pairs_of_levels(some_diagnosis: Diagnosis) -> None:
    """The search by hand: every allowed pair of changes, least squares by numpy."""
    rng = np.random.default_rng(1)
    curves = np.repeat(rng.normal(size=(2, 1, N_LAYERS)), FEWEST, axis=1)
    choice = find_bands(diagnoses(some_diagnosis, *curves), confidence=1e-9, n_resamples=1)

    def share(x: np.ndarray, change: int) -> float:
        parts = x[:change], x[change:]
        return sum(len(part) * part.var() for part in parts) / (len(x) * x.var())

    a, b = curves[:, 0]
    pairs = [(i, j) for i in range(1, N_LAYERS) for j in range(i, N_LAYERS)]
    first, second = min(pairs, key=lambda pair: share(a, pair[0]) + share(b, pair[1]))
    assert choice.explained["lock_in"] == pytest.approx(1 - share(a, first))
    assert choice.explained["decay"] == pytest.approx(1 - share(b, second))


def test_changes_of_the_other_direction_make_no_band(some_diagnosis: Diagnosis) -> None:
    rng = np.random.default_rng(0)
    noise = 0.05 * rng.normal(size=(2, 20, N_LAYERS))
    rising = levels(0.2, 0.6, 5, noise[0]), levels(0.2, 0.6, 7, noise[1])
    choice = find_bands(diagnoses(some_diagnosis, *rising))
    assert choice.bands == Bands((), tuple(range(N_LAYERS)), ())
    assert max(choice.support.values()) < 0.05


def test_bands_do_not_overlap_where_the_single_changes_would(some_diagnosis: Diagnosis) -> None:
    rng = np.random.default_rng(0)
    noise = 0.05 * rng.normal(size=(2, 20, N_LAYERS))
    choice = find_bands(
        diagnoses(some_diagnosis, levels(0.8, 0.3, 8, noise[0]), levels(0.5, 0.2, 5, noise[1]))
    )
    assert not set(choice.bands.shallow) & set(choice.bands.deep)


def test_noise_rarely_makes_a_band(some_diagnosis: Diagnosis) -> None:
    """Problems that agree in nothing: the direction is a coin toss, not a finding."""
    rng = np.random.default_rng(3)
    found = []
    for _ in range(40):
        curves = rng.normal(size=(2, 30, N_LAYERS))
        choice = find_bands(diagnoses(some_diagnosis, *curves), n_resamples=200)
        found += [bool(choice.bands.shallow), bool(choice.bands.deep)]
    assert np.mean(found) < 0.3


def test_bad_input(some_diagnosis: Diagnosis) -> None:
    with pytest.raises(ValueError, match="no diagnoses"):
        find_bands([])
    with pytest.raises(ValueError, match="no name of its problem"):
        find_bands([replace(some_diagnosis, problem=None)])
    with pytest.raises(ValueError, match="layers"):
        find_bands([replace(some_diagnosis, layers=(0, 1), problem="p")])
    with pytest.raises(ValueError, match="confidence=2"):
        find_bands([replace(some_diagnosis, problem="p")], confidence=2)
    few = [replace(some_diagnosis, problem=str(i)) for i in range(FEWEST - 1)]
    with pytest.raises(ValueError, match=f"traces of {FEWEST - 1} problems"):
        find_bands([*few, *few])
    nothing = replace(some_diagnosis, lock_in=torch.full((N_LAYERS,), torch.nan), problem="p")
    with pytest.raises(ValueError, match="no trace has both"):
        find_bands([nothing])
