"""What a unit of work costs in numbers that no machine changes: forward passes, and their tokens.

A pass is a call of the token embedding: of the model, or of the reference model that decodes for
it. A map is one pass, whether its blocks run once or twice; a batch is one pass of many tokens.
Checks count too: two short passes of each call that decodes by the reference model, and those of a
model at its first use in a process. Those, and the passes that match a placebo, belong to the unit
that came first there: with more workers there are more of them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.modules.module import register_module_forward_pre_hook


@dataclass
class Cost:
    """Of one unit, or of all.

    Attributes:
        passes: Forward passes.
        tokens: Tokens that they read, padding included.
    """

    passes: int = 0
    tokens: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.passes + other.passes, self.tokens + other.tokens)


@contextmanager
def counted(vocabulary: int | None) -> Iterator[Cost]:
    """Count the passes that models of a vocabulary make inside.

    Args:
        vocabulary: Rows of the token embedding; None counts nothing.
    """
    cost = Cost()

    def count(module: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        if _rows(module) == vocabulary and inputs:
            cost.passes += 1
            cost.tokens += int(inputs[0].numel())

    if vocabulary is None:
        yield cost
        return
    handle = register_module_forward_pre_hook(count)
    try:
        yield cost
    finally:
        handle.remove()


def _rows(module: torch.nn.Module) -> int | None:
    """Rows of a token embedding; None for any other module.

    That of a HookedTransformer holds ``W_E``; all others are torch's.
    """
    if isinstance(module, torch.nn.Embedding):
        return module.num_embeddings
    weights = module._parameters.get("W_E")
    return None if weights is None else int(weights.shape[0])
