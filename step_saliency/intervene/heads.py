"""What does a single head do? Scale it, replace it by its mean, or turn it to chosen steps.

With z_t the output of a head at query t, before the output projection, and p its attention row,

    HeadScale      z'_t = factor * z_t                    0 ablates, 1 changes nothing
    HeadMean       z'_t = mean of z over reference traces, of t's region or of all tokens
    HeadRedirect   p'   = the row q with the least KL(q || p) among those with q(B) = mass, for
                          rows with p(B) < mass; B the keys of the chosen steps

`HeadRedirect` is the projection of `oeb` with a mass and a bridge of one's own: the odds between
keys of B stay as they are, and so do those between the keys that give mass away.

Heads are named as pairs ``(3, 5)`` or as ``"L3H5"``, layer and head from 0. All three act on every
query unless ``regions`` or ``steps`` say which; both together take what is in both.

When it misleads: ablating by zero takes the model off its distribution; a mean over few tokens
carries their content with it, and later layers can make up for a missing head (compare with the
heads' direct effect before calling a head unimportant).
"""

import re
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from step_saliency.intervene.edit import Edit, EditContext, Site
from step_saliency.intervene.labels import REGION_CODE, KeyGroup, StepLabels, trace_labels
from step_saliency.intervene.oeb import projected_scores
from step_saliency.intervene.schedule import Strength, check_strength, strength_at
from step_saliency.models.facts import device_of
from step_saliency.models.facts import n_layers as layers_of
from step_saliency.models.hooking import live_names
from step_saliency.options import check_option
from step_saliency.trace import Region, Trace

MEANS_BY = ("region", "all")
TARGETS = ("previous", *(region.value for region in Region))
SOURCES = ("all", "region", "step")


def parse_heads(
    heads: str | Sequence[str | tuple[int, int]],
) -> Mapping[int, tuple[int, ...]]:
    """Heads by layer.

    Args:
        heads: Pairs (layer, head) or names such as ``"L3H5"``; one name stands for itself.

    Raises:
        ValueError: no heads, a name that is none, or a head named twice.
    """
    named = [heads] if isinstance(heads, str) else list(heads)
    pairs = [_pair(head) for head in named]
    if not pairs or len(set(pairs)) < len(pairs) or any(min(pair) < 0 for pair in pairs):
        raise ValueError(f"heads={named} must name heads, each once, numbers 0 or above")
    by_layer: dict[int, tuple[int, ...]] = {}
    for layer, head in sorted(pairs):
        by_layer[layer] = (*by_layer.get(layer, ()), head)
    return MappingProxyType(by_layer)


def _pair(head: str | tuple[int, int]) -> tuple[int, int]:
    if not isinstance(head, str):
        return int(head[0]), int(head[1])
    match = re.fullmatch(r"[Ll](\d+)[Hh](\d+)", head)
    if match is None:
        raise ValueError(f"{head!r} names no head; write 'L3H5' or (3, 5)")
    return int(match[1]), int(match[2])


def check_queries(regions: Sequence[str] | None, steps: Sequence[int] | None) -> None:
    """Raise ValueError for regions or steps that no query can be in."""
    if regions is not None and not isinstance(regions, str):
        for region in regions:
            Region(region)
    if isinstance(regions, str) or (regions is not None and not regions):
        raise ValueError(f"regions={regions!r} must be a list of regions, such as ['thinking']")
    if steps is not None and (not steps or any(step < 0 for step in steps)):
        raise ValueError(f"steps={list(steps)} must name steps by index, 0 or above")


