"""Data sets without an effect, for false-positive rates."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

N_SETS = 200
LEVEL = 0.05
BOUNDS = (0.03, 0.07)
"""What a test at 5% may reject of data sets without an effect."""

PValues = Callable[[pd.DataFrame], np.ndarray]


def binary_sets(
    conditions: Sequence[str],
    *,
    n_problems: int = 60,
    samples: int = 4,
    seed: int = 0,
    alike: float = 0.0,
    n_sets: int = N_SETS,
) -> Iterator[pd.DataFrame]:
    """Right and wrong answers whose condition labels are shuffled within problem and sample.

    Problems differ in how often they are solved. ``alike`` is the share of samples whose answer is
    the same under all conditions, beside those that are so by chance.
    """
    rng = np.random.default_rng(seed)
    for _ in range(n_sets):
        skill = rng.beta(2, 1.5, n_problems)
        shape = (n_problems, samples, len(conditions))
        correct = rng.random(shape) < skill[:, None, None]
        correct = rng.permuted(correct, axis=2)
        if alike:
            same = rng.random(shape[:2]) < alike
            correct = np.where(same[..., None], correct[..., :1], correct)
        problem, sample, condition = np.indices(shape)
        yield pd.DataFrame(
            {
                "problem": [f"p{i}" for i in problem.ravel()],
                "sample": sample.ravel(),
                "condition": [conditions[i] for i in condition.ravel()],
                "is_correct": correct.ravel(),
            }
        )


def valued_sets(
    conditions: Sequence[str],
    *,
    n_problems: int = 40,
    alike: float = 0.3,
    seed: int = 0,
    n_sets: int = N_SETS,
) -> Iterator[pd.DataFrame]:
    """Skewed values that a problem's conditions draw alike, around a level of the problem.

    ``alike`` is the share of problems in which all conditions have the same value.
    """
    rng = np.random.default_rng(seed)
    for _ in range(n_sets):
        shape = (n_problems, len(conditions))
        values = rng.lognormal(size=(n_problems, 1)) + rng.lognormal(sigma=0.7, size=shape)
        same = rng.random((n_problems, 1)) < alike
        values = np.where(same, values[:, :1], values)
        problem, condition = np.indices(shape)
        yield pd.DataFrame(
            {
                "problem": [f"p{i}" for i in problem.ravel()],
                "condition": [conditions[i] for i in condition.ravel()],
                "value": values.ravel(),
            }
        )


def rejected(tables: Iterator[pd.DataFrame], p_values: PValues) -> float:
    """Share of all tests that reject at `LEVEL`; missing p-values are no tests."""
    return each_rejected(tables, {"": p_values})[""]


def each_rejected(tables: Iterator[pd.DataFrame], tests: Mapping[str, PValues]) -> dict[str, float]:
    """Share that each kind of test rejects at `LEVEL`, of the same data sets."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in tests}
    for table in tables:
        for name, p_values in tests.items():
            found[name].append(np.asarray(p_values(table), float))
    rates = {}
    for name, of_sets in found.items():
        p = np.concatenate(of_sets)
        rates[name] = float(np.mean(p[~np.isnan(p)] <= LEVEL))
    return rates


def within_bounds(rates: Mapping[str, float]) -> bool:
    """Whether every rate is about `LEVEL`."""
    return all(BOUNDS[0] <= rate <= BOUNDS[1] for rate in rates.values())
