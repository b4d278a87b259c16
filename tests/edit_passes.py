"""Full, cached and batched passes over traces with edits attached."""

from collections.abc import Sequence
from contextlib import nullcontext
from functools import cache
from typing import Any

import pytest
import torch
from tiny import BACKEND, random_tokens, tiny_model

from step_saliency.decoding.hooked import cached_reader
from step_saliency.decoding.rows import left_padded
from step_saliency.trace import Region, Trace

LETTERS = {"_": Region.TEMPLATE, "Q": Region.QUESTION, "T": Region.THINKING, "S": Region.SUMMARY}
LENGTHS = (2, 5, 6, 1, 4, 5, 2, 3, 4)


def a_trace(
    *, regions: str = "_QTTTT_SS", lengths: Sequence[int] = LENGTHS, seed: int = 0
) -> Trace:
    """Random tokens with steps of regions spelled by ``_QTS``."""
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    return Trace.from_tokens(
        random_tokens(sum(lengths), seed=seed)[0],
        starts=starts,
        regions=[LETTERS[letter] for letter in regions],
    )


@cache
def load(arch: str, backend: str = BACKEND, **options: Any) -> Any:
    """A tiny model, made once; or a skip where TransformerLens has no HookedTransformer of it."""
    try:
        return tiny_model(arch, backend=backend, **options)
    except ValueError as error:
        if backend == "hooked":
            pytest.skip(f"no HookedTransformer of {arch}: {error}")
        raise


@torch.no_grad()
def full_pass(model: Any, trace: Trace, edit: Any = None, **options: Any) -> torch.Tensor:
    """Logits at every position."""
    tokens = trace.tokens[None]
    attached = nullcontext() if edit is None else edit.attached(model, trace=trace)
    with attached:
        return model(
            tokens, attention_mask=torch.ones_like(tokens), return_type="logits", **options
        )[0]


@torch.no_grad()
def cached_pass(model: Any, traces: Sequence[Trace], edit: Any, *, n_single: int) -> torch.Tensor:
    """Logits at the last ``n_single + 1`` positions of a left-padded batch, run token by token."""
    reader = cached_reader(model, len(traces))
    tokens, mask = left_padded(
        [t.tokens[: len(t) - n_single].tolist() for t in traces], torch.device("cpu")
    )
    found = []
    with edit.attached(model, traces=list(traces)):
        found.append(reader.read(tokens, mask)[:, -1])
        for i in range(n_single, 0, -1):
            column = torch.stack([trace.tokens[len(trace) - i] for trace in traces])[:, None]
            found.append(reader.read(column)[:, -1])
    return torch.stack(found, dim=1)


@torch.no_grad()
def activations(model: Any, trace: Trace, names: Sequence[str], edit: Any = None) -> dict[str, Any]:
    """Activations at hook points, as later hooks see them."""
    found: dict[str, Any] = {}

    def keep(activation: torch.Tensor, hook: Any, name: str) -> None:
        found[name] = activation.clone()

    hooks = [(name, lambda x, hook, name=name: keep(x, hook, name)) for name in names]
    attached = nullcontext() if edit is None else edit.attached(model, trace=trace)
    tokens = trace.tokens[None]
    with attached, model.hooks(fwd_hooks=hooks):
        model(tokens, attention_mask=torch.ones_like(tokens))
    return found


def assert_same_in_every_pass(model: Any, traces: Sequence[Trace], edit: Any) -> None:
    """Cached equals full, a padded batch equals single rows; and the edit does something."""
    n_single = 14
    whole = [full_pass(model, trace, edit) for trace in traces]
    plain = [full_pass(model, trace) for trace in traces]
    scale = max(logits.abs().max().item() for logits in plain)
    moved = max((a - b).abs().max().item() for a, b in zip(whole, plain, strict=True))
    assert moved > 1e-4 * scale, "an edit without effect proves nothing"
    together = cached_pass(model, traces, edit, n_single=n_single)
    for row, logits in enumerate(whole):
        truth = logits[-n_single - 1 :]
        alone = cached_pass(model, traces[row : row + 1], edit, n_single=n_single)[0]
        assert (alone - truth).abs().max().item() < 1e-5 * scale
        assert (together[row] - truth).abs().max().item() < 1e-5 * scale
