"""One map as one HTML file: text, step map, depth curves, diagnosis, effects of interventions.

The file asks the network for nothing, and its policy forbids it to: whatever stands in the trace is
text. Everything that varies travels as JSON in a data block in which ``<``, ``>`` and ``&`` are
written as escapes, and the script puts it on the page as text nodes only.

Entries are rounded. A map is stored as its lower triangle, row by row, in codes on a log scale:

    0 = undefined,  1 = zero,  otherwise  top * 10 ** (-decades * (largest - code) / (largest - 2))

with `top` the map's largest entry, `largest` the largest code and `decades` how far down the
smallest positive entry lies. Codes of 16 bits keep every entry to 0.2% or better; where they would
make the file too large, codes of 8 bits over six decades keep them to 3%, and smaller entries read
as the smallest code. Heads are stored in 8 bits; where not all fit, equally many of each layer,
those with the largest total, and in the room that is left the next largest of all layers.
"""

import base64
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, UInt
from torch import Tensor

from step_saliency.diagnosis.diagnosis import Diagnosis
from step_saliency.diagnosis.indices import diagnose as diagnose_map
from step_saliency.models.bands import spell_layers
from step_saliency.plotting.style import OBJECTIVE_UNITS, POOL_LABELS
from step_saliency.saliency.result import StepSaliency
from step_saliency.trace import Region

MOST_BYTES = 3_000_000
"""Size that the file is kept below, by rounding and by leaving out heads."""
EFFECT_COLUMNS = ("layer", "head", "edit")
_COARSE_DECADES = 6.0
_OVERHEAD = 20_000  # scales of the maps and the list of heads
_INDICES = {"lock_in_index": "lock-in index", "decay_index": "decay index"}
_CORRECT = {None: "unknown", True: "correct", False: "error"}


@dataclass(frozen=True)
class PackedMaps:
    """Maps in codes (module docstring).

    Attributes:
        codes: Defined entries and zeros of the lower triangles, row by row.
        top: Largest entry of each map.
        decades: Range of each map's scale, in powers of ten.
    """

    codes: UInt[np.ndarray, "map entry"]
    top: Float[np.ndarray, "map"]
    decades: Float[np.ndarray, "map"]

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return 8 * self.codes.itemsize

    def values(self) -> Float[np.ndarray, "map entry"]:
        """The entries that a reader of the page gets; NaN where undefined."""
        largest = float(np.iinfo(self.codes.dtype).max)
        below = self.decades[:, None] * (largest - self.codes) / (largest - 2)
        values = self.top[:, None] * 10.0**-below
        return np.where(self.codes == 0, np.nan, np.where(self.codes == 1, 0.0, values))

    def to_json(self) -> dict[str, Any]:
        """The maps as JSON values, codes in base64 with the low byte first."""
        data = self.codes.astype(self.codes.dtype.newbyteorder("<")).tobytes()
        return {
            "bits": self.bits,
            "codes": base64.b64encode(data).decode(),
            "top": self.top.tolist(),
            "decades": self.decades.tolist(),
        }


def pack_maps(
    maps: Float[Tensor, "map step step"], defined: Bool[Tensor, "step step"], *, bits: int
) -> PackedMaps:
    """Round maps to codes.

    Args:
        maps: Non-negative maps.
        defined: Entries that mean something.
        bits: 16 or 8.

    Raises:
        ValueError: an entry is negative or not finite.
    """
    if not bool(maps.isfinite().all()) or bool((maps < 0).any()):
        raise ValueError("the maps hold negative or non-finite entries, which the page cannot show")
    rows, columns = np.tril_indices(maps.shape[-1])
    values = maps.detach().double().cpu().numpy()[:, rows, columns]
    positive = np.where(values > 0, values, np.nan)
    some = ~np.isnan(positive).all(axis=1)
    top, low = np.zeros(len(values)), np.ones(len(values))
    top[some], low[some] = np.nanmax(positive[some], axis=1), np.nanmin(positive[some], axis=1)
    decades = np.where(some, np.log10(np.where(some, top, 1.0) / low), 0.0)
    if bits == 8:
        decades = np.minimum(decades, _COARSE_DECADES)
    dtype = np.uint8 if bits == 8 else np.uint16
    largest = np.iinfo(dtype).max
    with np.errstate(divide="ignore", invalid="ignore"):
        below = np.log10(top[:, None] / positive) / np.where(decades > 0, decades, 1.0)[:, None]
    codes = np.rint(largest - np.clip(below, 0, 1) * (largest - 2))
    codes = np.where(np.isnan(codes), 1, codes) * defined.cpu().numpy()[rows, columns]
    return PackedMaps(codes.astype(dtype), top, decades)


