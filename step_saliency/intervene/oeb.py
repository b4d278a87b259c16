"""What if attention kept a minimum of its mass on what the step is to be bridged to?

The Odds-Equal Bridge, per layer, head and query t with attention row p. Keys are split into the
current part S (``current``), the bridge B (``bridge``), and the rest O: template, BOS, padding and
a learned sink. With |B| and |S| the visible keys of each,

    tau_B = min(sqrt(|B| / (|B| + |S|)), tau_max)
    where p(B) < tau_B:  scores + log(tau_B / p(B))              on B
                         scores + log((1 - p(O) - tau_B) / p(S)) on S

which is the projection of p onto {q : q(B) = tau_B, q(O) = p(O)} with the least KL(q || p): within
each group the odds between keys stay as they are. Other rows are left alone to the bit. (OEB, Eq.
6-8 of "Reasoning Fails Where Step Flow Breaks", ACL 2026.)

By default S is all of the query's region so far, B the question while thinking and the thinking
while summarising. The paper's scripts read it in the same way, but differ from the equations:

- a row is infeasible where tau_B >= 1 - p(O), when S would have no mass left. They clamp, which
  wipes S out; here tau_B is then half of 1 - p(O), and such rows are counted;
- they compute p without the sink and over keys outside of a sliding window; here the sink is part
  of O and only visible keys count;
- they count the template and BOS as bridge. BOS soaks up most of the mass, so that p(B) looks
  high and the bridge never acts; here both are part of O;
- ``current="step"`` is ours: it takes the query's step for S, so that earlier steps of the region
  are part of O unless ``bridge`` names them.

When it misleads: a row that is shifted has more mass on the bridge, whatever stands there. The
placebos tell what is due to the bridge: ``placebo="random"`` draws as many keys from B and S by
lot, ``placebo="smooth"`` flattens the rows that would be shifted, at equal KL(q || p).
"""

from collections.abc import Mapping, Sequence, Set
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from step_saliency.intervene.edit import (
    Edit,
    EditContext,
    Heads,
    check_heads,
    checked_layers,
    heads_in,
)
from step_saliency.intervene.labels import (
    WRITTEN,
    KeyGroup,
    StepLabels,
    check_groups,
    hashed,
    key_groups,
)
from step_saliency.intervene.schedule import Strength, check_strength, strength_at
from step_saliency.options import check_option

MODES = ("bridge", "smooth")
BRIDGE_PLACEBOS = ("random", "smooth")
_BISECTIONS = 60


class OddsEqualShifts(NamedTuple):
    """What the projection does to rows of attention.

    Attributes:
        bridge: Added to the scores on the bridge; 0 in rows that are left alone.
        current: Added to the scores on the current part.
        acts: Rows with a bridge and a current part.
        shifted: Rows below the bound.
        infeasible: Rows whose bound was capped.
        mass_before: Mass of the bridge.
        mass_after: The same after the shift.
        divergence: KL(q || p) of the shift.
    """

    bridge: Float[Tensor, "..."]
    current: Float[Tensor, "..."]
    acts: Bool[Tensor, "..."]
    shifted: Bool[Tensor, "..."]
    infeasible: Bool[Tensor, "..."]
    mass_before: Float[Tensor, "..."]
    mass_after: Float[Tensor, "..."]
    divergence: Float[Tensor, "..."]


class OddsEqualFactors(NamedTuple):
    """What the softmax sums of the groups are multiplied by; O keeps its own.

    Attributes:
        bridge: Factor on the weights of the bridge; 1 in rows that are left alone.
        current: Factor on the weights of the current part.
        other: Factor on the rest: 1.
        shifts: The same in logarithms, with what is to be counted.
    """

    bridge: Float[Tensor, "..."]
    current: Float[Tensor, "..."]
    other: Float[Tensor, "..."]
    shifts: OddsEqualShifts