def chosen_queries(
    labels: StepLabels,
    n_queries: int,
    *,
    regions: Sequence[str] | None = None,
    steps: Sequence[int] | None = None,
) -> Bool[Tensor, "batch query"]:
    """Which of the last positions are in the regions and in the steps; None allows all.

    Args:
        labels: What every position so far is.
        n_queries: The queries are the last positions, this many.
        regions: Names of regions.
        steps: Indices of steps.
    """
    last = slice(len(labels) - n_queries, None)
    step, region = labels.step[:, last], labels.region[:, last]
    chosen = step >= 0
    if regions is not None:
        codes = torch.tensor([REGION_CODE[Region(name)] for name in regions], device=step.device)
        chosen = chosen & torch.isin(region, codes)
    if steps is not None:
        chosen = chosen & torch.isin(step, torch.tensor(list(steps), device=step.device))
    return chosen


def acts_in(regions: Sequence[str] | None, codes: Set[int]) -> bool:
    """Whether queries of regions with these codes can be chosen."""
    return regions is None or any(REGION_CODE[Region(name)] in codes for name in regions)


class HeadEdit(Edit):
    """An edit of single heads at the queries of chosen regions and steps.

    Args:
        heads: Pairs (layer, head) or names such as ``"L3H5"``.
        regions: Regions of the queries; by default any.
        steps: Steps of the queries; by default any.

    Raises:
        ValueError: heads, regions or steps that cannot be.
    """

    site: Site = "z"

    def __init__(
        self,
        heads: str | Sequence[str | tuple[int, int]],
        *,
        regions: Sequence[str] | None = None,
        steps: Sequence[int] | None = None,
    ) -> None:
        check_queries(regions, steps)
        self.heads = parse_heads(heads)
        self.layers = tuple(self.heads)
        self.regions = None if regions is None else tuple(regions)
        self.steps = None if steps is None else tuple(steps)

    def may_act(self, regions: Set[int], starting: Set[int]) -> bool:  # noqa: ARG002
        return acts_in(self.regions, regions)

    def check(self, *, n_layers: int, n_heads: int) -> None:
        super().check(n_layers=n_layers, n_heads=n_heads)
        missing = [f"L{at}H{h}" for at in self.heads for h in self.heads[at] if h >= n_heads]
        if missing:
            raise ValueError(f"{self.name}: the model has {n_heads} heads a layer, no {missing}")

    def _queries(self, context: EditContext) -> Bool[Tensor, "batch query"] | None:
        """Which queries are edited; None where there is none."""
        key = "queries", context.n_queries, self.regions, self.steps
        made = context.labels.made(key, lambda: self._made_queries(context))
        return made[0] if made[1] else None

    def _made_queries(self, context: EditContext) -> tuple[Bool[Tensor, "batch query"], bool]:
        chosen = chosen_queries(
            context.labels, context.n_queries, regions=self.regions, steps=self.steps
        )
        return chosen, bool(chosen.any())

    def _replaced(
        self,
        z: Float[Tensor, "batch pos head d_head"],
        edited: Float[Tensor, "batch pos chosen d_head"],
        queries: Bool[Tensor, "batch pos"],
        context: EditContext,
    ) -> Float[Tensor, "batch pos head d_head"]:
        """The chosen heads' outputs at the chosen queries replaced by edited ones."""
        heads = torch.tensor(self.heads[context.layer], device=z.device)
        count = torch.zeros(z.shape[2], dtype=torch.float64, device=z.device)
        count[heads] = queries.sum().double()
        context.record(rows_seen=count, rows_shifted=count)
        before = z.index_select(2, heads)
        return z.index_copy(2, heads, torch.where(queries[..., None, None], edited, before))


