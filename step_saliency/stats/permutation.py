"""Permutation tests by problem, two-sided: exact where the arrangements are few, drawn otherwise.

    sign flips   P(|sum_p s_p x_p| >= |sum_p x_p|) over the signs s: two conditions of problem p
                 that are exchangeable differ by x_p or -x_p alike
    labels       the same over exchanges of labels within strata, such as the traces of a problem

A test is exact up to ``n_permutations`` arrangements; beyond, so many are drawn and the observed
one is counted besides (Phipson and Smyth, "Permutation p-values should never be zero", 2010).

Assumptions: problems are independent; under the null hypothesis the arrangements are equally
likely, which exchangeable conditions give. When it misleads: a one-sample statistic that is skewed
about zero is not symmetric under sign flips.
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from step_saliency.options import Draws
from step_saliency.stats.resampling import column_chunks


def sign_flip_p(
    differences: Float[np.ndarray, "problem key"],
    *,
    n_permutations: int = Draws.n_permutations,
    seed: int = 0,
) -> tuple[Float[np.ndarray, "key"], bool]:
    """Paired permutation test by problem, and whether it is exact.

    Exchanging two conditions within a problem flips the sign of its difference. Missing differences
    take no part.

    Args:
        differences: One row a problem.
        n_permutations: Arrangements up to which the test is exact, and the number drawn beyond.
        seed: Of the draws.
    """
    known = np.nan_to_num(differences)
    signs, exact = sign_flips(len(known), n_permutations, seed)
    return permutation_p_values(signs, known, known.sum(0), exact), exact


def sign_flips(
    n: int, n_permutations: int, seed: int
) -> tuple[Float[np.ndarray, "permutation problem"], bool]:
    """Signs of the problems' differences, and whether these are all there are."""
    if 2**n <= n_permutations:
        return np.array(list(itertools.product((1.0, -1.0), repeat=n))), True
    rng = np.random.default_rng([seed, 2])
    return rng.choice([1.0, -1.0], size=(n_permutations, n)), False


def exchanged_labels(
    labels: Bool[np.ndarray, "row"],
    strata: Sequence[Int[np.ndarray, "_"]],
    n_permutations: int,
    seed: int,
) -> tuple[Bool[np.ndarray, "permutation row"], bool]:
    """Labels exchanged within strata, and whether these are all arrangements.

    Args:
        labels: Label of each row.
        strata: Rows of each stratum; together all rows.
        n_permutations: Arrangements up to which all are listed, and the number drawn beyond.
        seed: Of the draws.
    """
    n_true = [int(labels[members].sum()) for members in strata]
    sizes = zip(strata, n_true, strict=True)
    if math.prod(math.comb(len(members), n) for members, n in sizes) <= n_permutations:
        return _all_labels(labels, strata, n_true), True
    return _drawn_labels(labels, strata, n_permutations, seed), False


def _all_labels(
    labels: Bool[np.ndarray, "row"], strata: Sequence[Int[np.ndarray, "_"]], n_true: Sequence[int]
) -> Bool[np.ndarray, "permutation row"]:
    sizes = zip(strata, n_true, strict=True)
    choices = [list(itertools.combinations(range(len(members)), n)) for members, n in sizes]
    arrangements = np.zeros((math.prod(map(len, choices)), len(labels)), bool)
    for row, positions in zip(arrangements, itertools.product(*choices), strict=True):
        for members, of_stratum in zip(strata, positions, strict=True):
            row[members[list(of_stratum)]] = True
    return arrangements


def _drawn_labels(
    labels: Bool[np.ndarray, "row"], strata: Sequence[Int[np.ndarray, "_"]], n: int, seed: int
) -> Bool[np.ndarray, "permutation row"]:
    rng = np.random.default_rng([seed, 1])
    arrangements = np.zeros((n, len(labels)), bool)
    for members in strata:
        arrangements[:, members] = rng.permuted(np.tile(labels[members], (n, 1)), axis=1)
    return arrangements


def permutation_p_values(
    weights: Float[np.ndarray, "permutation term"],
    values: Float[np.ndarray, "term key"],
    observed: Float[np.ndarray, "key"],
    exact: bool,
) -> Float[np.ndarray, "key"]:
    """Share of the arrangements whose weighted sum is as far from zero as the observed one.

    Args:
        weights: One row an arrangement.
        values: What is summed, one column a key.
        observed: The sums as they are.
        exact: Whether the rows are all arrangements, the observed one among them; otherwise they
            are draws, and the observed one is counted besides.
    """
    # Sums that are equal on paper differ in the last bits with the order of the terms.
    slack = 1e-9 * np.abs(weights).max(0) @ np.abs(values)
    threshold = np.abs(observed) - slack
    chunks = zip(column_chunks(values), column_chunks(threshold[None]), strict=True)
    as_large = np.concatenate([(np.abs(weights @ v) >= t).sum(0) for v, t in chunks])
    return as_large / len(weights) if exact else drawn_p(as_large, len(weights))


def drawn_p(
    as_large: Int[np.ndarray, "*key"] | np.integer | int, n_permutations: int
) -> Float[np.ndarray, "*key"]:
    """p-values from the number of drawn arrangements as extreme as the observed one."""
    return np.asarray((1 + as_large) / (1 + n_permutations))