def bridge_floor(
    n_bridge: Shaped[Tensor, "..."], n_current: Shaped[Tensor, "..."], tau_max: float | int
) -> Float[Tensor, "..."]:
    """tau_B = min(sqrt(|B| / (|B| + |S|)), tau_max); 0 without keys."""
    share = n_bridge / (n_bridge + n_current).clamp(min=1)
    return share.sqrt().clamp(max=tau_max)


def odds_equal_shifts(
    log_bridge: Float[Tensor, "..."],
    log_current: Float[Tensor, "..."],
    log_other: Float[Tensor, "..."],
    n_bridge: Shaped[Tensor, "..."],
    n_current: Shaped[Tensor, "..."],
    *,
    tau_max: float | int,
) -> OddsEqualShifts:
    """The projection, from the log-sum-exp of the scores of each group.

    Args:
        log_bridge: Of the bridge; any number where it has no keys.
        log_current: Of the current part; any number where it has no keys.
        log_other: Of all else, sinks included; -inf or very low where there is nothing.
        n_bridge: Visible keys of the bridge.
        n_current: Visible keys of the current part.
        tau_max: Upper bound of tau_B.
    """
    acts = (n_bridge > 0) & (n_current > 0)
    wanted = bridge_floor(n_bridge.to(log_other.dtype), n_current.to(log_other.dtype), tau_max)
    return group_shifts(log_bridge, log_current, log_other, wanted, acts)


def group_shifts(
    log_bridge: Float[Tensor, "..."],
    log_current: Float[Tensor, "..."],
    log_other: Float[Tensor, "..."],
    wanted: Float[Tensor, "..."],
    acts: Bool[Tensor, "..."],
    *,
    at_most: float = 0.5,
) -> OddsEqualShifts:
    """The projection onto any mass of the bridge: {q : q(B) >= wanted, q(O) = p(O)}.

    Args:
        log_bridge: Log-sum-exp of the scores of the bridge; any number where ``acts`` is False.
        log_current: Of the part that gives mass away; any number where ``acts`` is False.
        log_other: Of all else; -inf or very low where there is nothing.
        wanted: Mass that the bridge is to have.
        acts: Rows with a bridge and a part that gives.
        at_most: Mass that the bridge gets in rows that cannot have it (wanted >= 1 - p(O)), as a
            share of 1 - p(O). With 1 the other part is emptied: its shift is -inf.
    """
    log_bridge, log_current, log_other = (
        torch.where(acts, x, 0.0) for x in (log_bridge, log_current, log_other)
    )
    log_pair = torch.logaddexp(log_bridge, log_current)
    log_all = torch.logaddexp(log_pair, log_other)
    mass, rest = (log_bridge - log_all).exp(), (log_pair - log_all).exp()
    infeasible = acts & (mass < wanted) & (wanted >= rest)
    tau = torch.where(infeasible, rest * at_most, wanted)
    shifted = acts & (mass < tau)
    keeps = shifted & (tau < rest)
    # rows that are left alone get a harmless logarithm, so that no gradient becomes NaN
    tau, remainder = torch.where(shifted, tau, 0.5), torch.where(keeps, rest - tau, 0.5)
    to_bridge = torch.where(shifted, tau.log() - (log_bridge - log_all), 0.0)
    to_current = torch.where(keeps, remainder.log() - (log_current - log_all), 0.0)
    before = torch.where(acts, mass, 0.0)
    after = torch.where(shifted, tau, before)
    divergence = tau * to_bridge + remainder * to_current
    to_current = to_current.masked_fill(shifted & ~keeps, float("-inf"))
    return OddsEqualShifts(
        to_bridge, to_current, acts, shifted, infeasible, before, after, divergence
    )


