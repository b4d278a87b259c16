"""StepFlow: the Odds-Equal Bridge in shallow layers, Step Momentum Injection in deep ones.

The bridge holds shallow layers to the question and the thinking, which they lose to the step that
is being written; momentum hands each step to the next where deep layers let go of it. ("Reasoning
Fails Where Step Flow Breaks", ACL 2026; the equations are in `oeb` and `smi`.)

When it misleads: quarters of the layers and the strengths are the paper's one choice for every
model. Whether they are right for a model is a question of its own, see `ss.calibrate`.
"""

from collections.abc import Sequence
from typing import Any, Literal, TypeVar

from step_saliency.diagnose.bands import Bands
from step_saliency.intervene.edit import EditGroup
from step_saliency.intervene.oeb import OddsEqualBridge
from step_saliency.intervene.schedule import Strength
from step_saliency.intervene.smi import StepMomentumInjection
from step_saliency.models.facts import n_layers as layers_of
from step_saliency.trace import Trace

_FlowType = TypeVar("_FlowType", bound="StepFlow")


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


def _depth(model: Any) -> int:
    if hasattr(model, "cfg"):
        return layers_of(model)
    return int(model.config.get_text_config(decoder=True).num_hidden_layers)
