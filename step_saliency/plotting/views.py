"""Interactive views of maps for notebooks, by circuitsvis.

circuitsvis shows its views through a script that the browser fetches from a public server.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from circuitsvis.attention import attention_heads, attention_patterns
from circuitsvis.tokens import colored_tokens, colored_tokens_multi
from circuitsvis.utils.render import RenderedHTML
from jaxtyping import Float
from torch import Tensor

from step_saliency.plotting.step_maps import kept_steps
from step_saliency.plotting.style import REGION_COLOURS
from step_saliency.saliency.result import StepSaliency
from step_saliency.trace import Region

_LABEL_LENGTH = 60


def attention_view(
    sal: StepSaliency, layer: int | None = None, *, template: bool = False
) -> RenderedHTML:
    """Step map in circuitsvis' attention view, each row as shares that sum to one.

    Args:
        sal: The maps.
        layer: Layer whose heads to show (one averaged map without ``per_head``); without it, the
            layers are shown side by side, averaged over heads.
        template: Show template steps too.

    Raises:
        ValueError: the layer is not in the maps.
    """
    kept = torch.from_numpy(kept_steps(sal, template=template))
    labels = step_labels(sal, kept.tolist())
    if layer is None:
        names = [f"layer {number}" for number in sal.layers]
        shares = _shares(sal.mean_heads, kept)
        return attention_heads(attention=shares, tokens=labels, attention_head_names=names)
    maps = sal.layer(layer)
    maps = maps if sal.per_head else maps.unsqueeze(0)
    return attention_patterns(tokens=labels, attention=_shares(maps, kept))


def step_view(
    sal: StepSaliency,
    query_step: int,
    layer: int | Literal["mean"] = "mean",
    *,
    template: bool = False,
) -> RenderedHTML:
    """The trace's text, each step coloured by what ``query_step`` draws from it.

    Args:
        sal: The maps; the mean over heads is shown.
        query_step: Step whose row is shown.
        layer: Model layer, or the mean over those computed.
        template: Show template steps too.

    Raises:
        ValueError: the trace has no such step, or the layer is not in the maps.
    """
    if not 0 <= query_step < len(sal.trace.steps):
        raise ValueError(f"query_step={query_step} is not among {len(sal.trace.steps)} steps")
    kept = kept_steps(sal, template=template).tolist()
    maps = sal.mean_heads
    row = maps.mean(0) if layer == "mean" else maps[sal.layers.index(_known(sal, layer))]
    texts = [sal.trace.steps[step].text or f"[step {step}] " for step in kept]
    values = row[query_step, kept].detach().float().cpu()
    return colored_tokens(
        texts, values, min_value=0.0, positive_color=REGION_COLOURS[Region.THINKING]
    )


def token_view(
    tokens: Sequence[str],
    values: Float[Tensor, "pos"] | Float[Tensor, "pos label"],
    *,
    labels: Sequence[str] | None = None,
) -> RenderedHTML:
    """Tokens coloured by their values, such as a row of a token map.

    Args:
        tokens: Text of each token.
        values: One value for each token, or one for each of several labels to choose from.
        labels: Names of the labels, such as layers.

    Raises:
        ValueError: tokens and values do not match.
    """
    if len(tokens) != len(values):
        raise ValueError(f"there are {len(tokens)} tokens and {len(values)} values")
    values = values.detach().float().cpu()
    if values.ndim == 1:
        return colored_tokens(list(tokens), values)
    return colored_tokens_multi(list(tokens), values, labels=list(labels) if labels else None)


def step_labels(sal: StepSaliency, steps: Sequence[int]) -> list[str]:
    """Short names of steps: number, first letter of the region, beginning of the text."""
    labels = []
    for number in steps:
        step = sal.trace.steps[number]
        text = " ".join(step.text.split())
        text = text if len(text) <= _LABEL_LENGTH else f"{text[: _LABEL_LENGTH - 1]}…"
        labels.append(f"{number} {step.region.value[0].upper()} {text}".strip())
    return labels


def _known(sal: StepSaliency, layer: int) -> int:
    sal.layer(layer)
    return layer


def _shares(maps: Float[Tensor, "map step step"], kept: Tensor) -> Float[Tensor, "map kept kept"]:
    """Rows scaled to sum to one; rows without a total stay empty."""
    chosen = maps.detach().double().cpu()[:, kept][:, :, kept]
    totals = chosen.sum(-1, keepdim=True)
    return (chosen / totals.where(totals > 0, 1.0)).float()