def odds_equal_factors(
    mass_bridge: Float[Tensor, "..."],
    mass_current: Float[Tensor, "..."],
    mass_other: Float[Tensor, "..."],
    n_bridge: Shaped[Tensor, "..."],
    n_current: Shaped[Tensor, "..."],
    tau_max: float | int,
) -> OddsEqualFactors:
    """The projection, from the softmax sums of the groups, in any common scale.

    A row whose bridge or current part has no mass left in this precision is left alone.

    Args:
        mass_bridge: Sum of exp(score) over the bridge.
        mass_current: Over the current part.
        mass_other: Over all else, sinks included.
        n_bridge: Visible keys of the bridge.
        n_current: Visible keys of the current part.
        tau_max: Upper bound of tau_B.
    """
    has_mass = (mass_bridge > 0) & (mass_current > 0)
    shifts = odds_equal_shifts(
        mass_bridge.log(),
        mass_current.log(),
        mass_other.log(),
        n_bridge * has_mass,
        n_current * has_mass,
        tau_max=tau_max,
    )
    bridge, current = shifts.bridge.exp(), shifts.current.exp()
    return OddsEqualFactors(bridge, current, torch.ones_like(bridge), shifts)


def visible_keys(scores: Float[Tensor, "*lead query key"]) -> Bool[Tensor, "*lead query key"]:
    """Keys that no mask hides: masked scores are -inf, or about the lowest number."""
    return scores > torch.finfo(scores.dtype).min / 4


def odds_equal_scores(
    scores: Float[Tensor, "*lead query key"],
    groups: Int[Tensor, "*#lead query key"],
    *,
    tau_max: float | int,
    sinks: Float[Tensor, "..."] | None = None,
    mode: str = "bridge",
) -> tuple[Float[Tensor, "*lead query key"], OddsEqualShifts | None]:
    """Shift the scores of the rows whose bridge has too little mass.

    Args:
        scores: Scores before the softmax, masked entries -inf or the lowest number.
        groups: `KeyGroup` of each key to each query.
        tau_max: Upper bound of tau_B; 0 leaves everything alone.
        sinks: Score of a sink that takes part in the softmax; broadcast to ``*lead query``.
        mode: ``"bridge"``, or ``"smooth"``: the rows that would be shifted get scores
            beta * scores instead, sink and total mass of the keys held, with beta < 1 such that
            KL(q || p) is the same (or beta = 0 where no beta reaches it).

    Returns:
        New scores, or ``scores`` itself where no row is shifted; and what was done per row, None
        with ``tau_max`` 0.

    Raises:
        ValueError: ``tau_max`` is not in [0, 1), or the mode is unknown.
    """
    check_option("mode", mode, MODES)
    if not 0 <= tau_max < 1:
        raise ValueError(f"tau_max={tau_max} is not in [0, 1)")
    if tau_max == 0:
        return scores, None
    # KL is a small difference of large terms, and beta goes by its root: smoothing needs float64
    precision = torch.float64 if mode == "smooth" else torch.float32
    exact = scores.to(torch.promote_types(scores.dtype, precision))
    visible = visible_keys(scores)
    shifts = _shifts_of(exact, visible, groups, tau_max, sinks)
    if not shifts.shifted.any():
        return scores, shifts
    if mode == "smooth":
        edited, shifts = _smoothed(exact, visible, groups, shifts, sinks)
    else:
        edited = _added(exact, groups, shifts)
    changes = shifts.shifted[..., None] & visible
    return torch.where(changes, edited.to(scores.dtype), scores), shifts


def projected_scores(
    scores: Float[Tensor, "*lead query key"],
    groups: Int[Tensor, "*#lead query key"],
    *,
    mass: float | int,
    sinks: Float[Tensor, "..."] | None = None,
) -> tuple[Float[Tensor, "*lead query key"], OddsEqualShifts]:
    """Shift the scores of the rows whose bridge has less than a given mass.

    Where the current part has too little to give, it is emptied and the row counted infeasible.

    Args:
        scores: Scores before the softmax, masked entries -inf or the lowest number.
        groups: `KeyGroup` of each key to each query.
        mass: Mass that the bridge is to have.
        sinks: Score of a sink that takes part in the softmax; broadcast to ``*lead query``.

    Returns:
        New scores, or ``scores`` itself where no row is shifted; and what was done per row.
    """
    exact = scores.to(torch.promote_types(scores.dtype, torch.float32))
    visible = visible_keys(scores)
    logs, n_bridge, n_current = _log_sums(exact, visible, groups, sinks)
    acts = (n_bridge > 0) & (n_current > 0)
    bridge, current, other = logs
    wanted = torch.full_like(other, mass)
    shifts = group_shifts(bridge, current, other, wanted, acts, at_most=1.0)
    if not shifts.shifted.any():
        return scores, shifts
    changes = shifts.shifted[..., None] & visible
    edited = _added(exact, groups, shifts)
    return torch.where(changes, edited.to(scores.dtype), scores), shifts