class HeadScale(HeadEdit):
    """Multiply the outputs of heads by a factor: 0 ablates them, 1 changes nothing.

    Example:
        >>> with HeadScale(["L3H5", "L4H0"], 0.0, regions=["summary"]).attached(model):
        ...     logits = model(tokens)

    Args:
        heads: Pairs (layer, head) or names such as ``"L3H5"``.
        factor: A number, a mapping that names every layer of the heads, or a function of depth
            (see `schedule`).
        regions: Regions of the queries; by default any.
        steps: Steps of the queries; by default any.

    Raises:
        ValueError: an option out of range, or a mapping that leaves out a layer.
    """

    def __init__(
        self,
        heads: str | Sequence[str | tuple[int, int]],
        factor: Strength,
        *,
        regions: Sequence[str] | None = None,
        steps: Sequence[int] | None = None,
    ) -> None:
        super().__init__(heads, regions=regions, steps=steps)
        missing = set(self.layers) - set(factor) if isinstance(factor, Mapping) else set()
        if missing:
            raise ValueError(f"factor={dict(factor)} has no number for layers {sorted(missing)}")  # type: ignore[arg-type]
        self.factor = factor

    def apply(
        self, activation: Float[Tensor, "batch pos head d_head"], context: EditContext
    ) -> Float[Tensor, "batch pos head d_head"]:
        """Outputs with the heads scaled."""
        factor = strength_at(self.factor, context.layer, context.n_layers)
        queries = self._queries(context)
        if factor == 1 or queries is None:
            return activation
        scaled = factor * activation[:, :, list(self.heads[context.layer])]
        return self._replaced(activation, scaled, queries, context)


@dataclass(frozen=True, eq=False)
class HeadMeans:
    """Mean output of every head over reference traces.

    Attributes:
        z: Means; the first axis is `REGION_CODE`, or of length 1 for a mean over all tokens.
            Missing (NaN) for a region that no trace has.
        counts: Tokens that each mean is over.
    """

    z: Float[Tensor, "region layer head d_head"]
    counts: Int[Tensor, "region"]

    def at(
        self, layer: int, heads: Sequence[int], regions: Int[Tensor, "batch query"]
    ) -> Float[Tensor, "batch query chosen d_head"]:
        """Means of some heads for queries of the regions with these codes; padding gets any.

        Raises:
            ValueError: a query's region that no reference trace has.
        """
        codes = regions.clamp(min=0) if len(self.counts) > 1 else torch.zeros_like(regions)
        if not self.counts.all():
            counts = self.counts.to(codes.device)[codes]
            if bool(((counts == 0) & (regions >= 0)).any()):
                empty = [region.value for region, c in REGION_CODE.items() if not self.counts[c]]
                raise ValueError(
                    f"the reference traces have no {', '.join(empty)} to take a mean over; use "
                    "other traces, mean_head_outputs(..., by='all'), or regions=[...]"
                )
        return self.z[:, layer, list(heads)].to(codes.device)[codes]


@torch.no_grad()
def mean_head_outputs(
    model: Any, traces: Iterable[Trace], *, by: str = "region", progress: bool = True
) -> HeadMeans:
    """Mean output of every head, over all tokens of reference traces.

    Args:
        model: HookedTransformer or TransformerBridge.
        traces: Reference traces. Every token counts the same.
        by: ``"region"``, a mean for each region, or ``"all"``, one over all tokens.
        progress: Show a progress bar.

    Raises:
        ValueError: no traces, or an unknown ``by``.
    """
    check_option("by", by, MEANS_BY)
    names = live_names(model, [f"blocks.{i}.attn.hook_z" for i in range(layers_of(model))])
    total: Tensor | None = None
    counts = torch.zeros(len(REGION_CODE) if by == "region" else 1, dtype=torch.long)
    for trace in tqdm(traces, unit="trace", disable=not progress):
        codes = torch.tensor([region for _, region, _ in trace_labels(trace)])
        member = torch.nn.functional.one_hot(codes if by == "region" else 0 * codes, len(counts))
        sums = torch.stack(_sums_by_group(model, trace, names, member))
        total = sums if total is None else total + sums
        counts += member.sum(0)
    if total is None:
        raise ValueError("traces=[] is empty; means need at least one reference trace")
    means = total / counts.to(total)[:, None, None]
    return HeadMeans(z=means.transpose(0, 1).contiguous(), counts=counts)


