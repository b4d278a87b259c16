"""An edit among many draws of its placebo: where it stands in their distribution."""

import pandas as pd


def draw_table(values: pd.DataFrame) -> pd.DataFrame:
    """The bridge and momentum among the draws of their placebos; empty without draws.

    Args:
        values: One row per condition and answer: ``condition, edit, placebo, match, is_correct``.

    Returns:
        One row per placebo with several draws: ``condition, placebo, match, n_draws``; ``real``,
        the accuracy under what it stands for; ``mean, spread, lowest, highest`` of the accuracies
        under the draws; ``p``, the share of all of them, the real one counted, that are at least as
        high: of a one-sided test that the real one is no better than a random one of its dose.
    """
    accuracy = values.groupby("condition", sort=False)["is_correct"].mean().astype(float)
    of_condition = dict(zip(accuracy.index, accuracy, strict=True))
    fakes = values[values["placebo"].notna()].drop_duplicates("condition")
    keys = ["edit", "placebo", "match"]
    rows = []
    for (edit, placebo, match), draws in fakes.groupby(keys, sort=False, dropna=False):
        if len(draws) < 2 or edit not in of_condition:
            continue
        drawn = pd.Series([of_condition[name] for name in draws["condition"]])
        real = of_condition[edit]
        about = {"condition": edit, "placebo": placebo, "match": match, "n_draws": len(drawn)}
        moments = {"mean": drawn.mean(), "spread": drawn.std(ddof=1)}
        ends = {"lowest": drawn.min(), "highest": drawn.max()}
        p = (1 + int((drawn >= real).sum())) / (1 + len(drawn))
        rows.append({**about, "real": real, **moments, **ends, "p": p})
    return pd.DataFrame(rows)
