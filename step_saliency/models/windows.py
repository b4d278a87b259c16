"""Which keys the queries of a layer see: sliding windows, layer by layer.

Query t of a layer with window w sees the keys t - w + 1 to t, itself included; without a window,
all up to t. Keys outside are no pairs: no mean, no uniform row and no group of keys counts them.

When it misleads: types of attention other than full and sliding (chunks, states) hide keys by rules
of their own; such layers count as full, and a warning says so.
"""

import warnings
from collections.abc import Sequence

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from step_saliency.models.facts import layer_type_of, n_layers, text_config_of, window

Windows = Sequence[int | None]
"""Window of each layer, None for a layer that sees all keys."""


def windows(model: nn.Module) -> tuple[int | None, ...]:
    """Sliding window of every layer of a model, None where a layer sees all keys."""
    _warn_of_other_types(model)
    return tuple(window(model, layer) for layer in range(n_layers(model)))


def seen_keys(
    n_queries: int,
    n_keys: int,
    window: int | None,
    *,
    device: torch.device | str | None = None,
) -> Bool[Tensor, "query key"]:
    """Keys that each query sees; the queries are the last positions of the keys.

    Args:
        n_queries: Number of queries.
        n_keys: Number of keys, those of the queries included.
        window: Keys that a query sees, itself included; None for all up to itself.
        device: Where the mask is made.

    Raises:
        ValueError: more queries than keys, or a window below 1.
    """
    if n_queries > n_keys:
        raise ValueError(f"{n_queries} queries are more than the {n_keys} keys that end with them")
    if window is not None and window < 1:
        raise ValueError(f"window={window} must be at least 1, or None for all keys")
    query = torch.arange(n_keys - n_queries, n_keys, device=device).unsqueeze(-1)
    key = torch.arange(n_keys, device=device)
    seen = key <= query
    return seen if window is None else seen & (key > query - window)


def _warn_of_other_types(model: nn.Module) -> None:
    config = text_config_of(model)
    if config is None:
        return
    types = {layer_type_of(config, layer) for layer in range(n_layers(model))}
    unknown = sorted(types - {"full_attention", "sliding_attention"})
    if unknown:
        warnings.warn(
            f"layers with {', '.join(unknown)} hide keys by a rule that is not known here; their "
            "means and uniform rows count all keys up to the query",
            stacklevel=3,
        )