def _sums_by_group(
    model: Any, trace: Trace, names: Sequence[str], member: Int[Tensor, "pos group"]
) -> list[Float[Tensor, "group head d_head"]]:
    """Sum of each layer's outputs over the tokens of each group, in float64 on the CPU."""
    sums: dict[str, Tensor] = {}

    def add(z: Float[Tensor, "1 pos head d_head"], hook: Any, name: str) -> None:
        sums[name] = torch.einsum("thd,tg->ghd", z[0].cpu().double(), member.double())

    hooks = [(name, lambda z, hook, name=name: add(z, hook, name)) for name in names]
    tokens = trace.tokens[None].to(device_of(model))
    with model.hooks(fwd_hooks=hooks):
        model(tokens, attention_mask=torch.ones_like(tokens))
    return [sums[name] for name in names]


class HeadMean(HeadEdit):
    """Replace the outputs of heads by their mean over reference traces.

    Example:
        >>> means = mean_head_outputs(model, traces, by="region")
        >>> with HeadMean(["L3H5"], means).attached(model):
        ...     logits = model(tokens)

    Args:
        heads: Pairs (layer, head) or names such as ``"L3H5"``.
        means: From `mean_head_outputs`; by region, a query gets the mean of its own.
        regions: Regions of the queries; by default any.
        steps: Steps of the queries; by default any.

    Raises:
        ValueError: an option out of range; in use, a query's region that the means lack.
    """

    def __init__(
        self,
        heads: str | Sequence[str | tuple[int, int]],
        means: HeadMeans,
        *,
        regions: Sequence[str] | None = None,
        steps: Sequence[int] | None = None,
    ) -> None:
        super().__init__(heads, regions=regions, steps=steps)
        self.means = means

    def check(self, *, n_layers: int, n_heads: int) -> None:
        super().check(n_layers=n_layers, n_heads=n_heads)
        if self.means.z.shape[1:3] != (n_layers, n_heads):
            raise ValueError(
                f"the means are of {self.means.z.shape[1]} layers and {self.means.z.shape[2]} "
                f"heads, the model has {n_layers} and {n_heads}"
            )

    def apply(
        self, activation: Float[Tensor, "batch pos head d_head"], context: EditContext
    ) -> Float[Tensor, "batch pos head d_head"]:
        """Outputs with the heads replaced."""
        queries = self._queries(context)
        if queries is None:
            return activation
        last = slice(len(context.labels) - context.n_queries, None)
        regions = torch.where(queries, context.labels.region[:, last], -1)
        means = self.means.at(context.layer, self.heads[context.layer], regions)
        return self._replaced(activation, means.to(activation.dtype), queries, context)


