"""Means over problems, and differences between maps paired by problem."""

import pandas as pd

from analyses.faithfulness.agreement import KEYS
from analyses.instruments.maps import UNPOOLED
from step_saliency.stats.multiplicity import with_holm
from step_saliency.stats.paired import paired_table
from step_saliency.stats.problems import mean_table

REFERENCES = (
    "attention mean",
    "attention mass",
    "attention_norm mean",
    "attention_norm mass",
    "distance",
    "key_length",
)
"""What a map has to beat: attention, plain and by the length of what it writes, nearness, size."""

NO_MAPS = (*UNPOOLED, "oracle", "worst")
"""What needs no map (nearness, size, chance) or knows the truth: there to be compared with."""


def summarise(values: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """Means over problems with intervals: `KEYS`, ``estimate, lower, upper, n``."""
    return mean_table(values, "value", by=KEYS, seed=seed).drop(columns="p")


def differences(values: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """Each map minus each of `REFERENCES`, paired by problem.

    Columns ``scope, measure, map, reference, estimate, lower, upper, n, p, p_holm, ...``; see
    `corrected` for what Holm's correction takes together.
    """
    whole = values[values["fraction"].isna() & (values["measure"] != "auroc_gold")]
    labels = whole[["method", "objective", "pool"]].fillna("").agg(" ".join, axis=1)
    whole = whole.assign(map=labels.str.split().str.join(" "))
    tables = []
    for reference in REFERENCES:
        if (whole["map"] == reference).any():
            table = paired_table(
                whole,
                "value",
                condition="map",
                reference=reference,
                by=["scope", "measure"],
                n_permutations=2000,
                seed=seed,
            )
            tables.append(table)
    return corrected(pd.concat(tables, ignore_index=True))


def corrected(table: pd.DataFrame) -> pd.DataFrame:
    """`differences` with Holm's correction over the tests that ask about a map.

    Poolings that rank a row's keys alike (``mean`` and ``block_mean``, ``mass`` and ``sum``) agree
    in every problem: they are one test, and both rows have its p. `NO_MAPS`, and a pooling that
    agrees with the reference in every problem, ask about no map and have no ``p_holm``.

    Args:
        table: Columns of `differences`; ``p_holm`` is made anew.
    """
    families = ["scope", "measure", "reference"]
    plain = table.drop(columns="p_holm", errors="ignore")
    test = plain.assign(**plain[["estimate", "lower", "upper"]].round(4))
    test = test[[*families, "estimate", "lower", "upper", "n", "p"]]
    of_maps = ~plain["map"].str.split().str[0].isin(NO_MAPS)
    same_as_reference = (test[["estimate", "lower", "upper"]] == 0).all(axis=1)
    asked = test[of_maps & ~same_as_reference]
    distinct = with_holm(asked.drop_duplicates(), family=families)
    found = asked.merge(distinct, how="left", on=list(test), validate="many_to_one")
    corrected_p = pd.Series(found["p_holm"].to_numpy(), asked.index)
    plain.insert(list(plain).index("p") + 1, "p_holm", corrected_p.reindex(plain.index))
    return plain
