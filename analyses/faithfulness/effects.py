"""What cutting the attention from one step to another does, measured against the uncut run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from analyses.instruments.knockout import Cut, cut_logits, divergence, logits_at
from analyses.instruments.losses import cross_entropy
from step_saliency.models.windows import Windows, windows
from step_saliency.saliency.api import answer_positions
from step_saliency.saliency.pooling import StepLayout, defined_pairs
from step_saliency.trace import Region, Trace

EFFECTS = ("kl", "loss", "answer", "logit_diff")
MIN_KEYS = 3


@dataclass(frozen=True)
class Scope:
    """Where edges are cut.

    Attributes:
        name: ``all``, a band, or ``L3H1``.
        layers: Layers.
        head: One head of these, or all.
    """

    name: str
    layers: tuple[int, ...]
    head: int | None = None


def scopes(total: int, *, bands: bool = True, heads: Sequence[tuple[int, int]] = ()) -> list[Scope]:
    """All layers, the bottom, middle and top third, and single heads (layer, head).

    Raises:
        ValueError: a layer that the model lacks.
    """
    beyond = [layer for layer, _ in heads if not 0 <= layer < total]
    if beyond:
        raise ValueError(f"layers {beyond} of the heads are not among 0 to {total - 1}")
    where = [Scope("all", tuple(range(total)))]
    if bands and total >= 3:
        cuts = [round(total * part / 3) for part in range(4)]
        names = ("bottom", "middle", "top")
        where += [Scope(names[i], tuple(range(cuts[i], cuts[i + 1]))) for i in range(3)]
    return where + [Scope(f"L{layer}H{head}", (layer,), head) for layer, head in heads]


def rows_of_edges(
    trace: Trace,
    layout: StepLayout,
    *,
    max_rows: int | None = None,
    max_keys: int | None = None,
    seed: int = 0,
    of_layers: Windows | None = None,
) -> dict[int, list[int]]:
    """Key steps of every query step that is examined.

    Args:
        trace: Steps.
        layout: Which predictions are filed under which step.
        max_rows: Take so many query steps at random.
        max_keys: Take so many key steps of each at random.
        seed: Of the choice.
        of_layers: Sliding window of each layer; key steps that all of them hide are left out.
    """
    seen = seen_pairs(layout, of_layers)
    rng = np.random.default_rng([seed, 5])
    regions = trace.regions
    keys = [i for i, region in enumerate(regions) if region != Region.TEMPLATE]
    queries = [
        i
        for i, region in enumerate(regions)
        if region in (Region.THINKING, Region.SUMMARY) and layout.counts[i] > 0
    ]
    rows = {i: [j for j in keys if j < i and seen[i, j]] for i in queries}
    rows = {i: earlier for i, earlier in rows.items() if len(earlier) >= MIN_KEYS}
    picked = list(rows)
    if max_rows is not None and len(picked) > max_rows:
        picked = sorted(rng.choice(picked, max_rows, replace=False).tolist())
    return {i: _some(rows[i], max_keys, rng) for i in picked}


def _some(keys: list[int], limit: int | None, rng: np.random.Generator) -> list[int]:
    if limit is None or len(keys) <= limit:
        return keys
    return sorted(rng.choice(keys, limit, replace=False).tolist())


def edge_effects(
    model: Any,
    trace: Trace,
    rows: Mapping[int, Sequence[int]],
    layout: StepLayout,
    where: Sequence[Scope],
    *,
    batch_size: int = 16,
) -> pd.DataFrame:
    """What each cut does.

    Args:
        model: HookedTransformer or TransformerBridge.
        trace: Tokens and steps.
        rows: Key steps of each query step.
        layout: Which predictions are filed under which step.
        where: Layers and heads in which edges are cut; what the cut does to the answer is measured
            for the first of them.
        batch_size: Cuts computed together.

    Returns:
        One row per query step, key step and scope: ``kl, loss, answer, logit_diff``; the last two
        are missing without a summary and for other scopes than the first. A key step that the
        windows of all layers of a scope hide is no edge and has no row, nor has a query step that
        windows leave fewer than `MIN_KEYS` edges.
    """
    of_model = windows(model)
    seen = {one.name: seen_pairs(layout, [of_model[i] for i in one.layers]) for one in where}
    answer = [position - 1 for position in answer_positions(trace)]
    entries: list[dict[str, Any]] = []
    for query_step, key_steps in rows.items():
        queries = step_positions(layout.row_steps, query_step)
        for read_at, some in ((answer, where[:1]), ([], where[1:])):
            reader = _Reader(trace.tokens, queries, read_at)
            names = [
                (scope, key)
                for scope in some
                for key in _edges(key_steps, seen[scope.name][query_step])
            ]
            if not names:
                continue
            cuts = [_cut(layout, queries, key, scope) for scope, key in names]
            tokens = trace.tokens[: reader.positions[-1] + 1]
            clean = logits_at(model, tokens[None], reader.positions)[0]
            logits = cut_logits(model, tokens, cuts, reader.positions, batch_size=batch_size)
            for (scope, key), after in zip(names, logits, strict=True):
                edge = {"query_step": query_step, "key_step": key, "scope": scope.name}
                entries.append({**edge, **reader.effects(clean, after)})
    return pd.DataFrame(entries, columns=["query_step", "key_step", "scope", *EFFECTS])


def seen_pairs(layout: StepLayout, of_layers: Windows | None) -> Bool[Tensor, "step step"]:
    """Pairs of steps with a pair of positions that some layer's window shows."""
    pairs = defined_pairs(layout, of_layers)
    return pairs if pairs.ndim == 2 else pairs.any(0)


