"""Rivals of StepFlow that act on activations while the model writes: two public ways of steering.

    AttentionSteering    in chosen layers the keys of the question keep their weight, those of all
                         else are scaled by ``scale`` and rows are normalised again: scores of the
                         question's keys rise by -log(scale) (PASTA, Zhang et al., "Tell Your Model
                         Where to Attend", 2024)
    ActivationSteering   ``coefficient`` times a vector is added to the residual after one layer at
                         every token that is written (contrastive activation addition, Rimsky et
                         al., 2024)

`steering_vectors` gives the vectors: the mean residual over the tokens of right texts minus that
over the tokens of wrong ones. Where both act is chosen on other problems by the loss of worked
solutions (`profiled`), as the former chooses its heads by a small set of examples; whole layers
are tried here, not heads.

When they mislead: a vector of few texts holds their length and content as well as their rightness.
"""

import math
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from analyses.instruments.edits import ScoreEdit
from analyses.instruments.forced import forced_logits
from analyses.instruments.losses import losses_of, text_losses
from step_saliency.intervene import Edit, EditContext
from step_saliency.intervene.heads import acts_in, queries_in
from step_saliency.intervene.places import checked_layers
from step_saliency.models.hooking import live_names
from step_saliency.trace import Region, Trace

WRITTEN = (Region.THINKING.value, Region.SUMMARY.value)
SCALE = 0.01
"""Of what is not emphasised, in the paper of attention steering."""


@dataclass(frozen=True, eq=False)
class AttentionSteering(ScoreEdit):
    """Emphasise the question in rows of thinking and summary.

    Attributes:
        layers: Layers in which it acts, in all heads.
        scale: Factor on the weights of all other keys, in (0, 1].

    Raises:
        ValueError: an option out of range.
    """

    scale: float = SCALE

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.scale <= 1:
            raise ValueError(f"scale={self.scale} is not in (0, 1]")

    def apply(
        self, activation: Float[Tensor, "batch head query key"], context: EditContext
    ) -> Float[Tensor, "batch head query key"]:
        """Scores with the question's keys raised."""
        labels = context.labels
        queries = queries_in(labels, context.n_queries, regions=WRITTEN)
        edges = queries[:, :, None] & labels.in_region(Region.QUESTION)[:, None]
        rise = torch.where(edges, -math.log(self.scale), 0.0).unsqueeze(1)
        return activation + rise.to(activation)


@dataclass(frozen=True, eq=False)
class ActivationSteering(Edit):
    """Add a vector to the residual of every token that is written.

    Attributes:
        layers: The layer after which it is added.
        vector: What is added.
        coefficient: Times so much.
    """

    site = "resid_post"

    layers: Sequence[int]
    vector: Float[Tensor, "d_model"]
    coefficient: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", checked_layers(self.layers))

    def may_act(self, regions: Set[int], starting: Set[int]) -> bool:  # noqa: ARG002
        return acts_in(WRITTEN, regions)

    def apply(
        self, activation: Float[Tensor, "batch pos d_model"], context: EditContext
    ) -> Float[Tensor, "batch pos d_model"]:
        """The residual with the vector in it."""
        written = queries_in(context.labels, context.n_queries, regions=WRITTEN)
        added = self.coefficient * self.vector.to(activation)
        return activation + written.unsqueeze(-1).to(activation) * added


def mean_residuals(
    model: Any, traces: Sequence[Trace], layers: Sequence[int]
) -> Float[Tensor, "layer d_model"]:
    """Mean residual after each layer over the written tokens of traces."""
    sums: dict[int, Float[Tensor, "d_model"]] = {}
    n_tokens = 0
    for trace in traces:
        steps = trace.region_steps(Region.THINKING, Region.SUMMARY)
        written = torch.isin(trace.step_ids, torch.tensor(steps))
        n_tokens += int(written.sum())

        def keep(resid: Tensor, hook: Any, written: Tensor = written) -> None:
            total = resid[0][written.to(resid.device)].double().sum(0).cpu()
            sums[hook.layer()] = sums.get(hook.layer(), 0.0) + total

        names = live_names(model, [f"blocks.{layer}.hook_resid_post" for layer in layers])
        forced_logits(model, trace, hooks=[(name, keep) for name in names])
    return torch.stack([sums[layer] for layer in layers]) / n_tokens


def steering_vectors(
    model: Any, right: Sequence[Trace], wrong: Sequence[Trace], layers: Sequence[int]
) -> Mapping[int, Float[Tensor, "d_model"]]:
    """Mean residual of right texts minus that of wrong ones, by layer.

    Raises:
        ValueError: there are no right or no wrong texts.
    """
    if not right or not wrong:
        raise ValueError(
            f"{len(right)} right and {len(wrong)} wrong texts; a vector needs some of both"
        )
    difference = mean_residuals(model, right, layers) - mean_residuals(model, wrong, layers)
    return {layer: vector.float() for layer, vector in zip(layers, difference, strict=True)}


def profiled(model: Any, edits: Iterable[Edit], traces: Sequence[Trace]) -> list[Edit]:
    """Edits in the order of the mean loss of worked solutions under them, the least first."""
    scored = []
    for place, edit in enumerate(edits):
        losses = [
            text_losses(losses_of(forced_logits(model, trace, edit), trace), trace)["loss"]
            for trace in traces
        ]
        scored.append((sum(losses), place, edit))
    return [edit for _, _, edit in sorted(scored, key=lambda entry: entry[:2])]
