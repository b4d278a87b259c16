"""Which pairs of bands are tried: fixed shares and windows of the depth, and the label-free choice.

The label-free choice reads the change points of the depth curves of answers without intervention
(`step_saliency.diagnosis.find_bands`); it needs no grades.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from step_saliency.calibration.candidates import Candidate, spelled
from step_saliency.calibration.trials import Trials
from step_saliency.diagnosis import BandChoice, diagnose, find_bands
from step_saliency.models.bands import Bands
from step_saliency.models.facts import n_layers as layers_of
from step_saliency.saliency.api import step_saliency
from step_saliency.trace import Trace

LABEL_FREE = "label-free"


def band_candidates(n_layers: int) -> dict[str, Bands]:
    """Pairs of shallow and deep bands: quarter, third, half, and pairs of windows of a quarter.

    Args:
        n_layers: Layers of the model.

    Returns:
        Bands by name, none twice; a model of one layer has none.
    """
    by_name: dict[str, Bands] = {}
    for name, shallow, deep in _pairs(n_layers):
        bands = Bands.named({"shallow": shallow, "deep": deep}, n_layers)
        if bands not in by_name.values():
            by_name[name] = bands
    return by_name


def _pairs(n_layers: int) -> Iterable[tuple[str, range, range]]:
    for name, share in (("quarter", 4), ("third", 3), ("half", 2)):
        size = min(math.ceil(n_layers / share), n_layers // 2)
        if size:
            yield name, range(size), range(n_layers - size, n_layers)
    size = math.ceil(n_layers / 4)
    firsts = list(dict.fromkeys([*range(0, n_layers - size, size), n_layers - size]))
    windows = [range(first, first + size) for first in firsts]
    for i, low in enumerate(windows):
        for high in windows[i + 1 :]:
            if high.start >= low.stop:
                yield f"{spelled(low)} and {spelled(high)}", low, high


def bands_to_try(
    trials: Trials, model: Any, bands: str | Mapping[str, Bands], traces: Sequence[Trace]
) -> tuple[BandChoice | None, dict[str, Bands]]:
    """The label-free choice, and all pairs of bands by name.

    Args:
        trials: Told where there is no label-free choice, and why.
        model: The model.
        bands: Pairs by name; any text is for those of this module.
        traces: Answers without intervention.
    """
    if not isinstance(bands, str):
        return None, dict(bands)
    named = band_candidates(layers_of(model))
    try:
        choice = label_free(model, traces)
    except ValueError as error:
        trials.fail(Candidate(LABEL_FREE, (), (), 0.0, 0.0), error)
        return None, named
    known = {(other.shallow, other.deep) for other in named.values()}
    if (choice.bands.shallow, choice.bands.deep) not in {*known, ((), ())}:
        named[LABEL_FREE] = choice.bands
    return choice, named


def label_free(model: Any, traces: Sequence[Trace]) -> BandChoice:
    """Bands from the depth curves of the traces that have thinking and a summary."""
    whole = [
        trace
        for trace in traces
        if {"thinking", "summary"} <= {str(step.region) for step in trace.steps}
    ]
    return find_bands(diagnose(step_saliency(model, trace)) for trace in whole)
