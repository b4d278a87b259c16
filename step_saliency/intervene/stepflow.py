"""StepFlow: the Odds-Equal Bridge in shallow layers, Step Momentum Injection in deep ones.

The bridge holds shallow layers to the question and the thinking, which they lose to the step that
is being written; momentum hands each step to the next where deep layers let go of it. ("Reasoning
Fails Where Step Flow Breaks", ACL 2026; the equations are in `oeb` and `smi`.)

When it misleads: quarters of the layers and the strengths are the paper's one choice for every
model. Whether they are right for a model is a question of its own, see `ss.calibrate`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from step_saliency.intervene.bound import BoundEdit, BoundGroup, labels_for
from step_saliency.intervene.choices import PLACEBOS, PaddingSide, Placebo
from step_saliency.intervene.edit import Edit, EditGroup
from step_saliency.intervene.oeb.edit import OddsEqualBridge
from step_saliency.intervene.placebos import MomentumBank, random_layers
from step_saliency.intervene.schedule import Strength, strength_at
from step_saliency.intervene.smi import StepMomentumInjection
from step_saliency.models.bands import Bands
from step_saliency.models.facts import n_layers as layers_of
from step_saliency.options import check_option
from step_saliency.trace import Trace

_HalfType = TypeVar("_HalfType", OddsEqualBridge, StepMomentumInjection)
_CHANGES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "bridge": ("oeb", {"placebo": "random"}),
    "smooth": ("oeb", {"placebo": "smooth"}),
    "boundaries": ("smi", {"boundaries": "random"}),
    "direction": ("smi", {"momentum": "random", "bank": None}),
    "other": ("smi", {"momentum": "other"}),
}
"""Of each kind of placebo: which half it changes, and how."""


@dataclass(frozen=True, eq=False)
class BoundFlow(BoundGroup):
    """Bridge and momentum that are bound to the steps of a trace.

    Attributes:
        oeb: The bridge.
        smi: The momentum.
    """

    edits: tuple[BoundEdit, ...] = field(init=False, repr=False)
    oeb: BoundEdit | None
    smi: BoundEdit | None

    def __post_init__(self) -> None:
        halves = (self.oeb, self.smi)
        object.__setattr__(self, "edits", tuple(edit for edit in halves if edit is not None))


@dataclass(frozen=True, eq=False)
class StepFlow(EditGroup):
    """Bridge and momentum, either of which may be left out.

    Example:
        >>> flow = ss.StepFlow.for_model(model)
        >>> with flow.attached(model) as session:
        ...     text = model.generate(prompt)
        >>> session.effects.to_frame()

    Attributes:
        oeb: The bridge.
        smi: The momentum.

    Raises:
        ValueError: both are None.
    """

    edits: Sequence[Edit] = field(init=False, repr=False)
    oeb: OddsEqualBridge | None = None
    smi: StepMomentumInjection | None = None

    def __post_init__(self) -> None:
        kinds = {"oeb": OddsEqualBridge, "smi": StepMomentumInjection}
        for name, kind in kinds.items():
            if not isinstance(getattr(self, name), kind | None):
                raise ValueError(f"{name}={getattr(self, name)!r} is no {kind.__name__}")
        if self.oeb is None and self.smi is None:
            raise ValueError("oeb=None and smi=None leave nothing to do; give one of them")
        halves = (self.oeb, self.smi)
        object.__setattr__(self, "edits", tuple(edit for edit in halves if edit is not None))

    @classmethod
    def for_model(
        cls,
        model: Any,
        *,
        bands: Bands | None = None,
        tau_max: Strength = 0.15,
        alpha: Strength = 0.06,
    ) -> "StepFlow":
        """The paper's choice: bottom quarter of the layers for the bridge, top for momentum.

        Args:
            model: HookedTransformer, TransformerBridge, or a transformers model.
            bands: Bands whose shallow and deep layers to take instead.
            tau_max: Upper bound of tau_B.
            alpha: Strength of momentum.
        """
        bands = bands or Bands.quarters(_depth(model))
        oeb = OddsEqualBridge(bands.shallow, tau_max=tau_max) if bands.shallow else None
        smi = StepMomentumInjection(bands.deep, alpha=alpha) if bands.deep else None
        return cls(oeb=oeb, smi=smi)

    def placebo(
        self,
        kind: Placebo,
        seed: int = 0,
        *,
        n_layers: int | None = None,
        bank: MomentumBank | None = None,
    ) -> "StepFlow":
        """This flow with one thing about it made meaningless, and all else kept; see `placebos`.

        Args:
            kind: ``"bridge"`` or ``"smooth"``, which change the bridge and leave momentum as it is;
                ``"boundaries"``, ``"direction"`` or ``"other"``, the other way round; or
                ``"layers"``, which moves each to as many layers that it is not in.
            seed: Seed of the draws.
            n_layers: Layers of the model, for ``"layers"``.
            bank: Steps of other traces, for ``"other"``; see `momentum_bank`.

        Raises:
            ValueError: an unknown kind, a half that this flow lacks, too few other layers, or an
                option that the kind needs.
        """
        check_option("kind", kind, PLACEBOS)
        if kind == "layers":
            oeb = None if self.oeb is None else _elsewhere(self.oeb, n_layers, seed)
            smi = None if self.smi is None else _elsewhere(self.smi, n_layers, seed)
            return StepFlow(oeb=oeb, smi=smi)
        if kind == "other" and bank is None:
            raise ValueError("kind='other' needs bank=momentum_bank(model, other_traces, ...)")
        half, changes = _CHANGES[kind]
        edit = getattr(self, half)
        if edit is None:
            raise ValueError(f"kind={kind!r} is a placebo of {half}, which this flow has not")
        if kind == "other":
            changes = {**changes, "bank": bank}
        return replace(self, **{half: replace(edit, **changes, seed=seed)})

    def bound_to(
        self,
        trace: Trace | Sequence[Trace],
        *,
        padding_side: PaddingSide = "left",
        model: Any = None,
    ) -> BoundFlow:
        """As `Edit.bound_to`, for both."""
        labels = labels_for(trace, padding_side)
        oeb, smi = (
            None if edit is None else BoundEdit(edit, labels, model)
            for edit in (self.oeb, self.smi)
        )
        return BoundFlow(oeb=oeb, smi=smi)


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


def _depth(model: Any) -> int:
    if hasattr(model, "cfg"):
        return layers_of(model)
    return int(model.config.get_text_config(decoder=True).num_hidden_layers)