def _edges(key_steps: Sequence[int], seen: Bool[Tensor, "step"]) -> list[int]:
    edges = [step for step in key_steps if seen[step]]
    return edges if len(edges) >= min(MIN_KEYS, len(key_steps)) else []


def _cut(layout: StepLayout, queries: Sequence[int], key_step: int, scope: Scope) -> Cut:
    heads = None if scope.head is None else (scope.head,)
    return Cut(
        tuple(queries), tuple(step_positions(layout.key_steps, key_step)), scope.layers, heads
    )


def step_positions(steps: Int[Tensor, "pos"], step: int) -> list[int]:
    positions: list[int] = (steps == step).nonzero().squeeze(-1).tolist()
    return positions


class _Reader:
    """Which logits are read, and what is made of them."""

    def __init__(
        self, tokens: Int[Tensor, "pos"], queries: Sequence[int], answer: Sequence[int]
    ) -> None:
        self.positions = sorted({*queries, *answer})
        self.targets = tokens[torch.tensor(self.positions) + 1]
        place = {position: i for i, position in enumerate(self.positions)}
        self.queries = [place[position] for position in queries]
        self.answer = [place[position] for position in answer]

    def effects(
        self, clean: Float[Tensor, "query vocab"], after: Float[Tensor, "query vocab"]
    ) -> dict[str, float]:
        change = cross_entropy(after, self.targets) - cross_entropy(clean, self.targets)
        values = {
            "kl": float(divergence(clean[self.queries], after[self.queries]).mean()),
            "loss": float(change[self.queries].mean()),
        }
        if self.answer:
            values["answer"] = float(change[self.answer].mean())
            values["logit_diff"] = self._logit_diff(clean, after)
        return values

    def _logit_diff(
        self, clean: Float[Tensor, "query vocab"], after: Float[Tensor, "query vocab"]
    ) -> float:
        first = self.answer[0]
        token = int(self.targets[first])
        others = clean[first].clone()
        others[token] = -torch.inf
        rival = int(others.argmax())
        change = after[first].double() - clean[first].double()
        return float(change[token] - change[rival])
