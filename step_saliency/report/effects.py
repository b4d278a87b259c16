"""What interventions did, for the page."""

from typing import Any

import pandas as pd

from step_saliency.report.numbers import numbers

EFFECT_COLUMNS = ("layer", "head", "edit")


def effect_data(effects: pd.DataFrame) -> dict[str, Any]:
    """The table, one group per edit; columns that say nothing of an edit are left out.

    Raises:
        ValueError: columns are missing.
    """
    missing = sorted(set(EFFECT_COLUMNS) - set(effects.columns))
    if missing:
        raise ValueError(
            f"the table of effects lacks the columns {missing}; it has {list(effects.columns)}"
        )
    columns = [
        name
        for name in effects.columns
        if name not in EFFECT_COLUMNS and pd.api.types.is_numeric_dtype(effects[name])
    ]
    groups = [
        {
            "edit": str(edit),
            "layers": [None if pd.isna(value) else int(value) for value in rows["layer"]],
            "heads": [None if pd.isna(value) else int(value) for value in rows["head"]],
            "columns": {
                name: numbers(rows[name]) for name in columns if _says_something(rows[name])
            },
        }
        for edit, rows in effects.groupby("edit", sort=False)
    ]
    return {"groups": groups}


def _says_something(values: pd.Series) -> bool:
    return bool(values.notna().any()) and bool((values.fillna(0) != 0).any())
