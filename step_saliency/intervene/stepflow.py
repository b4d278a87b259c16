"""StepFlow: the Odds-Equal Bridge in shallow layers, Step Momentum Injection in deep ones.

The bridge holds shallow layers to the question and the thinking, which they lose to the step that
is being written; momentum hands each step to the next where deep layers let go of it. ("Reasoning
Fails Where Step Flow Breaks", ACL 2026; the equations are in `oeb` and `smi`.)

When it misleads: quarters of the layers and the strengths are the paper's one choice for every
model. Whether they are right for a model is a question of its own, see `ss.calibrate`.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

from step_saliency.intervene.edit import EditGroup
from step_saliency.intervene.oeb import OddsEqualBridge
from step_saliency.intervene.placebos import PLACEBOS, MomentumBank, random_layers
from step_saliency.intervene.schedule import Strength, strength_at
from step_saliency.intervene.smi import StepMomentumInjection
from step_saliency.models.bands import Bands
from step_saliency.models.facts import n_layers as layers_of
from step_saliency.options import check_option
from step_saliency.trace import Trace

_FlowType = TypeVar("_FlowType", bound="StepFlow")
_HalfType = TypeVar("_HalfType", OddsEqualBridge, StepMomentumInjection)
_CHANGES: Mapping[str, tuple[str, Mapping[str, str | None]]] = {
    "bridge": ("oeb", {"placebo": "random"}),
    "smooth": ("oeb", {"placebo": "smooth"}),
    "boundaries": ("smi", {"boundaries": "random"}),
    "direction": ("smi", {"momentum": "random", "bank": None}),
    "other": ("smi", {"momentum": "other"}),
}
"""Of each kind of placebo: which half it changes, and how."""


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

    def __init__(
        self,
        oeb: OddsEqualBridge | None = None,
        smi: StepMomentumInjection | None = None,
    ) -> None:
        if oeb is None and smi is None:
            raise ValueError("oeb=None and smi=None leave nothing to do; give one of them")
        self.oeb = oeb
        self.smi = smi
        super().__init__([edit for edit in (oeb, smi) if edit is not None])

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
        taken = bands or Bands.quarters(_depth(model))
        oeb = OddsEqualBridge(taken.shallow, tau_max=tau_max) if taken.shallow else None
        smi = StepMomentumInjection(taken.deep, alpha=alpha) if taken.deep else None
        return cls(oeb=oeb, smi=smi)

    def placebo(
        self,
        kind: str,
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
            seed: Seed of the lots.
            n_layers: Layers of the model, for ``"layers"``.
            bank: Steps of other traces, for ``"other"``; see `momentum_bank`.

        Raises:
            ValueError: an unknown kind, a half that this flow lacks, too few other layers, or an
                option that the kind needs.
        """
        check_option("kind", kind, PLACEBOS)
        if kind == "layers":
            return StepFlow(
                oeb=None if self.oeb is None else _elsewhere(self.oeb, n_layers, seed),
                smi=None if self.smi is None else _elsewhere(self.smi, n_layers, seed),
            )
        if kind == "other" and bank is None:
            raise ValueError("kind='other' needs bank=momentum_bank(model, other_traces, ...)")
        half, changes = _CHANGES[kind]
        halves: dict[str, Any] = {"oeb": self.oeb, "smi": self.smi}
        if halves[half] is None:
            raise ValueError(f"kind={kind!r} is a placebo of {half}, which this flow has not")
        halves[half] = copy.copy(halves[half])
        vars(halves[half]).update(changes, seed=seed)
        if kind == "other":
            halves[half].bank = bank
        return StepFlow(**halves)

    def bound_to(
        self: _FlowType,
        trace: Trace | Sequence[Trace],
        *,
        padding_side: Literal["left", "right"] = "left",
        model: Any = None,
    ) -> _FlowType:
        """As `Edit.bound_to`, for both."""
        twin = super().bound_to(trace, padding_side=padding_side, model=model)
        bound = dict(zip(self.edits, twin.edits, strict=True))
        twin.oeb = bound.get(self.oeb)  # type: ignore[arg-type, assignment]
        twin.smi = bound.get(self.smi)  # type: ignore[arg-type, assignment]
        return twin


def _elsewhere(edit: _HalfType, n_layers: int | None, seed: int) -> _HalfType:
    """The same edit in other layers, which get the strengths and heads of its own in order."""
    if n_layers is None:
        raise ValueError("kind='layers' needs n_layers=, the number of the model's layers")
    layers = random_layers(n_layers, len(edit.layers), seed, avoid=edit.layers)
    moved = dict(zip(edit.layers, layers, strict=True))
    twin = copy.copy(edit)
    twin.layers = layers
    strength = "tau_max" if isinstance(edit, OddsEqualBridge) else "alpha"
    given = getattr(edit, strength)
    if not isinstance(given, float | int):
        by_layer = {new: strength_at(given, old, n_layers) for old, new in moved.items()}
        setattr(twin, strength, by_layer)
    if isinstance(twin, OddsEqualBridge) and isinstance(twin.heads, Mapping):
        twin.heads = {moved[layer]: heads for layer, heads in twin.heads.items()}
    return twin


def _depth(model: Any) -> int:
    if hasattr(model, "cfg"):
        return layers_of(model)
    return int(model.config.get_text_config(decoder=True).num_hidden_layers)
