"""Do the stored tensors make up the model that the config describes?

    missing     the model has it, the files do not: it would be random numbers
    extra       the files have it, the model has no place for it
    misshapen   both have it, in different shapes

Each is refused by name. What is tied to another tensor (output to input embeddings) may be missing;
buffers that older versions of transformers stored (masks, rotary frequencies) may be extra.
Before memory is taken for a model, its size is held against what is stored.
"""

import re
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from step_saliency.models.facts import stated
from step_saliency.models.folder import Shape

SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "max_position_embeddings",
)
"""What a config counts, by transformers' common names."""

OLD_BUFFERS = re.compile(r"(attn|attention)\.(masked_)?bias$|inv_freq$|position_ids$")
SLACK = 2**26
"""Parameters that a model may have beyond those that are stored, before anything is read."""
MOST_PER_NUMBER = 8
"""Weights that one stored number can hold, where they are packed."""
NAMED = 3


def check_sizes(config: Any) -> None:
    """Refuse a config that counts anything as other than a whole number above 0.

    Raises:
        ValueError: naming the field and its value.
    """
    for name in SIZES:
        size = stated(config, name)
        if size is None or isinstance(size, list | tuple | dict):
            continue
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"{name}={size!r} must be a whole number, 1 or above")


def check_amount(config: Any, stored: Mapping[str, Shape]) -> None:
    """Refuse a config that describes a far larger model than is stored, before it is built.

    Raises:
        ValueError: with both numbers.
    """
    n_stored = sum(map(torch.Size.numel, map(torch.Size, stored.values())))
    n_layers = getattr(config, "num_hidden_layers", None)
    if isinstance(n_layers, int) and n_layers > len(stored):
        raise ValueError(
            f"the config describes {n_layers} layers and the weights hold {len(stored)} tensors; "
            f"{_missing_example(stored)}"
        )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    tied = set(getattr(model, "all_tied_weights_keys", ()))
    n_needed = sum(weight.numel() for name, weight in model.named_parameters() if name not in tied)
    packed = MOST_PER_NUMBER if getattr(config, "quantization_config", None) else 1
    if n_needed > n_stored * packed + SLACK:
        raise ValueError(
            f"the config describes {n_needed:,} parameters and the weights hold {n_stored:,}"
            f"{_unlike(model, stored)}"
        )


def _missing_example(stored: Mapping[str, Shape]) -> str:
    return f"they are {', '.join(list(stored)[:NAMED])}, ..." if stored else "there are none"


def _unlike(model: nn.Module, stored: Mapping[str, Shape]) -> str:
    """Tensors whose shape in the model is another than in the files."""
    unlike = [
        f"{name} is {list(stored[name])}, not {list(weight.shape)}"
        for name, weight in model.named_parameters()
        if name in stored and tuple(weight.shape) != stored[name]
    ]
    return f": {_some(unlike)}" if unlike else ""


def check_loaded(info: Mapping[str, Any]) -> None:
    """Refuse weights that were not just those of the model.

    Args:
        info: What transformers says of a load, by ``output_loading_info``.

    Raises:
        ValueError: naming tensors that are missing, extra or misshapen.
    """
    extra = [name for name in info["unexpected_keys"] if not OLD_BUFFERS.search(name)]
    misshapen = [
        f"{name} is {list(stored)}, not {list(needed)}"
        for name, stored, needed in sorted(info["mismatched_keys"])
    ]
    faults = {
        "missing": sorted(set(info["missing_keys"]) - {m[0] for m in info["mismatched_keys"]}),
        "extra": sorted(extra),
        "misshapen": misshapen,
    }
    said = [f"{fault} tensors: {_some(names)}" for fault, names in faults.items() if names]
    if said:
        raise ValueError("; ".join([*said, *info.get("error_msgs", ())]))


def _some(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{', '.join(names[:NAMED])}{more}"


@torch.no_grad()
def warn_of_zeros(model: nn.Module, name: str) -> None:
    """Say which weight matrices hold nothing but zeros, as of a layer that was cut out."""
    dead = [
        key
        for key, weight in model.named_parameters()
        if weight.ndim > 1 and not weight[0].any() and not weight.any()
    ]
    if dead:
        warnings.warn(f"{name}: only zeros in {_some(dead)}; they do nothing", stacklevel=3)
