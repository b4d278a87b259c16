"""What if a new step began with what the step before it had in its values?

Step Momentum Injection, per layer and first token t of a thinking or summary step:

    h'_t = h_t + alpha * m,    m = mean of v over the tokens of the previous step

The previous step is the last one that is no template (or its last ``window`` tokens, if given): for
the first thinking step the question, for the first summary step the last thinking step. (SMI in
"Reasoning Fails Where Step Flow Breaks", ACL 2026.) What h is:

    space="value"                          head outputs: each head gets the values of its group
    space="residual", source="value"       hook_resid_post gets sum_h W_O[h] m_h
    space="residual", source="resid_post"  hook_resid_post gets the mean of itself over the previous
                                           step, as it was before this edit; a constant to
                                           gradients, so that maps stay row by row

Every layer given injects. The paper's scripts differ: their buffer is emptied by the first layer
that reads it, so that one layer injects; they take the last four tokens, add before W_O, and leave
the step from thinking to summary out.

When it misleads: the first token of a step gets any vector of that size as well as this one. The
placebos tell what is due to the step: ``momentum="random"`` (another direction, the same norm in
each head), ``momentum="other"`` (another trace's step, norm-matched), ``boundaries="random"`` (a
token where no step begins). In models that normalise what attention returns (Gemma), "residual"
adds what would have been normalised.
"""

from collections.abc import Callable, Sequence, Set
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import partial

import torch
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor

from step_saliency.intervene.choices import (
    BOUNDARIES,
    MOMENTA,
    SOURCES,
    SPACES,
    Boundaries,
    Momentum,
    Source,
    Space,
)
from step_saliency.intervene.context import EditContext
from step_saliency.intervene.edit import Edit
from step_saliency.intervene.injections import InjectionPlan, plan_injections, step_momentum
from step_saliency.intervene.labels import WRITTEN, StepLabels
from step_saliency.intervene.placebos import MomentumBank, norm_matched, random_directions
from step_saliency.intervene.places import checked_layers
from step_saliency.intervene.schedule import Strength, check_strength, strength_at
from step_saliency.intervene.sites import Site
from step_saliency.options import check_option, check_seed, is_whole


