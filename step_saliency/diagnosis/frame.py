"""The long table of a diagnosis: one row per metric, layer and head.

Columns of a trace: ``trace, problem, is_correct, n_steps, n_tokens``; of a metric: `KEYS`; then
``value``, ``uniform`` (what a map that prefers no position gives) and ``reason`` (why there is no
value). Writes arrays down; computes nothing.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from step_saliency.diagnosis.shares import REGIONS
from step_saliency.models.bands import Band, Bands

KEYS = {
    "metric": "string",
    "query_region": "string",
    "key_region": "string",
    "layer": "Int64",
    "head": "Int64",
    "band": "string",
}
"""What names a metric, with the types."""

_TRACE_TYPES = {
    "trace": "string",
    "problem": "string",
    "is_correct": "boolean",
    "n_steps": "int64",
    "n_tokens": "int64",
}
_NUMBERS = {"value": "float64", "uniform": "float64"}
_TYPES = _TRACE_TYPES | KEYS | _NUMBERS | {"reason": "string"}

Row = dict[str, Any]


@dataclass(frozen=True)
class MetricRows:
    """Rows of the metrics of one trace.

    Attributes:
        layers: Model layer of each entry.
        bands: Layers by band, for the column ``band``.
    """

    layers: Sequence[int]
    bands: Bands

    def of_layers(
        self, metric: str, values: Float[Tensor, "layer"], uniform: float | Sequence[float]
    ) -> list[Row]:
        """One row a layer; a uniform map has one value in all of them, or one in each."""
        levels = [uniform] * len(values) if isinstance(uniform, float) else uniform
        return [
            self._row(metric, layer, value=value, uniform=level)
            for layer, value, level in zip(self.layers, values.tolist(), levels, strict=True)
        ]

    def of_heads(self, metric: str, values: Float[Tensor, "layer head"]) -> list[Row]:
        """One row a head."""
        return [
            self._row(metric, layer, value=value) | {"head": head}
            for layer, of_layer in zip(self.layers, values.tolist(), strict=True)
            for head, value in enumerate(of_layer)
        ]

    def of_regions(
        self,
        metric: str,
        values: Float[Tensor, "layer query_region key_region"],
        uniform: Float[Tensor, "*layer query_region key_region"] | None = None,
    ) -> list[Row]:
        """One row per layer and pair of regions that causality allows."""
        if uniform is None:
            uniform = torch.full((len(REGIONS), len(REGIONS)), torch.nan)
        pairs = [(q, k) for q in range(len(REGIONS)) for k in range(q + 1)]
        return [
            row | {"query_region": REGIONS[q].value, "key_region": REGIONS[k].value}
            for q, k in pairs
            for row in self.of_layers(metric, values[:, q, k], uniform[..., q, k].tolist())
        ]

    def of_index(self, metric: str, value: float, band: Band) -> Row:
        """The row of an index, with the band that it is about."""
        return {"metric": metric, "value": value, "uniform": math.nan, "band": band}

    def _row(self, metric: str, layer: int, *, value: float, uniform: float = math.nan) -> Row:
        band = self.bands.of(layer)
        return {"metric": metric, "layer": layer, "band": band, "value": value, "uniform": uniform}


def traces_frame(
    traces: Iterable[tuple[Iterable[Row], Mapping[str, Any], Mapping[str, str]]],
) -> pd.DataFrame:
    """Rows of the metrics of some traces as one table.

    Args:
        traces: Of each trace, rows of `MetricRows`, columns of the trace, and why a metric has no
            value, by metric.
    """
    columns: dict[str, list[Any]] = {name: [] for name in _TYPES}
    for rows, of_trace, reasons in traces:
        rows = list(rows)
        for name in KEYS | _NUMBERS:
            columns[name] += [row.get(name) for row in rows]
        columns["reason"] += [_reason(row, reasons) for row in rows]
        for name, value in of_trace.items():
            columns[name] += [value] * len(rows)
    return pd.DataFrame(
        {name: pd.Series(columns[name], dtype=kind) for name, kind in _TYPES.items()}
    )


def steps_table(
    metric: str,
    rows: Float[Tensor, "layer step"],
    layers: Sequence[int | None],
    bands: Sequence[Band | None],
) -> pd.DataFrame:
    """Rows of a metric by layer and step index; those without a value are left out."""
    n_steps = rows.shape[1]
    table = pd.DataFrame(
        {
            "metric": metric,
            "layer": pd.array(np.repeat(np.array(layers, object), n_steps), dtype="Int64"),
            "band": np.repeat(np.array(bands, object), n_steps),
            "step_index": np.tile(np.arange(n_steps), len(layers)),
            "value": rows.double().numpy().ravel(),
        }
    )
    return table.dropna(subset="value")


def _reason(row: Row, reasons: Mapping[str, str]) -> str | None:
    if not math.isnan(row["value"]):
        return None
    metric = row["metric"]
    reason = reasons.get(metric, reasons.get(metric.replace("_normalised", "")))
    if reason is not None:
        return reason
    if metric == "share":
        return f"the trace has no {row['query_region']} row that is not empty"
    if row.get("head") is not None:
        return "no row of this head that counts is not empty"
    return "the trace has no such pair of steps"
