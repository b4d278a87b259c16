"""Words for the conditions of `analyses.ablation` and what they act on."""

import pandas as pd

from figures.style import label

BANDS = {
    "quarter": "outer quarters",
    "third": "outer thirds",
    "half": "halves",
    "automatic": "found on other problems",
}


def condition_name(row: pd.Series) -> str:
    """Name of a condition by its columns."""
    if row["group"] == "bands":
        return band_name(row)
    if row["group"] == "sliding":
        layers = row["oeb_layers"] if row["edit"] == "oeb" else row["smi_layers"]
        return f"{label(row['edit'])}, layers {layer_range(layers)}"
    if row["group"] in ("tau_max", "alpha"):
        strength = "τ" if row["group"] == "tau_max" else "α"
        return f"{label(row['edit'])}, {strength} = {row[row['group']]:g}"
    return label(row["condition"])


def band_name(row: pd.Series) -> str:
    """Name of the layers of a condition."""
    if row["bands"] == "random":
        return f"other layers, draw {int(row['lot']) + 1}"
    return BANDS.get(row["bands"], f"window from layer {row['bands'].partition('-')[2]}")


def layer_range(layers: str) -> str:
    """Layers ``"0 1 2"`` as ``0–2``, others as a list; a dash for none."""
    numbers = [int(layer) for layer in layers.split()]
    if not numbers:
        return "–"
    is_range = len(numbers) > 1 and numbers == list(range(numbers[0], numbers[-1] + 1))
    return f"{numbers[0]}–{numbers[-1]}" if is_range else ", ".join(map(str, numbers))


def named(table: pd.DataFrame) -> pd.DataFrame:
    """Rows with ``name``, the condition in words; what stands there twice is rows once."""
    rows = table.drop_duplicates([name for name in table.columns if name != "condition"])
    return rows.assign(name=[condition_name(row) for _, row in rows.iterrows()])


def placebo_note(table: pd.DataFrame) -> str:
    """What is to be said of the doses of a table's placebos; nothing without placebos.

    A placebo has the dose of what it stands for where ``match`` is ``"kl"``, and only its strength
    otherwise.
    """
    placebos = table[table["group"] == "placebo"]
    if placebos.empty:
        return ""
    is_matched = placebos["match"] == "kl" if "match" in placebos else pd.Series([False])
    if not is_matched.any():
        return "placebos: dose not matched"
    if is_matched.all():
        return "placebos: dose matched on other solutions"
    return "placebos: dose not matched, unless the name says so"
