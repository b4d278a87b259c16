"""What if a new step began with what the step before it had in its values?

Step Momentum Injection, per layer and first token t of a thinking or summary step:

    h'_t = h_t + alpha * m,    m = mean of v over the tokens of the previous step

The previous step is the last one that is no template (or its last ``window`` tokens, if given): for
the first thinking step the question, for the first summary step the last thinking step. (SMI in
"Reasoning Fails Where Step Flow Breaks", ACL 2026.) What h is:

    space="value"                          head outputs: each head gets the values of its group
    space="residual", source="value"       hook_resid_post gets sum_h W_O[h] m_h
    space="residual", source="resid_post"  hook_resid_post gets the mean of itself over the previous
                                           step, as it was before this edit

Every layer given injects. The paper's scripts differ: their buffer is emptied by the first layer
that reads it, so that one layer injects; they take the last four tokens, add before W_O, and leave
the step from thinking to summary out.

When it misleads: the first token of a step gets any vector of that size as well as this one. The
placebos tell what is due to the step: ``momentum="random"`` (another direction, the same norm in
each head), ``momentum="other"`` (another trace's step, norm-matched), ``boundaries="random"`` (a
token where no step begins). In models that normalise what attention returns (Gemma), "residual"
adds what would have been normalised.
"""

import copy
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor

from step_saliency.intervene.edit import Edit, EditContext, checked_layers, point_of
from step_saliency.intervene.labels import WRITTEN, StepLabels
from step_saliency.intervene.placebos import (
    BOUNDARY_PLACEBOS,
    MOMENTUM_PLACEBOS,
    MomentumBank,
    injections,
    norm_matched,
    random_directions,
)
from step_saliency.intervene.schedule import Strength, check_strength, strength_at
from step_saliency.options import check_option

SPACES = ("value", "residual")
SOURCES = ("value", "resid_post")
MOMENTA = ("step", *MOMENTUM_PLACEBOS)
BOUNDARIES = ("step", *BOUNDARY_PLACEBOS)


@dataclass(frozen=True, eq=False)
class InjectionPlan:
    """Where a pass gets momentum, and from where.

    Attributes:
        row: Row of the batch.
        query: Index of the token among the positions of the pass.
        position: Position of the step's first token in its own sequence, for lots.
        previous: Positions that momentum is the mean over, for each injection.
    """

    row: Int[Tensor, "injection"]
    query: Int[Tensor, "injection"]
    position: Int[Tensor, "injection"]
    previous: list[Int[Tensor, "..."]]

    def __len__(self) -> int:
        return len(self.previous)


def plan_injections(
    labels: StepLabels,
    *,
    n_queries: int,
    window: int | None = None,
    boundaries: str = "step",
    seed: int = 0,
) -> InjectionPlan:
    """Which of the last ``n_queries`` positions get momentum, and of which keys.

    Args:
        labels: What every position so far is.
        n_queries: The positions of the pass are the last ones, this many.
        window: Take only so many last tokens of the previous step; None for all.
        boundaries: ``"step"``, or a placebo; see `injections`.
        seed: Seed of the lots.
    """
    key = "injections", n_queries, window, boundaries, seed
    return labels.made(key, lambda: _plan(labels, n_queries, window, boundaries, seed))


def _plan(
    labels: StepLabels, n_queries: int, window: int | None, boundaries: str, seed: int
) -> InjectionPlan:
    found = injections(labels, n_queries, boundaries=boundaries, seed=seed)
    from_source = labels.step[found.row] == found.source[:, None]
    previous = [keys.nonzero().flatten() for keys in from_source]
    return InjectionPlan(
        row=found.row,
        query=found.target - (len(labels) - n_queries),
        position=labels.position[found.row, found.start],
        previous=previous if window is None else [keys[-window:] for keys in previous],
    )


def step_momentum(
    source: Float[Tensor, "batch key ..."], plan: InjectionPlan
) -> Float[Tensor, "injection ..."]:
    """Mean of the source over the previous step's tokens, for each injection.

    Args:
        source: Values or residuals of all positions so far.
        plan: At least one injection.
    """
    rows = zip(plan.row.tolist(), plan.previous, strict=True)
    return torch.stack([_mean(source[row].index_select(0, keys)) for row, keys in rows])


