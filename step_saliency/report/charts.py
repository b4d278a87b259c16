"""Depth curves of a diagnosis for the page: this trace, and the means of its run with intervals."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from step_saliency.diagnosis.diagnosis import Diagnosis
from step_saliency.diagnosis.shares import REGIONS
from step_saliency.report.indices import group_name, index_table
from step_saliency.report.numbers import number, numbers
from step_saliency.segment.regions import Region


def diagnosis_data(
    diagnosis: Diagnosis, curves: pd.DataFrame | None, comparison: pd.DataFrame | None
) -> dict[str, Any]:
    """Bands, charts, indices and what is missing, as JSON values."""
    return {
        "bands": {
            name: list(getattr(diagnosis.bands, name)) for name in ("shallow", "middle", "deep")
        },
        "charts": [
            _lock_in_chart(diagnosis, curves),
            _decay_chart(diagnosis, curves),
            _share_chart(diagnosis, Region.THINKING),
            _share_chart(diagnosis, Region.SUMMARY),
        ],
        "indices": index_table(diagnosis, curves, comparison),
        "reasons": sorted(set(diagnosis.reasons.values())),
    }


def _lock_in_chart(diagnosis: Diagnosis, curves: pd.DataFrame | None) -> dict[str, Any]:
    return {
        "title": "Lock-in",
        "label": "share of thinking rows on steps i and i − 1, beyond uniform",
        "lines": [
            _line("this trace", "lock-in", diagnosis.lock_in, torch.zeros(())),
            *_run_lines("lock_in", diagnosis.layers, curves),
        ],
    }


def _decay_chart(diagnosis: Diagnosis, curves: pd.DataFrame | None) -> dict[str, Any]:
    uniform = diagnosis.uniform_decays
    return {
        "title": "Decay",
        "label": "share of summary rows on thinking steps",
        "lines": [
            _line("this trace", "decay", diagnosis.decay, uniform),
            *_run_lines("decay", diagnosis.layers, curves),
        ],
    }


def _share_chart(diagnosis: Diagnosis, query: Region) -> dict[str, Any]:
    row = REGIONS.index(query)
    return {
        "title": f"Where {query.value} rows look",
        "label": "share of the row, this trace",
        "lines": [
            _line(
                f"on {key.value}",
                key.value,
                diagnosis.share(query, key),
                diagnosis.uniform_share(query, key),
            )
            for key in REGIONS[: row + 1]
        ],
    }


def _line(
    name: str, colour: str, values: Float[Tensor, "layer"], uniform: Float[Tensor, "*layer"]
) -> dict[str, Any]:
    """A line, with what a uniform map gives: one number, or one for each layer."""
    level = numbers(uniform.tolist()) if uniform.ndim else number(float(uniform))
    return {
        "name": name,
        "colour": colour,
        "values": numbers(values.tolist()),
        "uniform": level,
    }


def _run_lines(
    metric: str, layers: Sequence[int], curves: pd.DataFrame | None
) -> list[dict[str, Any]]:
    """A line with its interval for each group of traces: correct and error, or else all."""
    if curves is None:
        return []
    per_layer = curves["layer"].notna() & curves["head"].isna()
    of_metric = curves[(curves["metric"] == metric) & per_layer]
    lines = []
    groups = set(of_metric["group"]) - {"all"} or {"all"}
    for group, rows in of_metric[of_metric["group"].isin(groups)].groupby("group", sort=False):
        by_layer = rows.set_index("layer").reindex(list(layers))
        lines.append(
            {
                "name": f"{group_name(str(group))} of the run",
                "colour": str(group),
                "values": numbers(by_layer["estimate"]),
                "lower": numbers(by_layer["lower"]),
                "upper": numbers(by_layer["upper"]),
                "n": int(rows["n"].max()),
                "traces": int(rows["n_traces"].max()),
            }
        )
    return lines
