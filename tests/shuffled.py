"""Data sets without an effect, for false-positive rates."""

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd

N_SETS = 200
LEVEL = 0.05
BOUNDS = (0.03, 0.07)
"""What a test at 5% may reject of data sets without an effect."""


def binary_sets(
    conditions: list[str], *, n_problems: int = 60, samples: int = 4, seed: int = 0
) -> Iterator[pd.DataFrame]:
    """Right and wrong answers whose condition labels are shuffled within problem and sample."""
    rng = np.random.default_rng(seed)
    for _ in range(N_SETS):
        skill = rng.beta(2, 1.5, n_problems)
        shape = (n_problems, samples, len(conditions))
        correct = rng.random(shape) < skill[:, None, None]
        correct = rng.permuted(correct, axis=2)
        problem, sample, condition = np.indices(shape)
        yield pd.DataFrame(
            {
                "problem": [f"p{i}" for i in problem.ravel()],
                "sample": sample.ravel(),
                "condition": [conditions[i] for i in condition.ravel()],
                "is_correct": correct.ravel(),
            }
        )


def rejected(
    tables: Iterator[pd.DataFrame], p_values: Callable[[pd.DataFrame], np.ndarray]
) -> float:
    """Share of all tests that reject at `LEVEL`."""
    return float(np.mean(np.concatenate([p_values(table) for table in tables]) <= LEVEL))
