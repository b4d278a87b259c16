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

A key that a layer's sliding window hides, or padding, is in no group: it neither counts in |B| and
|S| nor takes mass, and no placebo draws it.

When it misleads: a row that is shifted has more mass on the bridge, whatever stands there. The
placebos tell what is due to the bridge (`placebos`); at the dose of the bridge, which without
``dose`` only ``placebo="smooth"`` has. In half precision a model shows its hooks rounded scores and
takes back such, so that by hooks a row's mass is tau_B up to that rounding; while decoding fast it
is not, see `fast`.
"""

from collections.abc import Sequence, Set
from dataclasses import KW_ONLY, dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from step_saliency.intervene.choices import BRIDGE_PLACEBOS, BridgePlacebo, Current
from step_saliency.intervene.context import EditContext
from step_saliency.intervene.edit import Edit
from step_saliency.intervene.groups import KeyGroup, check_groups, key_groups
from step_saliency.intervene.labels import WRITTEN, StepLabels
from step_saliency.intervene.oeb.counts import counts_by_head
from step_saliency.intervene.oeb.placebos import placebo_scores
from step_saliency.intervene.oeb.projection import OddsEqualShifts
from step_saliency.intervene.oeb.scores import odds_equal_scores
from step_saliency.intervene.places import (
    Heads,
    check_heads,
    checked_heads,
    checked_layers,
    checked_steps,
    heads_in,
    over_all_heads,
)
from step_saliency.intervene.schedule import Strength, check_strength, strength_at
from step_saliency.options import SINCE_LATER, check_option, check_seed, is_finite


@dataclass(frozen=True, eq=False)
class OddsEqualBridge(Edit):
    """Hold a minimum of each attention row on the bridge.

    Of a row p with p(B) < tau_B = min(sqrt(|B| / (|B| + |S|)), tau_max), the closest q with q(B) =
    tau_B and q(O) = p(O): B the bridge, S the current part, O the rest (Eq. 6-8 of "Reasoning Fails
    Where Step Flow Breaks", ACL 2026; the module has the differences to its scripts).

    Example:
        >>> with OddsEqualBridge(layers=[0, 1], tau_max=0.15).attached(model) as session:
        ...     text = model.generate(prompt)
        >>> session.effects.to_frame()

    Attributes:
        layers: Layers in which it acts.
        tau_max: Upper bound of tau_B, in [0, 1): a number, a mapping by layer, or a function of
            depth (see `schedule`).
        heads: Heads in which it acts; or a mapping from layer to heads, without those in layers
            that it leaves out. Default: all.
        bridge: ``"auto"``, the question while thinking and the thinking while summarising;
            ``"question"``; ``"thinking"``; or indices of steps. ``"random"`` is short for
            ``"auto"`` with ``placebo="random"``.
        current: ``"region"``, all of the query's region so far, or ``"step"``, the query's step.
        placebo: ``"random"`` takes as many keys as the bridge has, drawn at random from bridge and
            current part; ``"block"`` as many that follow each other; ``"permuted"`` hands the odds
            between the bridge's keys around; ``"smooth"`` flattens the rows that would be shifted.
        seed: Seed of the draws.
        dose: Of a placebo: KL(q || p) of each row that the bridge would shift, as a multiple of
            what it would have there. None holds the mass on the drawn keys instead, whatever its
            KL is; ``"smooth"`` takes it for 1.

    Raises:
        ValueError: an option out of range.
    """

    site = "scores"

    layers: Sequence[int]
    _: KW_ONLY
    tau_max: Strength = 0.15
    heads: Heads = None
    bridge: str | Sequence[int] = "auto"
    current: Current = "region"
    placebo: BridgePlacebo | None = None
    seed: int = 0
    dose: float | None = field(default=None, metadata=SINCE_LATER)

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", checked_layers(self.layers))
        check_strength("tau_max", self.tau_max, below=1.0, layers=self.layers)
        if self.bridge == "random":
            self._take_random()
        check_groups(self.bridge, self.current)
        if self.placebo is not None:
            check_option("placebo", self.placebo, BRIDGE_PLACEBOS)
        if self.dose is not None:
            self._check_dose(self.dose)
        check_seed(self.seed)
        object.__setattr__(self, "heads", checked_heads(self.heads))
        if not isinstance(self.bridge, str):
            object.__setattr__(self, "bridge", checked_steps("bridge", self.bridge))

    def _take_random(self) -> None:
        if self.placebo not in (None, "random"):
            raise ValueError(f"bridge='random' and placebo={self.placebo!r} exclude each other")
        object.__setattr__(self, "bridge", "auto")
        object.__setattr__(self, "placebo", "random")

    def _check_dose(self, dose: float) -> None:
        if self.placebo is None:
            raise ValueError(f"dose={dose} is of a placebo, and this is none; tau_max is strength")
        if not (is_finite(dose) and dose > 0):
            raise ValueError(f"dose={dose} must be above 0, or None to hold the mass")

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
        """`KeyGroup` of each key to each query, before any is drawn at random."""
        return key_groups(labels, n_queries=n_queries, bridge=self.bridge, current=self.current)

    def apply(
        self, activation: Float[Tensor, "batch head query key"], context: EditContext
    ) -> Float[Tensor, "batch head query key"]:
        """Scores in which every row of the heads has its minimum on the bridge."""
        tau, heads = self.tau_in(context.layer, context.n_layers), self.heads_in(context.layer)
        groups = self.groups(context.labels, context.n_queries)
        if tau == 0 or heads == () or not (groups == KeyGroup.BRIDGE).any():
            return activation
        scores = activation if heads is None else activation[:, list(heads)]
        edited, shifts = self._moved(scores, groups, context, tau=tau, heads=heads)
        assert shifts is not None
        n_heads = activation.shape[1]
        counts = counts_by_head(shifts).items()
        context.record(**{name: over_all_heads(n, heads, n_heads) for name, n in counts})
        if edited is scores:
            return activation
        if heads is None:
            return edited
        index = torch.tensor(heads, device=activation.device)
        return activation.index_copy(1, index, edited)

    def _moved(
        self,
        scores: Float[Tensor, "batch some_heads query key"],
        groups: Int[Tensor, "batch query key"],
        context: EditContext,
        *,
        tau: float,
        heads: Sequence[int] | None,
    ) -> tuple[Float[Tensor, "batch some_heads query key"], OddsEqualShifts | None]:
        sinks = context.sink_scores(heads)
        if self.placebo is None:
            return odds_equal_scores(scores, groups[:, None], tau_max=tau, sinks=sinks)
        return placebo_scores(
            scores,
            groups,
            context.labels,
            placebo=self.placebo,
            tau_max=tau,
            dose=self.dose,
            seed=self.seed,
            sinks=sinks,
        )
