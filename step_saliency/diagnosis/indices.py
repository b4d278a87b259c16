"""The indices of one trace: `diagnose` takes a step map and gives a `Diagnosis`.

Formulas, assumptions and caveats: `step_saliency.diagnosis.shares` (shares, lock-in and decay of a
layer) and `step_saliency.diagnosis.diagnosis` (indices over bands).
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from step_saliency.diagnosis.diagnosis import Diagnosis
from step_saliency.diagnosis.rows import StepRows, step_rows
from step_saliency.diagnosis.shares import (
    REGIONS,
    block_means,
    decay,
    lock_in,
    region_shares,
    row_shares,
    steps_in,
    uniform_map,
)
from step_saliency.models.bands import Bands
from step_saliency.options import check_option
from step_saliency.saliency.result import StepSaliency
from step_saliency.tasks.verdicts import verdict
from step_saliency.trace import Region, Trace

IntensityPairs = Literal["causal", "all"]


def diagnose(
    sal: StepSaliency,
    *,
    bands: Bands | Mapping[str, Sequence[int]] | None = None,
    pairs: IntensityPairs = "causal",
) -> Diagnosis:
    """Lock-in and decay of a trace by layer, with the block intensities beside them.

    A trace without summary has no decay and one without thinking has neither: NaN, with the reason
    beside it, so that one such trace does not stop a table of many.

    Args:
        sal: Map of the trace.
        bands: Layers by band: a `Bands`, or a mapping such as ``{"shallow": [0, 1], "deep": [10,
            11]}``, in which ``"middle"`` defaults to all other layers. Default: `Bands.quarters`.
        pairs: Step pairs that count in a block's intensity: those with at least one token pair, or
            all, which the authors' scripts count (their reading is this with
            ``pool="block_mean"``).

    Returns:
        Lock-in, decay (shares of a row, beyond a uniform one) and block intensities by layer, and
        their means over the bands.

    Raises:
        ValueError: ``sal`` is no map, or one with negative or non-finite entries; ``bands`` names
            unknown bands or layers; an unknown option.
    """
    if not isinstance(sal, StepSaliency):
        raise ValueError(f"{sal!r:.80} is no StepSaliency; diagnose one map at a time")
    check_option("pairs", pairs, get_args(IntensityPairs))
    _check_entries(sal)
    regions = [step.region for step in sal.trace.steps]
    maps = sal.mean_heads.detach().cpu()
    shares = row_shares(maps, regions)
    evenly = uniform_map(sal.layout, sal.pool, sal.windows)
    uniform = row_shares(evenly, regions)
    counted = sal.seen if pairs == "causal" else torch.ones_like(sal.seen)
    of_layers = uniform.expand(len(maps), -1, -1)
    heads = [_head_metrics(sal.maps[i], of_layers[i], regions) for i in _rows_per_head(sal)]
    lock_ins, decays = lock_in(shares, uniform, regions), decay(shares, uniform, regions)
    rows = step_rows(shares, uniform, regions)
    intensity = block_means(maps, counted, regions)
    layer_bands = _bands(bands, sal.n_layers)
    return Diagnosis(
        layers=sal.layers,
        n_layers=sal.n_layers,
        bands=layer_bands,
        lock_in=lock_ins,
        decay=decays,
        shares=region_shares(shares, regions),
        intensity=intensity,
        uniform_shares=region_shares(_of_rows_in(shares, uniform), regions),
        uniform_intensity=block_means(evenly.expand(len(maps), -1, -1), counted, regions),
        rows=rows,
        lock_in_heads=torch.stack([of_head for of_head, _ in heads]) if heads else None,
        decay_heads=torch.stack([of_head for _, of_head in heads]) if heads else None,
        reasons=_reasons(regions, sal.layers, layer_bands, lock_ins, decays)
        | _reasons_of_ratios(regions, decays, rows, intensity),
        **_identity(sal.trace),
    )


def _of_rows_in(
    shares: Float[Tensor, "layer step step"], uniform: Float[Tensor, "*layer step step"]
) -> Float[Tensor, "*layer_or_none step step"]:
    """Uniform rows without those that the maps lack; of each layer only if a map lacks one."""
    lacking = shares.isnan() & ~uniform.isnan()
    return uniform.where(~lacking, torch.nan) if lacking.any() else uniform


def _rows_per_head(sal: StepSaliency) -> range:
    return range(len(sal.layers) if sal.per_head else 0)


def _head_metrics(
    maps: Float[Tensor, "head step step"],
    uniform: Float[Tensor, "step step"],
    regions: Sequence[Region],
) -> tuple[Float[Tensor, "head"], Float[Tensor, "head"]]:
    """Lock-in and decay of the heads of one layer (a layer at a time bounds the memory)."""
    shares = row_shares(maps.detach().cpu(), regions)
    return lock_in(shares, uniform, regions), decay(shares, uniform, regions)


def _check_entries(sal: StepSaliency) -> None:
    for layer, values in zip(sal.layers, sal.maps, strict=True):
        if not bool(values.isfinite().all()):
            raise ValueError(f"the map of layer {layer} holds NaN or infinite entries")
        if bool((values < 0).any()):
            raise ValueError(
                f"the map of layer {layer} goes down to {float(values.min()):.3g}; shares are "
                "defined for non-negative maps"
            )


def _bands(bands: Bands | Mapping[str, Sequence[int]] | None, n_layers: int) -> Bands:
    if bands is None:
        return Bands.quarters(n_layers)
    if not isinstance(bands, Bands | Mapping):
        raise ValueError(f"bands={bands!r:.80} is neither a Bands nor layers by name of a band")
    return bands if isinstance(bands, Bands) else Bands.named(bands, n_layers)


def _has(regions: Sequence[Region], region: Region) -> bool:
    return bool(steps_in(regions, region).any())


def _reasons(
    regions: Sequence[Region],
    layers: Sequence[int],
    bands: Bands,
    lock_ins: Float[Tensor, "layer"],
    decays: Float[Tensor, "layer"],
) -> dict[str, str]:
    reasons = {}
    if lock_ins.isnan().any():
        reasons["lock_in"] = reasons["lock_in_index"] = _missing(
            regions,
            lock_ins.isnan(),
            Region.THINKING,
            "sees more than local steps and is not empty",
        )
    if decays.isnan().any():
        reasons["decay"] = reasons["decay_index"] = _missing(
            regions, decays.isnan(), Region.SUMMARY, "sees thinking and is not empty"
        )
    for band in ("deep", "middle", "shallow"):
        metric = "lock_in_index" if band == "shallow" else "decay_index"
        if not set(getattr(bands, band)) & set(layers):
            reasons.setdefault(metric, f"no layer of the {band} band was computed")
    return reasons


def _reasons_of_ratios(
    regions: Sequence[Region],
    decays: Float[Tensor, "layer"],
    rows: StepRows,
    intensity: Float[Tensor, "layer query_region key_region"],
) -> dict[str, str]:
    """Why what is divided by something has no value where the rest has one."""
    reasons = {}
    normalised = rows.decay_normalised.nanmean(-1)
    if (normalised.isnan() & ~decays.isnan()).any():
        reasons["decay_normalised"] = reasons["decay_normalised_index"] = _missing(
            regions, normalised.isnan(), Region.SUMMARY, "sees thinking and more, and is not empty"
        )
    thinking = REGIONS.index(Region.THINKING)
    is_zero = intensity[:, thinking, thinking] == 0
    if is_zero.any():
        reasons["block_ratio"] = (
            f"the intensity of thinking on thinking is 0 in {int(is_zero.sum())} of "
            f"{len(is_zero)} layers"
        )
    return reasons


def _missing(
    regions: Sequence[Region], empty: Bool[Tensor, "layer"], rows: Region, condition: str
) -> str:
    for region in (Region.THINKING, rows):
        if not _has(regions, region):
            return f"the trace has no {region.value} steps"
    return f"no {rows.value} row {condition} in {int(empty.sum())} of {len(empty)} layers"


def _identity(trace: Trace) -> dict[str, Any]:
    meta = trace.meta
    names = (meta.get("problem"), meta.get("problem_id"), trace.question or None)
    problem = next((name for name in names if name is not None), None)
    answer = [s for s in trace.steps if s.region in (Region.THINKING, Region.SUMMARY)]
    return {
        "trace_id": trace.id,
        "problem": None if problem is None else str(problem),
        "is_correct": verdict(meta.get("is_correct")),
        "n_steps": len(answer),
        "n_tokens": sum(len(step) for step in answer),
    }
