"""Interactive views of maps for notebooks, by circuitsvis.

circuitsvis shows its views through a script that the browser fetches from a public server. It
writes its data into a script element as JSON, where a text with ``</script>`` would end that
element and begin whatever it likes: here ``<`` is written as an escape.
"""

from collections.abc import Sequence

import torch
from circuitsvis.attention import attention_heads, attention_patterns
from circuitsvis.tokens import colored_tokens, colored_tokens_multi
from circuitsvis.utils.render import RenderedHTML
from jaxtyping import Float
from torch import Tensor

from step_saliency.plotting.html import shortened
from step_saliency.plotting.step_maps import shown_steps
from step_saliency.plotting.style import REGION_COLOURS
from step_saliency.segment.regions import Region, Step

_LABEL_LENGTH = 60


def attention_view(
    maps: Float[Tensor, "map step step"],
    steps: Sequence[Step],
    *,
    names: Sequence[str] | None = None,
    template: bool = False,
) -> RenderedHTML:
    """Step maps in circuitsvis' attention view, each row as shares that sum to one.

    Args:
        maps: The maps, one a head of the view.
        steps: The steps of the trace.
        names: Names of the maps, which are then shown side by side; heads of one layer otherwise.
        template: Show template steps too.
    """
    shown = shown_steps([step.region for step in steps], template=template)
    labels = step_labels(steps, shown.tolist())
    shares = _shares(maps, torch.from_numpy(shown))
    if names is None:
        return _harmless(attention_patterns(tokens=labels, attention=shares))
    return _harmless(
        attention_heads(attention=shares, tokens=labels, attention_head_names=list(names))
    )


def step_view(
    row: Float[Tensor, "step"], steps: Sequence[Step], *, template: bool = False
) -> RenderedHTML:
    """The trace's text, each step coloured by its entry in the row of one query step.

    Args:
        row: What the query step draws from each step.
        steps: The steps of the trace.
        template: Show template steps too.
    """
    shown = shown_steps([step.region for step in steps], template=template).tolist()
    texts = [steps[step].text or f"[step {step}] " for step in shown]
    values = row[shown].detach().float().cpu()
    view = colored_tokens(
        texts, values, min_value=0.0, positive_color=REGION_COLOURS[Region.THINKING]
    )
    return _harmless(view)


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
        ValueError: tokens, values and labels do not match.
    """
    if len(tokens) != len(values):
        raise ValueError(f"there are {len(tokens)} tokens and {len(values)} values")
    values = torch.as_tensor(values).detach().float().cpu()
    if values.ndim == 1:
        return _harmless(colored_tokens(list(tokens), values))
    names = list(labels) if labels else None
    if names is not None and len(names) != values.shape[1]:
        raise ValueError(f"there are {len(names)} labels for {values.shape[1]} values of a token")
    return _harmless(colored_tokens_multi(list(tokens), values, labels=names))


def _harmless(view: RenderedHTML) -> RenderedHTML:
    """The view with no ``<`` in its data: the last line that begins with six spaces and a brace."""
    return RenderedHTML(*(_escaped(source) for source in (view.local_src, view.cdn_src)))


def _escaped(source: str) -> str:
    start = source.rindex("\n      {")
    stop = source.index("\n", start + 1)
    data = source[start:stop].replace("<", r"\u003c")
    return f"{source[:start]}{data}{source[stop:]}"


def step_labels(steps: Sequence[Step], numbers: Sequence[int]) -> list[str]:
    """Short names of steps: number, first letter of the region, beginning of the text."""
    return [
        f"{number} {steps[number].region.value[0].upper()} "
        f"{shortened(steps[number].text, _LABEL_LENGTH)}".strip()
        for number in numbers
    ]


def _shares(maps: Float[Tensor, "map step step"], steps: Tensor) -> Float[Tensor, "map cell cell"]:
    """Rows scaled to sum to one; rows without a total stay empty."""
    entries = maps.detach().double().cpu()[:, steps][:, :, steps]
    totals = entries.sum(-1, keepdim=True)
    return (entries / totals.where(totals > 0, 1.0)).float()