def _added(
    scores: Float[Tensor, "*lead query key"],
    groups: Int[Tensor, "*#lead query key"],
    shifts: OddsEqualShifts,
) -> Float[Tensor, "*lead query key"]:
    shift = torch.where(groups == KeyGroup.BRIDGE, shifts.bridge[..., None], 0.0)
    return scores + torch.where(groups == KeyGroup.CURRENT, shifts.current[..., None], shift)


def _shifts_of(
    scores: Float[Tensor, "*lead query key"],
    visible: Bool[Tensor, "*lead query key"],
    groups: Int[Tensor, "*#lead query key"],
    tau_max: float | int,
    sinks: Float[Tensor, "..."] | None,
) -> OddsEqualShifts:
    logs, n_bridge, n_current = _log_sums(scores, visible, groups, sinks)
    bridge, current, other = logs
    return odds_equal_shifts(bridge, current, other, n_bridge, n_current, tau_max=tau_max)


def _log_sums(
    scores: Float[Tensor, "*lead query key"],
    visible: Bool[Tensor, "*lead query key"],
    groups: Int[Tensor, "*#lead query key"],
    sinks: Float[Tensor, "..."] | None,
) -> tuple[list[Float[Tensor, "*lead query"]], Int[Tensor, "..."], Int[Tensor, "..."]]:
    """Log-sum-exp of bridge, current part and the rest; and how many keys the first two have."""
    bridge, current, other = (
        visible & (groups == group) for group in (KeyGroup.BRIDGE, KeyGroup.CURRENT, KeyGroup.OTHER)
    )
    logs = [_log_sum(scores, members) for members in (bridge, current, other)]
    if sinks is not None:
        logs[2] = torch.logaddexp(logs[2], sinks.to(scores.dtype).expand_as(logs[2]))
    return logs, bridge.sum(-1), current.sum(-1)


def _log_sum(
    scores: Float[Tensor, "*lead query key"], members: Bool[Tensor, "*lead query key"]
) -> Float[Tensor, "*lead query"]:
    """Very low without members: -inf would have no gradient."""
    return torch.where(members, scores, torch.finfo(scores.dtype).min / 2).logsumexp(-1)


def _smoothed(
    scores: Float[Tensor, "*lead query key"],
    visible: Bool[Tensor, "*lead query key"],
    groups: Int[Tensor, "*#lead query key"],
    shifts: OddsEqualShifts,
    sinks: Float[Tensor, "..."] | None,
) -> tuple[Float[Tensor, "*lead query key"], OddsEqualShifts]:
    rows = shifts.shifted
    log_keys = _log_sum(scores, visible)
    log_all = log_keys
    if sinks is not None:
        log_all = torch.logaddexp(log_keys, sinks.to(scores.dtype).expand_as(log_keys))
    kept = (log_keys - log_all).exp()
    flat = smoothed_rows(scores[rows], visible[rows], (shifts.divergence / kept)[rows])
    edited = scores.clone()
    edited[rows] = flat.to(scores.dtype)
    on_bridge = _log_sum(edited, visible & (groups == KeyGroup.BRIDGE))
    after = torch.where(rows, (on_bridge - log_all).exp(), shifts.mass_before)
    return edited, shifts._replace(mass_after=after)