def _mean(rows: Float[Tensor, "previous ..."]) -> Float[Tensor, "..."]:
    return rows.to(torch.promote_types(rows.dtype, torch.float32)).mean(0)


class StepMomentumInjection(Edit):
    """Begin each step with the mean value of the step before.

    Example:
        >>> with StepMomentumInjection(layers=[26, 27], alpha=0.06).attached(model) as session:
        ...     text = model.generate(prompt)

    Args:
        layers: Layers in which it acts.
        alpha: Strength, 0 or above: a number, a mapping by layer, or a function of depth.
        space: ``"value"`` adds to head outputs, ``"residual"`` to the residual after the block.
        source: What the mean is taken of; ``"resid_post"`` only with ``space="residual"``.
        window: Last tokens of the previous step that count; None for all.
        momentum: ``"step"``; or the placebos ``"random"`` and ``"other"``.
        boundaries: ``"step"``, or the placebo ``"random"``.
        bank: For ``momentum="other"``: steps of other traces, see `momentum_bank`.
        seed: Seed of the lots.

    Raises:
        ValueError: an option out of range; a bank that is missing, or not used.
    """

    def __init__(
        self,
        layers: Sequence[int],
        *,
        alpha: Strength = 0.06,
        space: str = "value",
        source: str = "value",
        window: int | None = None,
        momentum: str = "step",
        boundaries: str = "step",
        bank: MomentumBank | None = None,
        seed: int = 0,
    ) -> None:
        self.layers = checked_layers(layers)
        check_strength("alpha", alpha)
        check_option("space", space, SPACES)
        check_option("source", source, SOURCES)
        check_option("momentum", momentum, MOMENTA)
        check_option("boundaries", boundaries, BOUNDARIES)
        if space == "value" and source != "value":
            raise ValueError(f"source={source!r} needs space='residual'")
        if window is not None and window < 1:
            raise ValueError(f"window={window} is below 1")
        if (momentum == "other") != (bank is not None):
            raise ValueError(
                f"momentum={momentum!r} with {'a' if bank else 'no'} bank: a bank goes with "
                "momentum='other', and the other way round"
            )
        self.alpha = alpha
        self.space = space
        self.source = source
        self.window = window
        self.momentum = momentum
        self.boundaries = boundaries
        self.bank = bank
        self.seed = seed
        self._set_site()

    def _set_site(self) -> None:
        self.site = "z" if self.space == "value" else "resid_post"
        self.needs_values = self.source == "value"
        self.needs_resid = self.source == "resid_post"
        self.needs_resid_pre = self.space == "value"

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

    def hook(self, activation: Tensor, hook: Any) -> Tensor | None:
        """As `Edit.hook`, going by the hook point.

        At ``hook_v`` it remembers the values and at ``hook_z`` adds their mean; at
        ``hook_resid_post`` it adds the mean of the residual itself, unless ``space="residual"``
        with ``source="value"`` was asked for.

        Raises:
            ValueError: as `Edit.hook`; at ``hook_z``, if no ``hook_v`` came before.
        """
        if self.space == "value" and point_of(str(hook.name)) == "resid_post":
            twin = copy.copy(self)
            twin.space, twin.source = "residual", "resid_post"
            twin._set_site()
            return twin.hook(activation, hook)
        return super().hook(activation, hook)

    def apply(
        self, activation: Float[Tensor, "batch pos ..."], context: EditContext
    ) -> Float[Tensor, "batch pos ..."]:
        """The activation with momentum at the first tokens of steps."""
        alpha = self.alpha_in(context.layer, context.n_layers)
        plan = plan_injections(
            context.labels,
            n_queries=context.n_queries,
            window=self.window,
            boundaries=self.boundaries,
            seed=self.seed,
        )
        if alpha == 0 or not len(plan):
            return activation
        added = alpha * self._momentum(activation, context, plan)
        places = (plan.row, plan.query)
        self._record(added, activation, context, places)
        return activation.index_put(places, added.to(activation.dtype), accumulate=True)

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
        source: Literal["value", "resid_post"] = "value" if self.needs_values else "resid_post"
        drawn = self.bank.drawn(source, positions, layer=layer, seed=self.seed)
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
