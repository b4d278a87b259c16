"""Which error traces are compared with which correct ones, and what a problem's difference is.

A `Design` lists the traces that are compared, and the strata within which error and correct may be
exchanged: all traces of a problem, or pairs of an error and a correct trace that are alike in
length. With v the value of a trace, the difference of problem p is

    d_p = mean over the strata of p of (mean of v over errors - mean of v over correct traces)

Assumption: given the stratum, correct and error traces would be exchangeable if v had nothing to do
with correctness.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from scipy import optimize


@dataclass(frozen=True)
class Design:
    """Which traces are compared with which.

    Attributes:
        traces: Rows of the value table that are compared.
        is_error: Label of each of them.
        problem: Problem of each, numbered from 0.
        stratum: Group within which labels may be exchanged, numbered from 0: problem or matched
            pair.
    """

    traces: Int[np.ndarray, "trace"]
    is_error: Bool[np.ndarray, "trace"]
    problem: Int[np.ndarray, "trace"]
    stratum: Int[np.ndarray, "trace"]

    @cached_property
    def n_problems(self) -> int:
        return len(np.unique(self.problem))

    @cached_property
    def strata(self) -> list[Int[np.ndarray, "_"]]:
        """Positions of the members of each stratum."""
        return [np.flatnonzero(self.stratum == s) for s in range(len(np.unique(self.stratum)))]

    @cached_property
    def stratum_share(self) -> Float[np.ndarray, "stratum"]:
        """One over the number of strata in the stratum's problem."""
        problems = np.array([self.problem[members[0]] for members in self.strata])
        return 1 / np.bincount(problems, minlength=self.n_problems)[problems]

    def weights(
        self, is_error: Bool[np.ndarray, "*permutation trace"]
    ) -> Float[np.ndarray, "*permutation trace"]:
        """Weights with which the values of a problem add up to its d_p, for these labels.

        Labels may be exchanged within strata: each keeps its number of errors.
        """
        n_errors = np.bincount(self.stratum, self.is_error)
        n_corrects = np.bincount(self.stratum, ~self.is_error)
        as_error = (self.stratum_share / n_errors)[self.stratum]
        as_correct = (self.stratum_share / n_corrects)[self.stratum]
        return np.where(is_error, as_error, -as_correct)

    def by_problem(
        self, weights: Float[np.ndarray, "trace"], values: Float[np.ndarray, "trace key"]
    ) -> Float[np.ndarray, "problem key"]:
        """Weighted sums of the traces of each problem."""
        sums = np.zeros((self.n_problems, values.shape[1]))
        np.add.at(sums, self.problem, weights[:, None] * values)
        return sums


def within_problems(
    problems: np.ndarray, is_error: Bool[np.ndarray, "trace"], valid: Bool[np.ndarray, "trace"]
) -> Design:
    groups = []
    for problem in pd.unique(problems[valid]):
        members = np.flatnonzero((problems == problem) & valid)
        if len(set(is_error[members])) == 2:
            groups.append([members])
    return _design(groups, is_error)


def length_matched(
    problems: np.ndarray,
    is_error: Bool[np.ndarray, "trace"],
    valid: Bool[np.ndarray, "trace"],
    log_length: Float[np.ndarray, "trace"],
    caliper: float,
) -> Design:
    groups = []
    for problem in pd.unique(problems[valid]):
        members = np.flatnonzero((problems == problem) & valid)
        errors, corrects = members[is_error[members]], members[~is_error[members]]
        groups.append(_nearest_pairs(errors, corrects, log_length, caliper))
    return _design([pairs for pairs in groups if pairs], is_error)


def _nearest_pairs(
    errors: Int[np.ndarray, "error"],
    corrects: Int[np.ndarray, "correct"],
    log_length: Float[np.ndarray, "trace"],
    caliper: float,
) -> list[Int[np.ndarray, "2"]]:
    """One-to-one pairs within the caliper: as many as possible, then of least total distance."""
    distance = np.abs(log_length[errors][:, None] - log_length[corrects])
    within = distance <= caliper
    forbidden = 1 + caliper * min(distance.shape)
    pairs = optimize.linear_sum_assignment(np.where(within, distance, forbidden))
    return [np.array([errors[i], corrects[j]]) for i, j in zip(*pairs, strict=True) if within[i, j]]


def _design(
    groups: Sequence[Sequence[Int[np.ndarray, "_"]]], is_error: Bool[np.ndarray, "trace"]
) -> Design:
    """Design from the strata of each problem."""
    strata = [(problem, members) for problem, group in enumerate(groups) for members in group]
    sizes = [len(members) for _, members in strata]
    traces = np.concatenate([members for _, members in strata] or [np.empty(0, int)])
    return Design(
        traces=traces,
        is_error=is_error[traces],
        problem=np.repeat(np.array([problem for problem, _ in strata], int), sizes),
        stratum=np.repeat(np.arange(len(strata)), sizes),
    )
