"""Models, traces and passes that the tests of interventions share."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from tiny import Arch, Backend, tiny_model

import step_saliency as ss
from step_saliency.decoding.hooked import cached_reader

ARCHS: tuple[Arch, ...] = ("llama", "qwen2", "qwen3", "gpt_oss", "gemma3")
QUESTION = "What is 3 and 4?"
RESPONSES = (
    "<think>First, 3 and 4. Then we add them to get 7.</think>The answer is 7. Right, 7.",
    "<think>Wait. Let me think about 3. Add 4.\n\nSo 7, I think.",
    "<think>No.</think>7",
)


@cache
def model_of(arch: Arch, backend: Backend, *, dtype: torch.dtype = torch.float32) -> Any:
    """A small model of three layers that no test changes for good."""
    model = tiny_model(arch, backend=backend, dtype=dtype)
    tokens = torch.tensor([[20, 21]])
    model(tokens, attention_mask=torch.ones_like(tokens))  # makes some attributes of a bridge
    return model


def trace_of(model: Any, response: str = RESPONSES[0], question: str = QUESTION) -> ss.Trace:
    return ss.Trace.from_text(model.tokenizer, question=question, response=response)


def random_trace(seed: int) -> ss.Trace:
    """Random tokens in random steps: template, question, thinking, summary, template within."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=generator))

    regions = ["template", "question", "template"]
    for region in ("thinking", "summary"):
        for _ in range(draw(1, 4)):
            regions.append(region)
            if draw(0, 4) == 0:
                regions.append("template")
    starts, stop = [], 0
    for _ in regions:
        starts.append(stop)
        stop += draw(1, 6)
    tokens = torch.randint(11, 300, (stop,), generator=generator)
    return ss.Trace.from_tokens(tokens, starts=starts, regions=regions)


def logits_of(model: Any, tokens: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Logits of a full pass."""
    mask = torch.ones_like(tokens) if mask is None else mask
    options = {}
    if type(model).__name__ == "TransformerBridge":
        options["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
    logits: torch.Tensor = model(tokens, attention_mask=mask, return_type="logits", **options)
    return logits


def assert_same_logits(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal to 1e-5 of the largest: a model of float32 without any edit is not closer."""
    scale = float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * scale)


def left_padded(rows: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(map(len, rows))
    tokens = torch.stack([torch.nn.functional.pad(row, (longest - len(row), 0)) for row in rows])
    mask = [torch.nn.functional.pad(torch.ones_like(r), (longest - len(r), 0)) for r in rows]
    return tokens, torch.stack(mask)


def forced(
    model: Any, tokens: torch.Tensor, mask: torch.Tensor, n_first: int, chunk: int = 1
) -> torch.Tensor:
    """Logits of given tokens, read with a cache: some at first, then a few at a time."""
    cached = cached_reader(model, len(tokens))
    bounds = [0, *range(n_first, tokens.shape[1], chunk), tokens.shape[1]]
    parts = [cached.read(tokens[:, a:b], mask[:, a:b]) for a, b in pairwise(bounds)]
    return torch.cat(parts, 1)


@contextmanager
def kept(model: Any, *hooks: str, layers: Sequence[int]) -> Iterator[dict[str, torch.Tensor]]:
    """What hook points show while the context is open, by name."""
    seen: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Any:
        def hook_function(activation: torch.Tensor, hook: Any) -> None:
            seen[name] = activation.detach().clone()

        return hook_function

    names = [f"blocks.{layer}.{hook}" for layer in layers for hook in hooks]
    with model.hooks(fwd_hooks=[(name, keep(name)) for name in names]):
        yield seen


def state_of(model: Any) -> dict[str, Any]:
    """Hooks and attributes of every module."""
    return {
        name: (
            sorted(vars(module)),
            len(module._forward_hooks),
            len(module._forward_pre_hooks),
            [id(handle) for handle in getattr(module, "fwd_hooks", [])],
        )
        for name, module in model.named_modules()
    }
