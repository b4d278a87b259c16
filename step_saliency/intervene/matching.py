"""Which strength gives a placebo the dose of what it stands for?

A dose is measured over teacher-forced passes, as `Effects` counts it: the mean KL(after || before)
of the rows that a bridge moves, the mean norm of what momentum adds, relative to the residual. A
placebo is matched by its one strength s, for which dose(s) is that of the edit, by

    log s <- log s + (log dose of the edit - log dose(s)) / slope

with the slope of the last two measurements; where that leaves what is still possible, halfway.

When it misleads: a dose is a mean. Rows that a placebo cannot move so far are made up for by
others, and the rows of later layers are no longer those of the unedited model; `doses` shows both
flows beside each other, on traces that took no part in matching. How many rows are moved is not
matched: a placebo in other layers, or at other tokens, can have the dose and move fewer
(``rows_shifted``, ``injections``), which is less in all.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor
from tqdm.auto import tqdm

from step_saliency.intervene.effects import Effects
from step_saliency.intervene.expected import listed_traces
from step_saliency.models.facts import backend_of, device_of, n_layers
from step_saliency.options import is_finite
from step_saliency.trace import Trace

TOLERANCE = 0.01
"""Relative difference between doses at which a placebo counts as matched."""
_MEASUREMENTS = 30
_LARGEST = 2.0**10


@runtime_checkable
class Attachable(Protocol):
    """What `doses` measures: an `Edit` or an `EditGroup`."""

    def attached(self, model: Any, *, trace: Trace | None = None) -> Any:
        """Context in which the model runs with it; yields a session with ``effects``."""


@torch.no_grad()
def effects_on(
    model: Any, edit: Attachable, traces: Iterable[Trace], *, progress: bool = False
) -> Effects:
    """What an edit does in passes over traces.

    Args:
        model: HookedTransformer or TransformerBridge.
        edit: Edit or group of edits.
        traces: Traces, whoever wrote them.
        progress: Show a progress bar.

    Raises:
        ValueError: there are no traces, or something else is among them.
    """
    effects = Effects()
    for trace in tqdm(listed_traces(traces), unit="trace", disable=not progress):
        tokens = trace.tokens[None].to(device_of(model))
        with edit.attached(model, trace=trace) as session:
            _run_through(model, edit, tokens)
        effects.include(session.effects)
    return effects


def _run_through(model: Any, edit: Attachable, tokens: Int[Tensor, "1 pos"]) -> None:
    """A pass up to the last layer that is edited: what comes after it moves no dose."""
    mask = torch.ones_like(tokens)
    edits = getattr(edit, "edits", (edit,))
    known = [layer for one in edits for layer in getattr(one, "layers", ())]
    last = max(known, default=n_layers(model) - 1)
    if backend_of(model) == "hooked" or last + 1 < n_layers(model):
        model(tokens, attention_mask=mask, stop_at_layer=last + 1)
    else:
        model(tokens, attention_mask=mask, return_type="logits")


def doses(
    model: Any,
    flows: Mapping[str, Attachable],
    traces: Iterable[Trace],
    *,
    progress: bool = False,
) -> pd.DataFrame:
    """Doses of edits and their placebos side by side, over the same traces.

    Args:
        model: HookedTransformer or TransformerBridge.
        flows: Edits or groups of edits, by the name that the table is to have for them.
        traces: Traces; for a placebo that was matched, others than those it was matched on.
        progress: Show a progress bar.

    Returns:
        One row per flow and edit: flow, edit and the counters of `Effects`, over all layers and
        heads.

    Raises:
        ValueError: there are no traces, or something else is among them.
    """
    listed = listed_traces(traces)
    tables = {
        name: effects_on(model, flow, listed, progress=progress).doses()
        for name, flow in flows.items()
    }
    return pd.concat(tables, names=["flow"]).reset_index("flow").reset_index(drop=True)


def matched_strength(
    measure: Callable[[float], float], target: float, *, tolerance: float | int = TOLERANCE
) -> float:
    """The strength at which a dose that grows with strength is what it is to be.

    Args:
        measure: Dose at a strength.
        target: Dose that is to be reached, above 0.
        tolerance: Relative difference that is small enough.

    Raises:
        ValueError: there is nothing to match, no strength has that dose, or the tolerance is none.
    """
    check_tolerance(tolerance)
    if not target > 0:
        raise ValueError(
            "the edit moves nothing on these traces, so that there is no dose to match"
        )
    low, high, strength = 0.0, _LARGEST, 1.0
    seen: list[tuple[float, float]] = []
    for _ in range(_MEASUREMENTS):
        dose = measure(strength)
        if abs(dose - target) <= tolerance * target:
            return strength
        seen.append((strength, dose))
        low, high = (strength, high) if dose < target else (low, strength)
        strength = _next(low, high, seen, target)
    nearest = min((dose for _, dose in seen), key=lambda dose: abs(dose - target))
    raise ValueError(
        f"no strength gives the placebo the dose of the edit, {target:.3g}; the nearest is "
        f"{nearest:.3g}"
    )


def check_tolerance(tolerance: float | int) -> None:
    """Raise ValueError for a relative difference that no dose can hold."""
    if not (is_finite(tolerance) and tolerance > 0):
        raise ValueError(
            f"tolerance={tolerance!r} is no number above 0, such as {TOLERANCE}: doses are never "
            "equal to the bit"
        )


def _next(low: float, high: float, seen: Sequence[tuple[float, float]], target: float) -> float:
    """A power law through what was seen, if it leads into the bracket; else its middle."""
    points = [(math.log(strength), math.log(dose)) for strength, dose in seen[-2:] if dose > 0]
    slope = 1.0
    if len(points) == 2 and points[0][0] != points[1][0]:
        slope = (points[1][1] - points[0][1]) / (points[1][0] - points[0][0])
    if points and slope > 0:
        exponent = points[-1][0] + (math.log(target) - points[-1][1]) / slope
        if exponent < math.log(high) and math.exp(exponent) > low:
            return math.exp(exponent)
    return (low * high) ** 0.5 if low > 0 else high / 2
