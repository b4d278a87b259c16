"""Do intervals cover, and do tests reject, as often as they say?

Question: data sets of n problems are drawn whose truth is known. Then

    coverage   share of the 95% intervals that hold the true mean
    type I     share of the data sets with no effect in which p <= 0.05
    too sure   share of the data sets with a difference of exactly the margin that are called
               equivalent at 0.05

    normal       differences with mean 0 and standard deviation 1
    lognormal    exp(z) - exp(1/2): skewed, mean 0
    correlation  correlations of 12 pairs of normal variables whose true rho is 0 (type I), 0.6
                 (coverage, of the mean of such correlations)
    rare flips   1, 0 or -1 with few changes: 1% better and 1% worse (type I), 3% better and none
                 worse (coverage), 5% better and none worse at a margin of 5% (too sure)

Intervals and tests are those of the tables: the bootstrap at expanded levels, Newcombe's interval
where fewer than five answers changed, sign flips, McNemar's mid-p test. "bootstrap alone" is what
rare flips would have without the rule. Sampling error is about one percentage point.

    python benchmarks/problem_statistics.py --out benchmarks/results/statistics.md

When it misleads: problems are drawn independently here; nothing shows what samples that share a
problem do, which the tables reduce to one number first.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from step_saliency.options import Draws
from step_saliency.stats.binary import mcnemar
from step_saliency.stats.counts import difference_from_counts
from step_saliency.stats.equivalence import equivalence
from step_saliency.stats.permutation import sign_flip_p
from step_saliency.stats.resampling import Bootstrap
from step_saliency.storage.files import write_text

SIZES = (5, 12, 60, 176, 1000)
MARGIN = 0.05
Sets = np.ndarray


def normal(rng: np.random.Generator, n: int, sets: int) -> Sets:
    """Differences without skew."""
    return rng.normal(size=(n, sets))


def lognormal(rng: np.random.Generator, n: int, sets: int) -> Sets:
    """Skewed differences of mean 0."""
    return np.exp(rng.normal(size=(n, sets))) - np.exp(0.5)


def correlations(rng: np.random.Generator, n: int, sets: int, rho: float = 0.0) -> Sets:
    """Sample correlations of 12 pairs."""
    x, z = rng.normal(size=(2, 12, n, sets))
    y = rho * x + np.sqrt(1 - rho**2) * z
    x, y = x - x.mean(0), y - y.mean(0)
    return (x * y).sum(0) / np.sqrt((x**2).sum(0) * (y**2).sum(0))


def flips(rng: np.random.Generator, n: int, sets: int, better: float, worse: float) -> Sets:
    """Differences of paired right and wrong answers."""
    u = rng.random((n, sets))
    return (u < better).astype(float) - (u > 1 - worse)


def bootstrap_interval(differences: Sets, draws: Draws) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper end, one a data set."""
    return Bootstrap(len(differences), draws).interval(differences)


def table_interval(differences: Sets, draws: Draws) -> tuple[np.ndarray, np.ndarray]:
    """The interval of `binary_table`: from counts where few answers changed."""
    lower, upper = bootstrap_interval(differences, draws)
    for column, values in enumerate(differences.T):
        limits = difference_from_counts(values, draws.confidence)
        if limits is not None:
            lower[column], upper[column] = limits
    return lower, upper


def covered(interval: tuple[np.ndarray, np.ndarray], truth: float) -> float:
    """Share of the intervals that hold the truth."""
    lower, upper = interval
    return float(((lower <= truth + 1e-12) & (upper >= truth - 1e-12)).mean())


def sign_rate(differences: Sets, draws: Draws) -> float:
    """Share of the data sets that sign flips reject."""
    p = sign_flip_p(differences, n_permutations=draws.n_permutations, seed=draws.seed)[0]
    return float((p <= 0.05).mean())


def mid_p_rate(differences: Sets) -> float:
    """Share of the data sets that McNemar's mid-p test rejects."""
    p = [mcnemar(values < 0, values > 0)["p_mid"] for values in differences.T]
    return float((np.array(p) <= 0.05).mean())


def too_sure(differences: Sets, bound: float | None) -> float:
    """Share of the data sets that are called equivalent within the margin."""
    p = [equivalence(values, margin=MARGIN, bound=bound).p for values in differences.T]
    return float((np.array(p) <= 0.05).mean())


def rows(sets: int, draws: Draws) -> dict[str, Callable[[np.random.Generator, int], Any]]:
    """What is measured, by its line of the table."""

    def mean_of_correlations(rng: np.random.Generator, n: int) -> float:
        truth = float(correlations(np.random.default_rng(1), 1000, 500, 0.6).mean())
        return covered(bootstrap_interval(correlations(rng, n, sets, 0.6), draws), truth)

    return {
        "coverage | normal": lambda rng, n: covered(
            bootstrap_interval(normal(rng, n, sets), draws), 0
        ),
        "coverage | lognormal": lambda rng, n: covered(
            bootstrap_interval(lognormal(rng, n, sets), draws), 0
        ),
        "coverage | correlation": mean_of_correlations,
        "coverage | rare flips": lambda rng, n: covered(
            table_interval(flips(rng, n, sets, 0.03, 0), draws), 0.03
        ),
        "coverage | rare flips, bootstrap alone": lambda rng, n: covered(
            bootstrap_interval(flips(rng, n, sets, 0.03, 0), draws), 0.03
        ),
        "type I | normal": lambda rng, n: sign_rate(normal(rng, n, sets), draws),
        "type I | lognormal": lambda rng, n: sign_rate(lognormal(rng, n, sets), draws),
        "type I | correlation": lambda rng, n: sign_rate(correlations(rng, n, sets), draws),
        "type I | rare flips, sign flips": lambda rng, n: sign_rate(
            flips(rng, n, sets, 0.01, 0.01), draws
        ),
        "type I | rare flips, mid-p": lambda rng, n: mid_p_rate(flips(rng, n, sets, 0.01, 0.01)),
        "too sure | normal, sd 0.1": lambda rng, n: too_sure(
            MARGIN + 0.1 * normal(rng, n, sets), None
        ),
        "too sure | rare flips": lambda rng, n: too_sure(flips(rng, n, sets, MARGIN, 0), 1.0),
        "too sure | rare flips, t-tests alone": lambda rng, n: too_sure(
            flips(rng, n, sets, MARGIN, 0), None
        ),
    }


def report(sets: int, draws: Draws, seed: int) -> str:
    """The table as Markdown, in percent."""
    lines = [
        "# Intervals and tests by number of problems",
        "",
        f"{sets} data sets each, {draws.n_resamples} resamples, {draws.n_permutations} "
        f"permutations, seed {seed}. Percent; 95 is right for coverage, 5 at most for type I and "
        "too sure. What is drawn: `benchmarks/problem_statistics.py`.",
        "",
        "| | data | " + " | ".join(f"n = {n}" for n in SIZES) + " |",
        "|---|---|" + "---:|" * len(SIZES),
    ]
    for number, (name, measure) in enumerate(rows(sets, draws).items()):
        values = [measure(np.random.default_rng([seed, number, n]), n) for n in SIZES]
        lines.append(f"| {name} | " + " | ".join(f"{100 * v:.1f}" for v in values) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write or print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", type=int, default=1000)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--permutations", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    draws = Draws(n_resamples=args.resamples, n_permutations=args.permutations, seed=args.seed)
    text = report(args.sets, draws, args.seed)
    if args.out is None:
        print(text)
    else:
        write_text(args.out, text)


if __name__ == "__main__":
    main()
