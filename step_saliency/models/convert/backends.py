"""transformers model -> the TransformerLens object of a backend."""

from typing import Literal

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from step_saliency.models.convert.bridge import bridge_from_transformers
from step_saliency.models.convert.hooked import hooked_from_transformers


def from_transformers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    *,
    backend: Literal["hooked", "bridge"],
    name: str = "custom",
    device: torch.device | None = None,
    process_weights: bool = False,
    consume: bool = False,
) -> nn.Module:
    """Turn a transformers model into the TransformerLens object of the given backend.

    See ``hooked_from_transformers`` and ``bridge_from_transformers``, which always consumes.
    """
    if backend == "hooked":
        return hooked_from_transformers(
            model,
            tokenizer,
            name=name,
            device=device,
            process_weights=process_weights,
            consume=consume,
        )
    return bridge_from_transformers(
        model, tokenizer, name=name, device=device, process_weights=process_weights
    )
