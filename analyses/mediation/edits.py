"""Interventions of the questions by name, and which is the placebo of which."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from analyses.instruments.edits import Diverted, LockIn, RegionBridge, SummaryCut
from analyses.material.conditions import BASELINE
from step_saliency.intervene import Edit, OddsEqualBridge, StepMomentumInjection
from step_saliency.intervene.matching import effects_on, matched_strength
from step_saliency.models.bands import Bands
from step_saliency.trace import Region, Trace

TAU, ALPHA = 0.3, 0.5
"""Twice and eight times the defaults, so that there is an effect to be explained."""
MASSES = (0.5, 0.8)
PLACEBOS: Mapping[str, tuple[str, ...]] = {
    "oeb-strong": ("oeb-strong-random", "oeb-strong-diverted"),
    "smi-strong": ("smi-strong-direction",),
    **{
        f"lock-in-shallow-{mass:g}": (f"random-shallow-{mass:g}", f"random-shallow-{mass:g}-kl")
        for mass in MASSES
    },
    f"lock-in-deep-{MASSES[0]:g}": (f"random-deep-{MASSES[0]:g}-kl",),
}


def forced_edits(depth: int) -> dict[str, list[Edit]]:
    """The halves of StepFlow, blocked ones and placebos, by name."""
    bands = Bands.quarters(depth)
    low, high = bands.shallow, bands.deep
    momentum = StepMomentumInjection(high, alpha=ALPHA)
    return {
        BASELINE: [],
        "oeb": [OddsEqualBridge(low)],
        "oeb-strong": [OddsEqualBridge(low, tau_max=TAU)],
        "oeb-strong-thinking": [RegionBridge(low, [Region.THINKING.value], tau_max=TAU)],
        "oeb-strong-summary": [RegionBridge(low, [Region.SUMMARY.value], tau_max=TAU)],
        "oeb-strong-diverted": [Diverted(low, tau_max=TAU)],
        "oeb-strong-random": [OddsEqualBridge(low, tau_max=TAU, placebo="random")],
        "smi": [StepMomentumInjection(high)],
        "smi-strong": [momentum],
        "smi-strong-direction": [
            StepMomentumInjection(high, alpha=ALPHA, momentum="random"),
        ],
        "cut": [SummaryCut(high)],
        "smi-strong-cut": [momentum, SummaryCut(high)],
    }


def injected_edits(depth: int) -> dict[str, list[Edit]]:
    """Planted lock-in and its placebos, by name; those in ``-kl`` are to be `matched`."""
    bands = Bands.quarters(depth)
    edits: dict[str, list[Edit]] = {BASELINE: []}
    for mass in MASSES:
        edits[f"lock-in-shallow-{mass:g}"] = [LockIn(bands.shallow, mass)]
        edits[f"random-shallow-{mass:g}"] = [LockIn(bands.shallow, mass, keys="random")]
        edits[f"random-shallow-{mass:g}-kl"] = [
            LockIn(bands.shallow, mass, keys="random", dose=1.0)
        ]
    deep = MASSES[0]
    edits[f"lock-in-deep-{deep:g}"] = [LockIn(bands.deep, deep)]
    edits[f"random-deep-{deep:g}-kl"] = [LockIn(bands.deep, deep, keys="random", dose=1.0)]
    return edits


def matched(model: Any, edit: Edit, traces: Sequence[Trace]) -> Edit:
    """Lock-in on random keys at the mean KL per row of that on the step; others as they are.

    Args:
        model: The model.
        edit: An edit; only a `LockIn` with a dose is changed.
        traces: Traces that doses are measured on.
    """
    if not isinstance(edit, LockIn) or edit.dose is None:
        return edit

    def kl(of: Edit) -> float:
        return float(effects_on(model, of, traces).doses()["kl"].iloc[0])

    real = kl(replace(edit, keys="step", dose=None))
    strength = matched_strength(lambda dose: kl(replace(edit, dose=dose)), real)
    return replace(edit, dose=strength)