def page(
    saliency: StepSaliency,
    diagnosis: Diagnosis | None = None,
    effects: pd.DataFrame | None = None,
    *,
    curves: pd.DataFrame | None = None,
    comparison: pd.DataFrame | None = None,
    facts: Mapping[str, str] | None = None,
) -> str:
    """A trace, its maps and what is known of it, as one self-contained HTML file.

    Args:
        saliency: Maps of the trace.
        diagnosis: Its lock-in and decay; made from the maps by default.
        effects: What interventions did, as `Session.effects.to_frame` gives it: columns ``layer,
            head, edit`` and any numbers.
        curves: Means with intervals over the traces of a run, as `diagnose.mean_curves` gives them.
        comparison: Error against correct traces of the same problems, as `compare` gives it.
        facts: More to say at the top, such as the model's name.

    Returns:
        The file's text: at most three million characters for a trace of 200 steps in 32 layers.

    Raises:
        ValueError: the maps hold negative or non-finite entries, ``effects`` lacks columns, or the
            diagnosis is of another trace.
    """
    diagnosis = diagnose_map(saliency) if diagnosis is None else diagnosis
    if diagnosis.trace_id != saliency.trace.id or diagnosis.layers != saliency.layers:
        raise ValueError(
            f"the diagnosis is of trace {diagnosis.trace_id!r}, layers "
            f"{spell_layers(diagnosis.layers)}; the maps of {saliency.trace.id!r}, layers "
            f"{spell_layers(saliency.layers)}"
        )
    data = {
        "facts": {**(facts or {}), **_facts(saliency, diagnosis)},
        "question": saliency.trace.question,
        "steps": [_step(step) for step in saliency.trace.steps],
        "unit": OBJECTIVE_UNITS.get(saliency.objective, "units of the objective"),
        "reading": POOL_LABELS.get(saliency.pool, saliency.pool),
        "layers": list(saliency.layers),
        "diagnosis": _diagnosis(diagnosis, curves, comparison),
        "effects": None if effects is None else _effects(effects),
    }
    name = saliency.trace.id or "trace"
    room = MOST_BYTES - len(_fill(name, data).encode()) - _OVERHEAD
    return _fill(name, data | _maps(saliency, room))


def _fill(name: str, data: Mapping[str, Any]) -> str:
    sources = {part: _source(f"page.{part}") for part in ("html", "css", "js")}
    parts = {
        "title": f"{escape(name)} · step-saliency",
        "heading": escape(name),
        "css": sources["css"],
        "js": sources["js"],
        "css_hash": _digest(sources["css"]),
        "js_hash": _digest(sources["js"]),
        "data": as_json_block(data),
    }
    pieces = sources["html"].split("@@")
    return "".join(parts[p] if n % 2 else p for n, p in enumerate(pieces))


def as_json_block(data: Any) -> str:
    """JSON that may stand in a script element: nothing in it can end or open one.

    Raises:
        ValueError: a number is not finite.
    """
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _source(name: str) -> str:
    return files("step_saliency.report").joinpath(name).read_text(encoding="utf-8")


