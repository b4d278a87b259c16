"""Losses of a text that the model is given: how well it would have written it.

    token_losses   cross-entropy of the token after each position, in nats
    text_losses    loss          its mean over the tokens of thinking and summary
                   answer_loss   its mean over the tokens of the summary
    gold_losses    these of the gold solutions of problems: they move where no answer flips

When it misleads: the gold solution is one right text of many, so that a model which would have
solved the problem otherwise has a loss too.
"""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from analyses.instruments.forced import forced_logits
from analyses.material.problems import Item, gold_trace
from step_saliency.trace import Region, Trace

LOSSES = {
    "loss": (Region.THINKING, Region.SUMMARY),
    "answer_loss": (Region.SUMMARY,),
}
"""Columns, and the regions whose tokens they are the mean of."""


def cross_entropy(
    logits: Float[Tensor, "query vocab"], targets: Int[Tensor, "query"]
) -> Float[Tensor, "query"]:
    """Cross-entropy of each prediction, in nats; in double precision, for small differences."""
    tokens = targets.to(logits.device).unsqueeze(-1)
    return -logits.double().log_softmax(-1).gather(-1, tokens).squeeze(-1)


def token_losses(model: Any, trace: Trace, flow: Any) -> Float[Tensor, "pos"]:
    """Cross-entropy of the token after each position but the last, in a full pass, on the CPU."""
    return losses_of(forced_logits(model, trace, flow), trace)


def losses_of(logits: Float[Tensor, "pos vocab"], trace: Trace) -> Float[Tensor, "pos"]:
    """The same, by logits that are there already."""
    return torch.nn.functional.cross_entropy(logits[:-1], trace.tokens[1:], reduction="none")


def text_losses(losses: Float[Tensor, "pos"], trace: Trace) -> dict[str, float]:
    """Means of `token_losses` over regions, see `LOSSES`; missing where there is no such token."""
    return {name: _mean(losses, trace, *regions) for name, regions in LOSSES.items()}


def _mean(losses: Float[Tensor, "pos"], trace: Trace, *regions: Region) -> float:
    steps = [trace.steps[i] for i in trace.region_steps(*regions)]
    spans = [losses[step.start - 1 : step.stop - 1] for step in steps]
    return float(torch.cat(spans).mean()) if spans else float("nan")


def gold_losses(model: Any, items: Sequence[Item], flow: Any) -> pd.DataFrame:
    """Losses of the gold solutions under an intervention.

    Returns:
        One row per problem: ``problem, loss, answer_loss``.
    """
    rows = []
    for item in items:
        trace = gold_trace(model.tokenizer, item)
        rows.append({"problem": item.id, **text_losses(token_losses(model, trace, flow), trace)})
    return pd.DataFrame(rows)
