"""A flow with one thing about it made meaningless, as it is or at the dose of the flow."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from step_saliency.intervene.choices import PLACEBOS, Placebo
from step_saliency.intervene.context import named_edits
from step_saliency.intervene.effects import Effects
from step_saliency.intervene.matching import effects_on, matched_strength
from step_saliency.intervene.oeb.edit import OddsEqualBridge
from step_saliency.intervene.placebos import MomentumBank, random_layers
from step_saliency.intervene.schedule import Strength, strength_at
from step_saliency.intervene.smi import StepMomentumInjection
from step_saliency.models.facts import n_layers as layers_of
from step_saliency.options import check_option
from step_saliency.trace import Trace

_HalfType = TypeVar("_HalfType", OddsEqualBridge, StepMomentumInjection)
_Half = OddsEqualBridge | StepMomentumInjection
_CHANGES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "bridge": ("oeb", {"placebo": "random"}),
    "block": ("oeb", {"placebo": "block"}),
    "permuted": ("oeb", {"placebo": "permuted"}),
    "smooth": ("oeb", {"placebo": "smooth"}),
    "boundaries": ("smi", {"boundaries": "random"}),
    "direction": ("smi", {"momentum": "random", "bank": None}),
    "other": ("smi", {"momentum": "other"}),
}
"""Of each kind of placebo: which half it changes, and how."""
_DOSES = {"oeb": "kl", "smi": "injected_norm"}
_LARGEST_TAU = 0.99
_ROUNDS = 10
"""Times that each of two halves is matched, with the other as it then is."""


def changed_flow(
    flow: Any, kind: Placebo, seed: int, *, n_layers: int | None, bank: MomentumBank | None
) -> Any:
    """A `StepFlow` with one half, or the layers of both, changed; strengths stay as they are."""
    check_option("kind", kind, PLACEBOS)
    if kind == "layers":
        halves = {"oeb": flow.oeb, "smi": flow.smi}
        moved = {
            name: None if half is None else _elsewhere(half, n_layers, seed)
            for name, half in halves.items()
        }
        return replace(flow, **moved)
    if kind == "other" and bank is None:
        raise ValueError("kind='other' needs bank=momentum_bank(model, other_traces, ...)")
    half, changes = _CHANGES[kind]
    edit = getattr(flow, half)
    if edit is None:
        raise ValueError(f"kind={kind!r} is a placebo of {half}, which this flow has not")
    if kind == "other":
        changes = {**changes, "bank": bank}
    return replace(flow, **{half: replace(edit, **changes, seed=seed)})


def matched_flow(
    flow: Any, fake: Any, model: Any, traces: Sequence[Trace], *, tolerance: float | int
) -> Any:
    """A placebo of which every half that is changed has the dose of the flow's own.

    Two halves are matched in turn, since each changes what the other meets, until both doses hold
    at once.

    Raises:
        ValueError: a half cannot have the dose, or both cannot at once.
    """
    real = effects_on(model, flow, traces)
    changed = [half for half in _DOSES if getattr(fake, half) not in (None, getattr(flow, half))]
    targets = {half: _dose(flow, half, real) for half in changed}
    for _ in range(_ROUNDS):
        for half, target in targets.items():
            fake = _with_dose(fake, half, target, model, traces, tolerance=tolerance)
        if len(changed) == 1 or _all_hold(fake, targets, model, traces, tolerance):
            return fake
    raise ValueError(
        f"after {_ROUNDS} rounds the doses of bridge and momentum do not hold at once; "
        f"tolerance={tolerance} may be too small"
    )


def _all_hold(
    fake: Any,
    targets: Mapping[str, float],
    model: Any,
    traces: Sequence[Trace],
    tolerance: float | int,
) -> bool:
    effects = effects_on(model, fake, traces)
    return all(
        abs(_dose(fake, half, effects) - target) <= tolerance * target
        for half, target in targets.items()
    )


def _with_dose(
    fake: Any,
    half: str,
    target: float,
    model: Any,
    traces: Sequence[Trace],
    *,
    tolerance: float | int,
) -> Any:
    strengthened = _strengthened(getattr(fake, half), layers_of(model))

    def at(strength: float) -> Any:
        return replace(fake, **{half: strengthened(strength)})

    def measured(strength: float) -> float:
        flow = at(strength)
        return _dose(flow, half, effects_on(model, flow, traces))

    try:
        return at(matched_strength(measured, target, tolerance=tolerance))
    except ValueError as error:
        raise ValueError(f"{half}: {error}") from error


def _dose(flow: Any, half: str, effects: Effects) -> float:
    """Mean dose of a half over all that it moved; 0 if it moved nothing."""
    table = effects.doses().set_index("edit")[_DOSES[half]].dropna()
    return float(table.to_dict().get(_name(flow, half), 0.0))


def _name(flow: Any, half: str) -> str:
    """Name of a half in the table of effects."""
    places = named_edits(flow.edits)
    return next(place.name for place in places if place.edit is getattr(flow, half))


def _strengthened(edit: _Half, n_layers: int) -> Callable[[float], _Half]:
    """From a factor to the edit at that multiple of its strength."""
    if isinstance(edit, StepMomentumInjection):
        return lambda factor: replace(edit, alpha=_times(edit.alpha, factor, edit, n_layers))
    if edit.placebo is not None:
        return lambda factor: replace(edit, dose=factor)
    return lambda factor: replace(
        edit, tau_max=_times(edit.tau_max, factor, edit, n_layers, most=_LARGEST_TAU)
    )


def _times(
    strength: Strength, factor: float, edit: _Half, n_layers: int, most: float = float("inf")
) -> Mapping[int, float]:
    """A strength, by layer, times a factor."""
    return {
        layer: min(factor * strength_at(strength, layer, n_layers), most) for layer in edit.layers
    }


def _elsewhere(edit: _HalfType, n_layers: int | None, seed: int) -> _HalfType:
    """The same edit in other layers, which get the strengths and heads of its own in order."""
    if n_layers is None:
        raise ValueError("kind='layers' needs n_layers=, the number of the model's layers")
    layers = random_layers(n_layers, len(edit.layers), seed, avoid=edit.layers)
    moved = dict(zip(edit.layers, layers, strict=True))
    changes: dict[str, Any] = {"layers": layers}
    if isinstance(edit, StepMomentumInjection):
        changes["alpha"] = _moved_strength(edit.alpha, moved, n_layers)
    else:
        changes["tau_max"] = _moved_strength(edit.tau_max, moved, n_layers)
    if isinstance(edit, OddsEqualBridge) and isinstance(edit.heads, Mapping):
        changes["heads"] = {moved[layer]: heads for layer, heads in edit.heads.items()}
    return replace(edit, **changes)


def _moved_strength(strength: Strength, moved: Mapping[int, int], n_layers: int) -> Strength:
    """The strength of each layer in the layer that takes its place."""
    if isinstance(strength, float | int):
        return strength
    return {new: strength_at(strength, old, n_layers) for old, new in moved.items()}