def _digest(source: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()


def _facts(sal: StepSaliency, diagnosis: Diagnosis) -> dict[str, str]:
    heads = f", {sal.maps.shape[1]} heads" if sal.per_head else ", mean over heads"
    return {
        "answer": _CORRECT[diagnosis.is_correct],
        "steps": f"{len(sal.trace.steps)} ({sal.region_counts}), {len(sal.trace)} tokens",
        "layers": f"{spell_layers(sal.layers)} of {sal.n_layers}{heads}",
        "map": f"objective {sal.objective}, pool {sal.pool}, rows {sal.rows}, {sal.method}",
    }


def _step(step: Any) -> dict[str, Any]:
    return {"region": step.region.value, "text": step.text, "tokens": len(step)}


def _maps(sal: StepSaliency, room: int) -> dict[str, Any]:
    """Maps of the mean over layers and of each layer, and of as many heads as there is room for."""
    means = sal.mean_heads.detach().double()
    stacked = torch.cat([means.mean(0, keepdim=True), means])
    n_entries = means.shape[-1] * (means.shape[-1] + 1) // 2
    fine = _encoded(2 * n_entries * len(stacked)) <= room
    packed = pack_maps(stacked, sal.defined, bits=16 if fine else 8)
    precision = "Entries are rounded to 0.2% or better."
    if not fine:
        precision = _coarse("Entries")
    if not sal.per_head:
        return {"maps": packed.to_json(), "heads": None, "precision": precision}
    n_layers, n_heads = sal.maps.shape[:2]
    left = room - _encoded(packed.codes.nbytes)
    n_kept = min(n_layers * n_heads, max(0, left // _encoded(n_entries)))
    precision += f" {_coarse('Entries of single heads')}"
    heads = _heads(sal, n_kept)
    if n_kept < n_layers * n_heads:
        precision += (
            f" To keep the file small it holds {n_kept} of {n_layers * n_heads} heads, those with "
            "the largest total"
        )
        if each := n_kept // n_layers:
            precision += f", at least {each} of each layer"
        elif heads is not None:
            some = [layer for layer, of in zip(sal.layers, heads["kept"], strict=True) if of]
            precision += f", in layers {spell_layers(some)}"
        precision += "."
    return {"maps": packed.to_json(), "heads": heads, "precision": precision}


def _heads(sal: StepSaliency, n_kept: int) -> dict[str, Any] | None:
    if not n_kept:
        return None
    totals = sal.maps.detach().double().sum((-2, -1))
    first = totals.argsort(dim=1, descending=True).argsort(dim=1) < n_kept // len(totals)
    order = torch.where(first, math.inf, totals).flatten().argsort(descending=True, stable=True)
    is_kept = torch.zeros_like(first).flatten()
    is_kept[order[:n_kept]] = True
    is_kept = is_kept.view_as(first)
    packed = pack_maps(sal.maps[is_kept], sal.defined, bits=8)
    return {**packed.to_json(), "kept": [heads.nonzero().flatten().tolist() for heads in is_kept]}


def _coarse(subject: str) -> str:
    return f"{subject} are rounded to 3% and cut off {_COARSE_DECADES:.0f} decades below the top."


def _encoded(n_bytes: int) -> int:
    """Length in base64."""
    return -(-n_bytes // 3) * 4


def _diagnosis(
    diagnosis: Diagnosis, curves: pd.DataFrame | None, comparison: pd.DataFrame | None
) -> dict[str, Any]:
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
        "indices": _indices(diagnosis, curves, comparison),
        "reasons": sorted(set(diagnosis.reasons.values())),
    }


def _lock_in_chart(diagnosis: Diagnosis, curves: pd.DataFrame | None) -> dict[str, Any]:
    return {
        "title": "Lock-in",
        "label": "share of thinking rows on steps i and i − 1, beyond uniform",
        "lines": [
            _line("this trace", "lock-in", diagnosis.lock_in, 0.0),
            *_run_lines("lock_in", diagnosis.layers, curves),
        ],
    }


def _decay_chart(diagnosis: Diagnosis, curves: pd.DataFrame | None) -> dict[str, Any]:
    uniform = float(diagnosis.uniform_shares[2, 1])
    return {
        "title": "Decay",
        "label": "share of summary rows on thinking steps",
        "lines": [
            _line("this trace", "decay", diagnosis.decay, uniform),
            *_run_lines("decay", diagnosis.layers, curves),
        ],
    }


def _share_chart(diagnosis: Diagnosis, query: Region) -> dict[str, Any]:
    regions = [Region.QUESTION, Region.THINKING, Region.SUMMARY]
    row = regions.index(query)
    return {
        "title": f"Where {query.value} rows look",
        "label": "share of the row, this trace",
        "lines": [
            _line(
                f"on {key.value}",
                key.value,
                diagnosis.share(query, key),
                float(diagnosis.uniform_shares[row, column]),
            )
            for column, key in enumerate(regions[: row + 1])
        ],
    }


def _line(name: str, colour: str, values: Float[Tensor, "layer"], uniform: float) -> dict[str, Any]:
    return {
        "name": name,
        "colour": colour,
        "values": _numbers(values.tolist()),
        "uniform": _number(uniform),
    }


def _run_lines(
    metric: str, layers: Sequence[int], curves: pd.DataFrame | None
) -> list[dict[str, Any]]:
    """A line with its interval for each group of traces: correct and error, or else all."""
    if curves is None:
        return []
    per_layer = curves["layer"].notna() & curves["head"].isna()
    chosen = curves[(curves["metric"] == metric) & per_layer]
    lines = []
    known = set(chosen["group"]) - {"all"}
    for group, rows in chosen[chosen["group"].isin(known or {"all"})].groupby("group", sort=False):
        by_layer = rows.set_index("layer").reindex(list(layers))
        lines.append(
            {
                "name": f"{_group_name(str(group))} of the run",
                "colour": str(group),
                "values": _numbers(by_layer["estimate"]),
                "lower": _numbers(by_layer["lower"]),
                "upper": _numbers(by_layer["upper"]),
                "n": int(rows["n"].max()),
                "traces": int(rows["n_traces"].max()),
            }
        )
    return lines


def _group_name(group: str) -> str:
    return "all traces" if group == "all" else f"{group} traces"


def _indices(
    diagnosis: Diagnosis, curves: pd.DataFrame | None, comparison: pd.DataFrame | None
) -> dict[str, Any]:
    """Table of the two indices: this trace, groups of the run, error minus correct."""
    own = {"lock_in_index": diagnosis.lock_in_index, "decay_index": diagnosis.decay_index}
    columns = ["this trace"]
    rows = {name: [_decimal(own[name])] for name in _INDICES}
    for heading, table in _index_columns(curves, comparison):
        columns.append(heading)
        for name in _INDICES:
            found = table[table["metric"] == name]
            rows[name].append("–" if found.empty else _with_interval(found.iloc[0]))
    return {
        "columns": columns,
        "rows": [{"name": _INDICES[name], "cells": cells} for name, cells in rows.items()],
    }


def _index_columns(
    curves: pd.DataFrame | None, comparison: pd.DataFrame | None
) -> list[tuple[str, pd.DataFrame]]:
    columns = []
    if curves is not None:
        for group, rows in curves.groupby("group", sort=False):
            columns.append((f"{_group_name(str(group))}, mean", rows))
    if comparison is not None:
        plain = comparison[comparison["control"] == "none"]
        columns.append(("error − correct, same problem", plain))
    return columns


def _with_interval(row: pd.Series) -> str:
    """``0.512 [0.498, 0.530], n = 24`` (problems)."""
    ends = [row["lower"], row["upper"]]
    interval = "" if pd.isna(ends).any() else f" [{_decimal(ends[0])}, {_decimal(ends[1])}]"
    text = f"{_decimal(row['estimate'])}{interval}, n = {int(row['n'])}"
    p_value = row.get("p_value")
    return text if p_value is None or pd.isna(p_value) else f"{text}, p = {p_value:.2g}"


def _effects(effects: pd.DataFrame) -> dict[str, Any]:
    """The table, one group per edit; columns that say nothing of an edit are left out."""
    missing = sorted(set(EFFECT_COLUMNS) - set(effects.columns))
    if missing:
        raise ValueError(
            f"the table of effects lacks the columns {missing}; it has {list(effects.columns)}"
        )
    numbers = [
        name
        for name in effects.columns
        if name not in EFFECT_COLUMNS and pd.api.types.is_numeric_dtype(effects[name])
    ]
    groups = []
    for edit, rows in effects.groupby("edit", sort=False):
        used = [name for name in numbers if rows[name].notna().any()]
        counts = [name for name in used if (rows[name].fillna(0) != 0).any()]
        groups.append(
            {
                "edit": str(edit),
                "layers": [None if pd.isna(value) else int(value) for value in rows["layer"]],
                "heads": [None if pd.isna(value) else int(value) for value in rows["head"]],
                "columns": {name: _numbers(rows[name]) for name in counts},
            }
        )
    return {"groups": groups}


def _decimal(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:+.3f}".replace("-", "−")


def _number(value: Any) -> float | None:
    number = float("nan") if value is None or pd.isna(value) else float(value)
    return float(f"{number:.6g}") if math.isfinite(number) else None


def _numbers(values: Any) -> list[float | None]:
    return [_number(value) for value in values]
