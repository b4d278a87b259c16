"""What does a head do beyond its mean? Replace its output by the mean over reference traces.

When it misleads: a mean over few tokens carries their content with it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from step_saliency.intervene.choices import MEANS_BY, MeansBy
from step_saliency.intervene.context import EditContext
from step_saliency.intervene.expected import listed_traces
from step_saliency.intervene.heads.edit import HeadEdit
from step_saliency.intervene.labels import REGION_CODE, trace_labels
from step_saliency.intervene.reading import activations_of
from step_saliency.models.facts import n_layers as layers_of
from step_saliency.models.hooking import live_names
from step_saliency.options import check_option
from step_saliency.trace import Trace


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

    def __repr__(self) -> str:
        names = REGION_CODE if len(self.counts) > 1 else ("all",)
        tokens = ", ".join(f"{int(n)} {name}" for name, n in zip(names, self.counts, strict=True))
        _, n_layers, n_heads, _ = self.z.shape
        return f"HeadMeans({n_layers} layers, {n_heads} heads, tokens: {tokens})"

    def at(
        self, layer: int, heads: Sequence[int], regions: Int[Tensor, "batch query"]
    ) -> Float[Tensor, "batch query some_heads d_head"]:
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
    model: Any, traces: Iterable[Trace], *, by: MeansBy = "region", progress: bool = True
) -> HeadMeans:
    """Mean output of every head, over all tokens of reference traces.

    Args:
        model: HookedTransformer or TransformerBridge.
        traces: Reference traces. Every token counts the same.
        by: ``"region"``, a mean for each region, or ``"all"``, one over all tokens.
        progress: Show a progress bar.

    Returns:
        ``z`` [layer, group, head, d_head], the groups being regions or one, and ``counts`` [group],
        tokens of each.

    Raises:
        ValueError: no traces, or an unknown ``by``.
    """
    check_option("by", by, MEANS_BY)
    names = live_names(model, [f"blocks.{i}.attn.hook_z" for i in range(layers_of(model))])
    total = torch.zeros((), dtype=torch.float64)
    counts = torch.zeros(len(REGION_CODE) if by == "region" else 1, dtype=torch.long)
    for trace in tqdm(listed_traces(traces), unit="trace", disable=not progress):
        codes = torch.tensor([region for _, region, _ in trace_labels(trace)])
        member = torch.nn.functional.one_hot(codes if by == "region" else 0 * codes, len(counts))
        sums = _sums_by_group(model, trace, names, member)
        total = total + sums
        counts += member.sum(0)
    means = total / counts.to(total)[:, None, None]
    return HeadMeans(z=means.transpose(0, 1).contiguous(), counts=counts)


def _sums_by_group(
    model: Any, trace: Trace, names: Sequence[str], member: Int[Tensor, "pos group"]
) -> Float[Tensor, "layer group head d_head"]:
    """Sum of each layer's outputs over the tokens of each group, in float64 on the CPU."""

    def sums(z: Float[Tensor, "pos head d_head"]) -> Float[Tensor, "group head d_head"]:
        return torch.einsum("thd,tg->ghd", z.cpu().double(), member.double())

    return torch.stack(list(activations_of(model, trace, names, sums).values()))


@dataclass(frozen=True, eq=False)
class HeadMean(HeadEdit):
    """Replace the outputs of heads by their mean over reference traces.

    Example:
        >>> means = mean_head_outputs(model, traces, by="region")
        >>> with HeadMean(["L3H5"], means).attached(model):
        ...     logits = model(tokens)

    Attributes:
        heads: Pairs (layer, head) or names such as ``"L3H5"``.
        means: From `mean_head_outputs`; by region, a query gets the mean of its own.
        regions: Regions of the queries; by default any.
        steps: Steps of the queries; by default any.

    Raises:
        ValueError: an option out of range; in use, a query's region that the means lack.
    """

    site = "z"

    means: HeadMeans

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.means, HeadMeans):
            raise ValueError(
                f"means={self.means!r:.80} are none; mean_head_outputs(model, traces) gives some"
            )

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
        queries = self.queries(context)
        if queries is None:
            return activation
        last = slice(len(context.labels) - context.n_queries, None)
        regions = torch.where(queries, context.labels.region[:, last], -1)
        means = self.means.at(context.layer, self.by_layer[context.layer], regions)
        return self.replaced(activation, means.to(activation.dtype), queries, context)