def smoothed_rows(
    scores: Float[Tensor, "row key"],
    visible: Bool[Tensor, "row key"],
    divergence: Float[Tensor, "row"],
) -> Float[Tensor, "row key"]:
    """Rows at a higher temperature, with the same log-sum-exp, at a given KL from what they were.

    Args:
        scores: Scores.
        visible: Keys that take part.
        divergence: KL(softmax(beta * scores) || softmax(scores)) that is to be reached by the
            choice of beta in [0, 1]; where even 0 does not reach it, beta is 0.
    """
    exact = torch.where(visible, scores.double(), 0.0)
    log_before = _log_sum(exact, visible)
    low, high = torch.zeros_like(log_before), torch.ones_like(log_before)
    for _ in range(_BISECTIONS):
        beta = (low + high) / 2
        scaled = beta[:, None] * exact
        log_after = _log_sum(scaled, visible)
        weights = torch.where(visible, (scaled - log_after[:, None]).exp(), 0.0)
        reached = (weights * (scaled - exact)).sum(-1) - log_after + log_before
        too_flat = reached > divergence
        low, high = torch.where(too_flat, beta, low), torch.where(too_flat, high, beta)
    scaled = low[:, None] * exact
    return scaled + (log_before - _log_sum(scaled, visible))[:, None]


def random_bridge(
    groups: Int[Tensor, "batch query key"],
    visible: Bool[Tensor, "batch query key"],
    labels: StepLabels,
    *,
    seed: int,
) -> Int[Tensor, "batch query key"]:
    """Relabel bridge and current part by lot: as many visible keys of each, in other places.

    The lot depends on the seed and on the places of query and key in their sequence, so that it
    falls in the same way in a cached pass, in a full one, and in any batch.

    Args:
        groups: `KeyGroup` of each key to each query.
        visible: Keys that no mask hides.
        labels: What every position so far is.
        seed: Seed.
    """
    n_queries, n_keys = groups.shape[1:]
    position = labels.position
    lots = hashed(seed, position[:, n_keys - n_queries :, None], position[:, None])
    drawn = visible & (groups != KeyGroup.OTHER)
    n_bridge = (visible & (groups == KeyGroup.BRIDGE)).sum(-1, keepdim=True)
    rank = torch.where(drawn, lots, torch.iinfo(lots.dtype).max).argsort(-1).argsort(-1)
    relabelled = torch.where(rank < n_bridge, int(KeyGroup.BRIDGE), int(KeyGroup.CURRENT))
    return torch.where(drawn, relabelled.to(groups.dtype), groups)


