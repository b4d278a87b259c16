"""Running a model as it is: without dropout and without autocast.

Maps, probes and decoding are defined for the model itself. In train mode dropout draws another
model at every pass, and autocast rounds what the weights' own precision would not; both are turned
off here for a while, which is exact, and a warning says so.
"""

import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from step_saliency.models.hooking import evaluating, parts_of
from step_saliency.models.interrupts import together

WHERE = ("dropout", "attention_dropout", "attn_dropout", "resid_dropout", "hidden_dropout")
"""Attributes of modules that hold a probability of dropout as a number."""


def undisturbed(model: Any, *, warn: bool = True) -> AbstractContextManager[Any]:
    """Context without dropout and autocast; afterwards every module's mode is as it was.

    Args:
        model: HookedTransformer, TransformerBridge or transformers model.
        warn: Whether to warn where that makes a difference.
    """
    device = next(model.parameters()).device.type
    is_autocast = torch.is_autocast_enabled(device)
    if warn and is_autocast:
        _say("autocast is off inside: the model runs in the precision of its weights")
    if warn and drops_out(model):
        _say(
            "the model is in train mode with dropout; it runs in evaluation mode inside, and is in "
            "train mode again afterwards"
        )
    autocast_off = torch.autocast(device, enabled=False) if is_autocast else nullcontext()
    return together(autocast_off, evaluating(model))


def drops_out(model: nn.Module) -> bool:
    """Whether a pass would drop something out."""
    return any(module.training and _probability(module) > 0 for module in parts_of(model))


def _probability(module: nn.Module) -> float:
    if isinstance(module, nn.modules.dropout._DropoutNd):
        return float(module.p)
    values = [vars(module).get(name) for name in WHERE]
    return max((float(value) for value in values if isinstance(value, float)), default=0.0)


def _say(message: str) -> None:
    warnings.warn(message, UserWarning, stacklevel=4)