@dataclass(frozen=True, eq=False)
class StepMomentumInjection(Edit):
    """Begin each step with the mean value of the step before.

    At the first token t of a thinking or summary step, h'_t = h_t + alpha * mean of v over the
    tokens of the previous step (SMI in "Reasoning Fails Where Step Flow Breaks", ACL 2026; the
    module has the differences to its scripts).

    Example:
        >>> with StepMomentumInjection(layers=[26, 27], alpha=0.06).attached(model) as session:
        ...     text = model.generate(prompt)

    Attributes:
        layers: Layers in which it acts.
        alpha: Strength, 0 or above: a number, a mapping by layer, or a function of depth.
        space: ``"value"`` adds to head outputs, ``"residual"`` to the residual after the block.
        source: What the mean is taken of; ``"resid_post"`` only with ``space="residual"``.
        window: Last tokens of the previous step that count; None for all.
        momentum: ``"step"``; or the placebos ``"random"`` and ``"other"``.
        boundaries: ``"step"``, or the placebo ``"random"``.
        bank: For ``momentum="other"``: steps of other traces, see `momentum_bank`.
        seed: Seed of the draws.

    Raises:
        ValueError: an option out of range; a bank that is missing, or not used.
    """

    layers: Sequence[int]
    _: KW_ONLY
    alpha: Strength = 0.06
    space: Space = "value"
    source: Source = "value"
    window: int | None = None
    momentum: Momentum = "step"
    boundaries: Boundaries = "step"
    bank: MomentumBank | None = None
    seed: int = 0
    site: Site = field(init=False, repr=False)
    needs_values: bool = field(init=False, repr=False)
    needs_resid: bool = field(init=False, repr=False)
    needs_resid_pre: bool = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", checked_layers(self.layers))
        self._check_options()
        for name, value in {
            "site": "z" if self.space == "value" else "resid_post",
            "needs_values": self.source == "value",
            "needs_resid": self.source == "resid_post",
            "needs_resid_pre": self.space == "value",
        }.items():
            object.__setattr__(self, name, value)

    def _check_options(self) -> None:
        check_strength("alpha", self.alpha, layers=self.layers)
        check_option("space", self.space, SPACES)
        check_option("source", self.source, SOURCES)
        check_option("momentum", self.momentum, MOMENTA)
        check_option("boundaries", self.boundaries, BOUNDARIES)
        if self.space == "value" and self.source != "value":
            raise ValueError(f"source={self.source!r} needs space='residual'")
        if self.window is not None and not is_whole(self.window, least=1):
            raise ValueError(f"window={self.window!r} is no whole number above 0; None takes all")
        check_seed(self.seed)
        if not isinstance(self.bank, MomentumBank | None):
            raise ValueError(f"bank={self.bank!r:.80} is none; momentum_bank(model, traces) is")
        if (self.momentum == "other") != (self.bank is not None):
            raise ValueError(
                f"momentum={self.momentum!r} with {'a' if self.bank else 'no'} bank: a bank goes "
                "with momentum='other', and the other way round"
            )

    def may_act(self, regions: Set[int], starting: Set[int]) -> bool:
        return not WRITTEN.isdisjoint(starting if self.boundaries == "step" else regions)

    def check(self, *, n_layers: int, n_heads: int) -> None:
        super().check(n_layers=n_layers, n_heads=n_heads)
        for layer in self.layers:
            self.alpha_in(layer, n_layers)

    def alpha_in(self, layer: int, n_layers: int | None) -> float:
        """alpha in a layer.

        Raises:
            ValueError: it is below 0.
        """
        alpha = strength_at(self.alpha, layer, n_layers)
        if not alpha >= 0:
            raise ValueError(f"alpha={alpha} in layer {layer} is below 0")
        return alpha

    def at(self, point: str) -> "StepMomentumInjection":
        """By hand at ``hook_resid_post`` it adds the mean of the residual itself.

        Not so if ``space="residual"`` with ``source="value"`` was asked for.
        """
        if self.space == "value" and point == "resid_post":
            return replace(self, space="residual", source="resid_post")
        return self

    def apply(
        self, activation: Float[Tensor, "batch pos ..."], context: EditContext
    ) -> Float[Tensor, "batch pos ..."]:
        """The activation with momentum at the first tokens of steps."""
        alpha = self.alpha_in(context.layer, context.n_layers)
        plan = self._plan(context.labels, context.n_queries)
        if alpha == 0 or not len(plan):
            return activation
        added = alpha * self._momentum(activation, context, plan)
        places = (plan.row, plan.query)
        self._record(added, activation, context, places)
        added = added.to(activation.dtype)
        if self.boundaries == "step":  # no two injections have one place
            return activation.index_put(places, activation[places] + added)
        return activation.index_put(places, added, accumulate=True)

    def _plan(self, labels: StepLabels, n_queries: int) -> InjectionPlan:
        return plan_injections(
            labels,
            n_queries=n_queries,
            window=self.window,
            boundaries=self.boundaries,
            seed=self.seed,
        )

    def foresee(self, labels: StepLabels, n_queries: int) -> None:
        self._plan(labels, n_queries)

    def _momentum(
        self, activation: Float[Tensor, "batch pos ..."], context: EditContext, plan: InjectionPlan
    ) -> Float[Tensor, "injection ..."]:
        source = context.values if self.source == "value" else context.resid
        assert source is not None
        momentum = step_momentum(source, plan)
        carried = self._carried(momentum, activation, context)
        if self.momentum == "step":
            return carried
        placebo = self._placebo(momentum, context.layer, plan.position)
        return norm_matched(self._carried(placebo, activation, context), carried)

    def _placebo(
        self,
        momentum: Float[Tensor, "injection *shape"],
        layer: int,
        positions: Int[Tensor, "injection"],
    ) -> Float[Tensor, "injection *shape"]:
        if self.bank is None:
            return random_directions(momentum, positions, layer=layer, seed=self.seed)
        drawn = self.bank.drawn(self.source, positions, layer=layer, seed=self.seed)
        return norm_matched(drawn.to(momentum), momentum)

    def _carried(
        self,
        momentum: Float[Tensor, "injection ..."],
        activation: Float[Tensor, "batch pos ..."],
        context: EditContext,
    ) -> Float[Tensor, "injection ..."]:
        """Momentum in the space of the activation."""
        if self.source == "resid_post":
            return momentum
        if self.space == "value":
            return by_query_head(momentum, activation.shape[2])
        w_o = context.w_o()
        return carried_by(w_o, by_query_head(momentum, len(w_o)))

    def _record(
        self,
        added: Float[Tensor, "injection ..."],
        activation: Float[Tensor, "batch pos ..."],
        context: EditContext,
        places: tuple[Int[Tensor, "injection"], Int[Tensor, "injection"]],
    ) -> None:
        residual = activation if self.space == "residual" else context.resid_pre
        if residual is None:
            context.record(injections=len(added))
            return
        w_o = context.w_o if self.space == "value" else None
        context.count(partial(_injected, w_o=w_o), added, residual[places])


def _injected(
    added: Float[Tensor, "injection ..."],
    residual: Float[Tensor, "injection d_model"],
    *,
    w_o: Callable[[], Float[Tensor, "head d_head d_model"]] | None,
) -> dict[str, Tensor | int]:
    """Counters of injections into residuals; with ``w_o``, by way of head outputs."""
    written = added if w_o is None else carried_by(w_o(), added)
    norms = written.norm(dim=-1) / residual.to(written).norm(dim=-1)
    return {"injections": len(added), "injected_norm": norms.sum()}


def by_query_head(
    values: Float[Tensor, "injection kv_head d_head"], n_heads: int
) -> Float[Tensor, "injection head d_head"]:
    """Values of each query head: those of its group."""
    group = n_heads // values.shape[1]
    return values.repeat_interleave(group, dim=1)


def carried_by(
    w_o: Float[Tensor, "head d_head d_model"], values: Float[Tensor, "injection head d_head"]
) -> Float[Tensor, "injection d_model"]:
    """What head outputs write to the residual: sum_h W_O[h] v_h."""
    return einsum(
        values.to(torch.promote_types(w_o.dtype, values.dtype)),
        w_o.to(torch.promote_types(w_o.dtype, values.dtype)),
        "injection head d_head, head d_head d_model -> injection d_model",
    )
