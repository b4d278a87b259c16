"""Tango's score test of paired answers: what the difference of two shares is not.

Of n problems, b differ for the better and c for the worse. Under the hypothesis that the difference
of the shares is d, the likelihood is largest where the worse differ with probability q,

    q = (sqrt(B^2 - 8 n C) - B) / (4 n)      B = (2 n - b + c) d - b - c      C = -c d (1 - d)
    z = (b - c - n d) / sqrt(n (2 q + d (1 - d)))

which is close to standard normal also where few problems differ and d is not zero, as at the margin
of a test of equivalence; a t-test has the variance of what was seen, which is too small there. The
interval holds all d that the test does not reject.

Source: Tango, "Equivalence test and confidence interval for the difference in proportions for the
paired-sample design", Statistics in Medicine 17 (1998). Assumptions: problems are independent, each
differs by -1, 0 or 1.
"""

import math

from scipy import optimize, stats

EDGE = 1e-9
"""How close a difference comes to -1 and 1, where nothing has any variance."""


def score(better: int, worse: int, n: int, difference: float) -> float:
    """z of the hypothesis that the difference of the shares is this.

    Args:
        better: Number of problems that differ by 1.
        worse: Number of problems that differ by -1.
        n: Number of problems.
        difference: In (-1, 1).
    """
    linear = (2 * n - better + worse) * difference - better - worse
    constant = -worse * difference * (1 - difference)
    q = (math.sqrt(max(linear**2 - 8 * n * constant, 0.0)) - linear) / (4 * n)
    variance = n * (2 * q + difference * (1 - difference))
    distance = better - worse - n * difference
    if variance <= 0:
        return 0.0 if distance == 0 else math.copysign(math.inf, distance)
    return distance / math.sqrt(variance)


def equivalence_by_score(better: int, worse: int, n: int, margin: float) -> float:
    """The larger one-sided p-value; small says that the difference is within the margin.

    Args:
        better: Number of problems that differ by 1.
        worse: Number of problems that differ by -1.
        n: Number of problems.
        margin: Largest difference, either way, that counts as none, below 1.
    """
    from_below = stats.norm.sf(score(better, worse, n, -margin))
    from_above = stats.norm.cdf(score(better, worse, n, margin))
    return float(max(from_below, from_above))


def score_interval(better: int, worse: int, n: int, confidence: float) -> tuple[float, float]:
    """All differences that the score test does not reject.

    Args:
        better: Number of problems that differ by 1.
        worse: Number of problems that differ by -1.
        n: Number of problems.
        confidence: Level of the interval.
    """
    critical, seen = float(stats.norm.ppf((1 + confidence) / 2)), (better - worse) / n

    def end(towards: float) -> float:
        def inside(difference: float) -> float:
            return critical - abs(score(better, worse, n, difference))

        if abs(seen - towards) < EDGE or inside(towards) >= 0:
            return towards
        return float(optimize.brentq(inside, seen, towards))

    return end(-1 + EDGE), end(1 - EDGE)