class HeadRedirect(HeadEdit):
    """Move attention of heads onto chosen steps.

    Example:
        >>> with HeadRedirect(["L3H5"], to=[2], mass=0.5, regions=["summary"]).attached(model):
        ...     logits = model(tokens)

    Args:
        heads: Pairs (layer, head) or names such as ``"L3H5"``.
        to: Indices of steps, the name of a region, or ``"previous"``: the last step before the
            query's own that is no template. Keys after the query, or that the layer does not see,
            take no part; a row that sees none of the steps' keys is left alone.
        mass: Mass to be raised to, in [0, 1]: a number, a mapping by layer, or a function of depth.
            Rows that have it are left alone. 1 takes all that there is to take.
        take_from: Which keys give mass away: ``"all"`` others (a learned sink keeps its own), or
            those of the query's ``"region"`` or ``"step"`` so far. Where they have too little,
            all of it is taken.
        regions: Regions of the queries; by default any.
        steps: Steps of the queries; by default any.

    Raises:
        ValueError: an option out of range.
    """

    site = "scores"

    def __init__(
        self,
        heads: str | Sequence[str | tuple[int, int]],
        to: str | Sequence[int],
        *,
        mass: Strength = 1.0,
        take_from: str = "all",
        regions: Sequence[str] | None = None,
        steps: Sequence[int] | None = None,
    ) -> None:
        super().__init__(heads, regions=regions, steps=steps)
        if isinstance(to, str):
            check_option("to", to, TARGETS)
        else:
            check_queries(None, to)
        check_option("take_from", take_from, SOURCES)
        check_strength("mass", mass)
        if not callable(mass):
            _check_mass(max(mass.values(), default=0.0) if isinstance(mass, Mapping) else mass)
        self.to = to if isinstance(to, str) else tuple(to)
        self.mass = mass
        self.take_from = take_from

    def groups(self, labels: StepLabels, n_queries: int) -> Int[Tensor, "batch query key"]:
        """`KeyGroup` of each key to each query: BRIDGE gets mass, CURRENT gives it away."""
        key = "redirect", n_queries, self.to, self.take_from, self.regions, self.steps
        return labels.made(key, lambda: self._groups(labels, n_queries))

    def _groups(self, labels: StepLabels, n_queries: int) -> Int[Tensor, "batch query key"]:
        last = slice(len(labels) - n_queries, None)
        places = torch.arange(len(labels), device=labels.step.device)
        queries = chosen_queries(labels, n_queries, regions=self.regions, steps=self.steps)
        counts = (labels.step >= 0)[:, None] & (places <= places[last, None])
        gives = counts
        if self.take_from == "step":
            gives = counts & (labels.step[:, None] == labels.step[:, last, None])
        elif self.take_from == "region":
            gives = counts & (_regions(labels, last) == labels.region[:, last, None])
        groups = torch.where(gives, int(KeyGroup.CURRENT), int(KeyGroup.OTHER))
        groups = torch.where(counts & self._targets(labels, last), int(KeyGroup.BRIDGE), groups)
        return torch.where(queries[..., None], groups, int(KeyGroup.OTHER)).to(torch.int8)

    def _targets(self, labels: StepLabels, last: slice) -> Bool[Tensor, "batch #query key"]:
        if not isinstance(self.to, str):
            chosen = torch.tensor(self.to, device=labels.step.device)
            return torch.isin(labels.step, chosen)[:, None]
        if self.to == "previous":
            previous = labels.previous[:, last, None]
            return (labels.step[:, None] == previous) & (previous >= 0)
        return _regions(labels, last) == REGION_CODE[Region(self.to)]

    def apply(
        self, activation: Float[Tensor, "batch head query key"], context: EditContext
    ) -> Float[Tensor, "batch head query key"]:
        """Scores whose rows have the mass on the chosen steps."""
        mass = _check_mass(strength_at(self.mass, context.layer, context.n_layers))
        if mass == 0 or self._queries(context) is None:
            return activation
        heads = torch.tensor(self.heads[context.layer], device=activation.device)
        scores = activation.index_select(1, heads)
        edited, shifts = projected_scores(
            scores,
            self.groups(context.labels, context.n_queries)[:, None],
            mass=mass,
            sinks=None if context.sinks is None else context.sinks[heads][:, None],
        )
        count = torch.zeros(activation.shape[1], dtype=torch.float64, device=activation.device)
        by_head = {
            "rows_seen": shifts.acts,
            "rows_shifted": shifts.shifted,
            "infeasible": shifts.infeasible,
            "mass_before": shifts.mass_before,
            "mass_after": shifts.mass_after,
        }
        sums = {name: x.detach().double().sum((0, 2)) for name, x in by_head.items()}
        context.record(**{name: count.index_copy(0, heads, x) for name, x in sums.items()})
        return activation if edited is scores else activation.index_copy(1, heads, edited)


def _regions(labels: StepLabels, last: slice) -> Int[Tensor, "batch query key"]:
    """Region of each key as the query knows it: that of its own step can change within it."""
    same_step = labels.step[:, None] == labels.step[:, last, None]
    return torch.where(same_step, labels.region[:, last, None], labels.settled[:, None])


def _check_mass(mass: float) -> float:
    if not 0 <= mass <= 1:
        raise ValueError(f"mass={mass} is not in [0, 1]")
    return mass
