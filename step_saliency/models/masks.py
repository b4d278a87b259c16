"""Which keys a layer really hides, asked of the model itself, at any length and without a pass.

    HookedTransformer    its attention masks a row of zeros
    TransformerBridge    transformers makes the masks of a pass; the blocks, whose work is left
                         out, say what they were handed

`windows` says what the config has; both agree in a model that is in order. When it misleads: a
module may hide more inside of itself than its mask does, which only a pass shows.
"""

from contextlib import ExitStack
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from step_saliency.models.adapter import replaced_methods
from step_saliency.models.facts import backend_of, device_of
from step_saliency.models.hooking import block_output
from step_saliency.models.interrupts import one_change

HIDDEN = 4.0
"""Scores below the lowest number over this are those of hidden keys."""


@torch.no_grad()
def last_rows(model: Any, n_keys: int) -> Bool[Tensor, "layer key"]:
    """Keys that the last of some positions sees, in every layer.

    Args:
        model: HookedTransformer or TransformerBridge.
        n_keys: Number of positions; a bridge makes a mask of its square.

    Returns:
        True where the key is seen, on the CPU; all true in a layer that is handed no mask.
    """
    if backend_of(model) == "hooked":
        return torch.stack([_hooked_row(block.attn, n_keys) for block in model.blocks])
    rows: list[Tensor] = []
    tokens = torch.zeros(1, n_keys, dtype=torch.long, device=device_of(model))
    with idle_blocks(model, rows):
        inner = model.original_model
        inner.base_model(input_ids=tokens, attention_mask=torch.ones_like(tokens), use_cache=False)
    seen = torch.ones(n_keys, dtype=torch.bool)
    pairs = zip(rows, model.blocks, strict=True)
    return torch.stack(
        [(row if len(row) else seen) & _own_row(block, n_keys) for row, block in pairs]
    )


def _own_row(block: nn.Module, n_keys: int) -> Bool[Tensor, "key"]:
    """What a module hides by a mask of its own (GPT-Neo)."""
    for buffer in block.buffers():
        if buffer.dtype == torch.bool and buffer.ndim == 4 and buffer.shape[-1] >= n_keys:
            return buffer[0, 0, n_keys - 1, :n_keys].cpu()
    return torch.ones(n_keys, dtype=torch.bool)


def is_seen(scores: Tensor) -> Tensor:
    """Where masked scores are not those of hidden keys."""
    return scores > torch.finfo(scores.dtype).min / HIDDEN


def _hooked_row(attention: Any, n_keys: int) -> Bool[Tensor, "key"]:
    scores = torch.zeros(1, 1, 1, n_keys, device=attention.IGNORE.device)
    return is_seen(attention.apply_causal_mask(scores, n_keys - 1)).flatten().cpu()


@one_change
def idle_blocks(exits: ExitStack, bridge: Any, rows: list[Tensor]) -> None:
    """Context in which the blocks of a bridge do nothing but note the last row of their mask."""

    output_of = block_output(bridge)

    def note(resid: Tensor, *args: Any, **kwargs: Any) -> Any:
        masks = [x for x in (*args, kwargs.get("attention_mask")) if _is_mask(x, resid.shape[1])]
        rows.append(_row(masks[0]) if masks else torch.ones(0, dtype=torch.bool))
        return output_of(resid)

    def stand_in(*args: Any, **kwargs: Any) -> Any:
        resid = kwargs.pop("hidden_states") if "hidden_states" in kwargs else args[0]
        return note(resid, *args[1:], **kwargs)

    blocks: list[nn.Module] = list(bridge.blocks)
    for block in blocks:
        exits.enter_context(replaced_methods(block, {"forward": stand_in}))


def _is_mask(value: Any, n_keys: int) -> bool:
    return isinstance(value, Tensor) and value.ndim == 4 and value.shape[-1] == n_keys


def _row(mask: Tensor) -> Bool[Tensor, "key"]:
    row = mask[0, 0, -1]
    if row.dtype != torch.bool:
        return is_seen(row).cpu()
    return (row if row[-1] else ~row).cpu()  # MPT marks what is hidden