class OddsEqualBridge(Edit):
    """Hold a minimum of each attention row on the bridge.

    Example:
        >>> with OddsEqualBridge(layers=[0, 1], tau_max=0.15).attached(model) as session:
        ...     text = model.generate(prompt)
        >>> session.effects.to_frame()

    Args:
        layers: Layers in which it acts.
        tau_max: Upper bound of tau_B, in [0, 1): a number, a mapping by layer, or a function of
            depth (see `schedule`).
        heads: Heads in which it acts; or a mapping from layer to heads, without those in layers
            that it leaves out. Default: all.
        bridge: ``"auto"``, the question while thinking and the thinking while summarising;
            ``"question"``; ``"thinking"``; or indices of steps. ``"random"`` is short for
            ``"auto"`` with ``placebo="random"``.
        current: ``"region"``, all of the query's region so far, or ``"step"``, the query's step.
        placebo: ``"random"`` takes as many keys as the bridge has, drawn by lot from bridge and
            current part; ``"smooth"`` flattens the rows that would be shifted, at equal KL(q || p).
        seed: Seed of the lots.

    Raises:
        ValueError: an option out of range.
    """

    site = "scores"

    def __init__(
        self,
        layers: Sequence[int],
        *,
        tau_max: Strength = 0.15,
        heads: Heads = None,
        bridge: str | Sequence[int] = "auto",
        current: str = "region",
        placebo: str | None = None,
        seed: int = 0,
    ) -> None:
        self.layers = checked_layers(layers)
        check_strength("tau_max", tau_max, below=1.0)
        if bridge == "random":
            if placebo not in (None, "random"):
                raise ValueError(f"bridge='random' and placebo={placebo!r} exclude each other")
            bridge, placebo = "auto", "random"
        check_groups(bridge, current)
        if placebo is not None:
            check_option("placebo", placebo, BRIDGE_PLACEBOS)
        self.tau_max = tau_max
        self.heads = heads if heads is None or isinstance(heads, Mapping) else tuple(heads)
        self.bridge = bridge if isinstance(bridge, str) else tuple(bridge)
        self.current = current
        self.placebo = placebo
        self.seed = seed

    def may_act(self, regions: Set[int], starting: Set[int]) -> bool:  # noqa: ARG002
        return not WRITTEN.isdisjoint(regions)

    def check(self, *, n_layers: int, n_heads: int) -> None:
        super().check(n_layers=n_layers, n_heads=n_heads)
        for layer in self.layers:
            self.tau_in(layer, n_layers)
        check_heads(self.heads, self.layers, n_heads)

    def tau_in(self, layer: int, n_layers: int | None) -> float:
        """tau_max in a layer.

        Raises:
            ValueError: it is not in [0, 1).
        """
        tau = strength_at(self.tau_max, layer, n_layers)
        if not 0 <= tau < 1:
            raise ValueError(f"tau_max={tau} in layer {layer} is not in [0, 1)")
        return tau

    def heads_in(self, layer: int) -> tuple[int, ...] | None:
        """Heads in which it acts; None for all."""
        return heads_in(self.heads, layer)

    def groups(self, labels: StepLabels, n_queries: int) -> Int[Tensor, "batch query key"]:
        """`KeyGroup` of each key to each query, before any lot is drawn."""
        return key_groups(labels, n_queries=n_queries, bridge=self.bridge, current=self.current)

    def apply(
        self, activation: Float[Tensor, "batch head query key"], context: EditContext
    ) -> Float[Tensor, "batch head query key"]:
        """Scores in which every row of the heads has its minimum on the bridge."""
        tau, heads = self.tau_in(context.layer, context.n_layers), self.heads_in(context.layer)
        groups = self.groups(context.labels, context.n_queries)
        if tau == 0 or heads == () or not self._has_bridge(context, groups):
            return activation
        chosen = slice(None) if heads is None else list(heads)
        scores = activation[:, chosen]
        if self.placebo == "random":
            groups = random_bridge(
                groups, visible_keys(scores[:, 0]), context.labels, seed=self.seed
            )
        edited, shifts = odds_equal_scores(
            scores,
            groups[:, None],
            tau_max=tau,
            sinks=None if context.sinks is None else context.sinks[chosen][:, None],
            mode="smooth" if self.placebo == "smooth" else "bridge",
        )
        assert shifts is not None
        _record(shifts, context, heads, activation.shape[1])
        if edited is scores:
            return activation
        if heads is None:
            return edited
        index = torch.tensor(heads, device=activation.device)
        return activation.index_copy(1, index, edited)

    def _has_bridge(self, context: EditContext, groups: Int[Tensor, "batch query key"]) -> bool:
        key = "has bridge", context.n_queries, self.bridge, self.current
        return context.labels.made(key, lambda: bool((groups == KeyGroup.BRIDGE).any()))


def _record(
    shifts: OddsEqualShifts, context: EditContext, heads: tuple[int, ...] | None, n_heads: int
) -> None:
    spread: dict[str, Float[Tensor, "head"]] = {}
    for name, total in counts_by_head(shifts).items():
        spread[name] = total
        if heads is not None:
            spread[name] = total.new_zeros(n_heads)
            spread[name][list(heads)] = total
    context.record(**spread)


def counts_by_head(shifts: OddsEqualShifts) -> dict[str, Float[Tensor, "head"]]:
    """Counters of `Effects`, from rows of shape ``batch head query``."""
    counts = {
        "rows_seen": shifts.acts,
        "rows_shifted": shifts.shifted,
        "infeasible": shifts.infeasible,
        "mass_before": shifts.mass_before,
        "mass_after": shifts.mass_after,
    }
    return {name: rows.detach().double().sum((0, 2)) for name, rows in counts.items()}
