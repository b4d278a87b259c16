"""Whether a map finds the relevant part of a text, and what the diagnosis says of it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

import step_saliency as ss
from analyses.granularity.texts import SPLITTERS, SplitterName, Text, make_text
from analyses.instruments.step_maps import attention_maps
from analyses.material.problems import Item
from step_saliency.diagnosis import diagnose
from step_saliency.saliency.pooling import step_layout
from step_saliency.saliency.result import StepSaliency
from step_saliency.trace import Region, Trace

METHODS = ("next_token", "log_odds", "attention")
METRICS = ("relevant", "excess", "top", "lock_in", "decay", "lock_in_index", "decay_index")


def mass_maps(
    model: Any, trace: Trace, method: str
) -> tuple[Any, Float[Tensor, "layer step step"]]:
    """Step map of a method pooled by mass, averaged over heads; and the saliency it came from."""
    if method == "attention":
        layout = step_layout(trace.step_ids)
        return None, attention_maps(model, trace, layout, pool="mass").float()
    objective: Any = method
    saliency: StepSaliency = ss.step_saliency(model, trace, objective=objective, pool="mass")
    return saliency, saliency.maps.cpu().float()


def relevance(maps: Float[Tensor, "layer step step"], text: Text) -> dict[str, float]:
    """``relevant``, ``excess`` and ``top`` of a map; missing without other parts."""
    if text.relevant is None:
        return dict.fromkeys(("relevant", "excess", "top"), float("nan"))
    rows = text.trace.region_steps(Region.THINKING, Region.SUMMARY)
    on_parts = maps[:, rows][..., list(text.parts)].double()
    shares = on_parts / on_parts.sum(-1, keepdim=True)
    shares = shares.nanmean((0, 1))
    lengths = torch.tensor([len(text.trace.steps[i]) for i in text.parts]).double()
    expected = float(lengths[text.relevant] / lengths.sum())
    relevant = float(shares[text.relevant])
    top = int((shares / lengths).argmax()) == text.relevant
    return {"relevant": relevant, "excess": relevant - expected, "top": float(top)}


def granularity(
    model: Any,
    items: Sequence[Item],
    pool: Sequence[Item],
    *,
    texts: Sequence[str],
    splitters: Sequence[SplitterName] = SPLITTERS,
    n_others: int = 3,
    seed: int = 0,
) -> pd.DataFrame:
    """Metrics of texts about problems.

    Args:
        model: The model.
        items: Problems.
        pool: Problems that others are drawn from.
        texts: Kinds of text.
        splitters: How responses are cut; those after the first for Step-Saliency's loss alone.
        n_others: Earlier turns or other passages.
        seed: Of the other problems and of places.

    Returns:
        One row per problem, text, splitter, method, metric and layer (missing: over layers):
        ``value, n_tokens, n_steps, n_parts``.
    """
    rows: list[dict[str, Any]] = []
    for item in items:
        rng = np.random.default_rng([seed, item.number, 1])
        free = [other for other in pool if other.id != item.id]
        others = [free[i] for i in rng.permutation(len(free))[:n_others]]
        for kind in texts:
            for splitter in splitters:
                text = make_text(model.tokenizer, kind, item, others, splitter=splitter, seed=seed)
                for method in METHODS if splitter == splitters[0] else METHODS[:1]:
                    labels: dict[str, Any] = {
                        "problem": item.id,
                        "text": kind,
                        "splitter": splitter,
                    }
                    labels |= {"method": method, "n_tokens": len(text.trace)}
                    labels |= {"n_steps": text.trace.n_steps, "n_parts": len(text.parts)}
                    rows += [labels | row for row in _metric_rows(model, text, method)]
    return pd.DataFrame(rows).astype({"layer": "Int64"})


def _metric_rows(model: Any, text: Text, method: str) -> list[dict[str, Any]]:
    saliency, maps = mass_maps(model, text.trace, method)
    rows = [{"metric": m, "layer": None, "value": v} for m, v in relevance(maps, text).items()]
    if saliency is None:
        return rows
    diagnosis = diagnose(saliency)
    rows.append({"metric": "lock_in_index", "layer": None, "value": diagnosis.lock_in_index})
    rows.append({"metric": "decay_index", "layer": None, "value": diagnosis.decay_index})
    for metric, curve in (("lock_in", diagnosis.lock_in), ("decay", diagnosis.decay)):
        values = curve.tolist()
        rows += [{"metric": metric, "layer": at, "value": v} for at, v in enumerate(values)]
    return rows
