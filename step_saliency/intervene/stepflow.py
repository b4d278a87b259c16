"""StepFlow: the Odds-Equal Bridge in shallow layers, Step Momentum Injection in deep ones.

The bridge holds shallow layers to the question and the thinking, which they lose to the step that
is being written; momentum hands each step to the next where deep layers let go of it. ("Reasoning
Fails Where Step Flow Breaks", ACL 2026; the equations are in `oeb` and `smi`.)

When it misleads: quarters of the layers and the strengths are the paper's one choice for every
model. Whether they are right for a model is a question of its own, see `ss.calibrate`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from step_saliency.intervene.bound import BoundEdit, BoundGroup, labels_for
from step_saliency.intervene.choices import MATCHES, Match, PaddingSide, Placebo
from step_saliency.intervene.edit import Edit, EditGroup
from step_saliency.intervene.expected import listed_traces
from step_saliency.intervene.flow_placebos import changed_flow, matched_flow
from step_saliency.intervene.matching import TOLERANCE, check_tolerance
from step_saliency.intervene.oeb.edit import OddsEqualBridge
from step_saliency.intervene.placebos import MomentumBank
from step_saliency.intervene.schedule import Strength
from step_saliency.intervene.smi import StepMomentumInjection
from step_saliency.models.bands import Bands
from step_saliency.models.facts import n_layers as layers_of
from step_saliency.options import check_option, check_seed, is_whole
from step_saliency.trace import Trace

DRAWS = 20
"""Placebos of one kind by default, so that they have a distribution."""


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

        Raises:
            ValueError: no model, or bands that are none or empty.
        """
        if not isinstance(bands, Bands | None):
            raise ValueError(f"bands={bands!r:.80} are no Bands; Bands.quarters(n_layers) are")
        bands = bands or Bands.quarters(_depth(model))
        oeb = OddsEqualBridge(bands.shallow, tau_max=tau_max) if bands.shallow else None
        smi = StepMomentumInjection(bands.deep, alpha=alpha) if bands.deep else None
        return cls(oeb=oeb, smi=smi)

    def placebo(
        self,
        kind: Placebo,
        seed: int = 0,
        *,
        match: Match | None = None,
        model: Any = None,
        traces: Iterable[Trace] | None = None,
        tolerance: float | int | None = None,
        n_layers: int | None = None,
        bank: MomentumBank | None = None,
    ) -> "StepFlow":
        """This flow with one thing about it made meaningless, and all else kept; see `placebos`.

        Args:
            kind: ``"bridge"``, ``"block"``, ``"permuted"`` or ``"smooth"``, which change the bridge
                and leave momentum as it is; ``"boundaries"``, ``"direction"`` or ``"other"``, the
                other way round; or ``"layers"``, which moves each to as many layers that it is not
                in.
            seed: Seed of the draws.
            match: ``"kl"`` gives the changed half the dose of the real one, measured on ``traces``:
                mean KL(after || before) of the rows that a bridge moves, mean norm relative to the
                residual of what momentum adds. ``"mass"`` keeps tau_max and alpha as they are (and
                the norm of momentum in each head), so that the dose may be another; such a
                placebo is unmatched, and traces and a tolerance are refused. By default ``"kl"`` if
                there are traces, else ``"mass"``.
            model: HookedTransformer or TransformerBridge, to measure doses.
            traces: A few traces to measure them on.
            tolerance: Relative difference between doses at which matching ends; 0.01 by default.
            n_layers: Layers of the model, for ``"layers"``; known if the model is given.
            bank: Steps of other traces, for ``"other"``; see `momentum_bank`.

        Raises:
            ValueError: an unknown kind, a half that this flow lacks, too few other layers, an
                option that the kind needs or that is not used, or a dose that the placebo cannot
                have.
        """
        match = match or ("mass" if traces is None else "kl")
        check_option("match", match, MATCHES)
        check_seed(seed)
        _check_matching(match, traces, tolerance)
        if not (n_layers is None or is_whole(n_layers, least=1)):
            raise ValueError(f"n_layers={n_layers!r} is no whole number above 0")
        depth = layers_of(model) if n_layers is None and model is not None else n_layers
        fake: StepFlow = changed_flow(self, kind, seed, n_layers=depth, bank=bank)
        if match == "mass":
            return fake
        if model is None or traces is None:
            raise ValueError(
                "match='kl' measures doses: it needs model= and a few traces in traces=; "
                "match='mass' goes without, unmatched in dose"
            )
        return matched_flow(
            self, fake, model, listed_traces(traces), tolerance=tolerance or TOLERANCE
        )

    def placebos(
        self, kind: Placebo, draws: int | None = None, seed: int = 0, **options: Any
    ) -> "tuple[StepFlow, ...]":
        """Several draws of a placebo, each matched by itself, so that it has a distribution.

        Args:
            kind: As of `placebo`.
            draws: How many; 20 by default, and of ``"smooth"``, which draws nothing, 1.
            seed: Seed of the first; each has the next.
            options: Further arguments of `placebo`.

        Raises:
            ValueError: as of `placebo`, and for fewer draws than one.
        """
        check_seed(seed)
        if draws is None:
            draws = 1 if kind == "smooth" else DRAWS
        if not is_whole(draws, least=1) or (kind == "smooth" and draws > 1):
            raise ValueError(
                f"draws={draws!r} of kind={kind!r}; 'smooth' has one, others 1 or more"
            )
        if options.get("traces") is not None:
            options["traces"] = listed_traces(options["traces"])
        return tuple(self.placebo(kind, seed + draw, **options) for draw in range(draws))

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


def _check_matching(match: Match, traces: object, tolerance: float | int | None) -> None:
    """Refuse what matching would not read, and tolerances that nothing can hold."""
    if tolerance is not None:
        check_tolerance(tolerance)
    if match != "mass":
        return
    given = {"traces": traces, "tolerance": tolerance}
    unread = [f"{name}=" for name, value in given.items() if value is not None]
    if unread:
        raise ValueError(
            f"{' and '.join(unread)} are of match='kl', which measures doses; match='mass' keeps "
            "the strengths as they are and reads neither"
        )


def _depth(model: Any) -> int:
    if hasattr(model, "cfg"):
        return layers_of(model)
    if not hasattr(model, "config"):
        raise ValueError(f"{model!r:.80} is no model of TransformerLens or transformers")
    return int(model.config.get_text_config(decoder=True).num_hidden_layers)
