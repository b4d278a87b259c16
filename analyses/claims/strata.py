"""Does an intervention gain more where problems are hard?

Difficulty of a problem is the share of independent samples, drawn without the intervention, that
solve it; gains are of other answers (greedy ones), so that luck in the samples is not luck in the
gain. Strata: at most a quarter of the samples right, more than a quarter and less than three
quarters, at least three quarters. What the question asks is the difference between the outer two.

When it misleads: an answer that is wrong can only be mended, one that is right only be broken. Any
change that flips answers, whatever it does, so seems to gain more where fewer of the answers that
it changes were right; where these are all wrong on one side or all right on the other, the
difference can have one sign only. The shares of answers that were right stand beside the gains;
between the ends, a placebo that flips as many answers shows what flips alone do.
"""

import math
from typing import Any

import pandas as pd
from scipy import stats

from step_saliency.options import Draws
from step_saliency.stats.problems import mean_table

STRATA = ("hard", "middling", "easy")
EDGES = (0.25, 0.75)
CONTRAST = "hard - easy"


def strata_of(samples: pd.DataFrame) -> pd.Series:
    """Stratum of each problem.

    Args:
        samples: Columns ``problem, is_correct``; several rows a problem.
    """
    solved = samples.groupby("problem")["is_correct"].mean()
    return solved.map(lambda rate: STRATA[int(rate > EDGES[0]) + int(rate >= EDGES[1])])


def gains_by_difficulty(
    answers: pd.DataFrame,
    samples: pd.DataFrame,
    *,
    baseline: str = "baseline",
    seed: int = 0,
    **draws: Any,
) -> pd.DataFrame:
    """Gain of each condition over the baseline, by stratum, with intervals over problems.

    Args:
        answers: Columns ``problem, condition, is_correct``.
        samples: Independent samples of the baseline; as for `strata_of`.
        baseline: Its condition.
        seed: Of the draws.
        draws: As of `mean_table`.

    Returns:
        One row per condition and stratum: ``estimate, lower, upper, n``, a p-value against 0, and
        ``reference_share``, the baseline's answers that are right. One more per condition of the
        stratum `CONTRAST`: mean gain of hard problems minus that of easy ones, with Welch's
        interval and test; ``hard_share, easy_share`` are the baseline's shares in both.
    """
    right = answers.groupby(["problem", "condition"])["is_correct"].mean().unstack()
    gains = right.drop(columns=baseline).sub(right[baseline], axis=0)
    long = gains.reset_index().melt(id_vars="problem", value_name="gain")
    long["stratum"] = long["problem"].map(strata_of(samples))
    long["reference"] = long["problem"].map(right[baseline])
    known = long.dropna(subset=["stratum", "gain"])
    by = ["condition", "stratum"]
    table = mean_table(known, "gain", by=by, null=0.0, kind="difference", seed=seed, **draws)
    shares = known.groupby(by)["reference"].mean().rename("reference_share")
    table = table.merge(shares.reset_index(), on=by)
    confidence = draws.get("confidence", Draws().confidence)
    contrasts = [
        {"condition": condition, "stratum": CONTRAST, **hard_minus_easy(of_one, confidence)}
        for condition, of_one in known.groupby("condition", sort=False)
    ]
    return pd.concat([table, pd.DataFrame(contrasts)], ignore_index=True)


def hard_minus_easy(gains: pd.DataFrame, confidence: float) -> dict[str, Any]:
    """Two sets of problems, so nothing is paired; without spread there is no interval.

    Args:
        gains: Columns ``stratum, gain, reference`` of one condition, one row a problem.
        confidence: Of the interval.
    """
    sides = [gains[gains["stratum"] == name] for name in ("hard", "easy")]
    hard, easy = (side["gain"] for side in sides)
    row = {
        "estimate": hard.mean() - easy.mean(), "lower": math.nan, "upper": math.nan,
        "n": len(hard) + len(easy), "p": math.nan, "interval": "none", "interval_corrected": False,
        "hard_share": sides[0]["reference"].mean(), "easy_share": sides[1]["reference"].mean(),
    }  # fmt: skip
    if min(len(hard), len(easy)) < 2 or hard.nunique() == easy.nunique() == 1:
        return row
    test = stats.ttest_ind(hard.astype(float), easy.astype(float), equal_var=False)
    lower, upper = test.confidence_interval(confidence)
    return row | {
        "lower": float(lower), "upper": float(upper), "p": float(test.pvalue), "interval": "welch",
    }  # fmt: skip
