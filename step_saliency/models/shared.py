"""The checkpoint's own model of weights that a TransformerLens object holds: none is there twice.

A TransformerLens object that is made of a checkpoint keeps its tensors as they are, or other views
of them. The checkpoint's modules without their parameters (its shell) are kept beside the object,
and are filled with these tensors where the checkpoint's own forward pass is asked for. So weights
that are changed in place are changed in both.

Not so where a weight is computed (norms that count from one, projections that are split), where
TransformerLens processes weights, or where the object's tensors lie in another way since: then
there is no such model.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

Layout: TypeAlias = tuple[torch.dtype, torch.Size, tuple[int, ...]]


@dataclass(frozen=True)
class Place:
    """Where a parameter of a checkpoint lies.

    Attributes:
        holder: Name of the tensor that holds its numbers.
        held: Layout of that tensor.
        shape: Shape of the parameter.
        stride: Its strides in the same memory.
    """

    holder: str
    held: Layout
    shape: torch.Size
    stride: tuple[int, ...]


@dataclass(frozen=True)
class Shell:
    """A checkpoint's model without parameters.

    Attributes:
        model: Its modules.
        places: Where each of its parameters lies; None if some do not.
    """

    model: PreTrainedModel
    places: Mapping[str, Place] | None


_SHELLS: "WeakKeyDictionary[nn.Module, Shell]" = WeakKeyDictionary()


def hollow(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of a model's modules and buffers, with nothing in place of its parameters."""
    nothing = nn.Parameter(torch.empty(0, device="meta"), requires_grad=False)
    return copy.deepcopy(model, {id(own): nothing for own in model.parameters()})


def keep_shell(
    holder: nn.Module,
    model: PreTrainedModel,
    own: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
) -> None:
    """Keep a checkpoint's shell for as long as the object lives that took its weights.

    Args:
        holder: The object.
        model: The hollow checkpoint.
        own: The checkpoint's parameters by name, tied ones under each of their names.
        tensors: What the object's parameters are made of, by name, before any is moved or copied.
    """
    _SHELLS[holder] = Shell(model, _places(own, tensors))


def _places(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, Place] | None:
    by_memory: dict[tuple[int, int, torch.dtype], str] = {}
    for name, tensor in tensors.items():
        by_memory.setdefault(_memory(tensor), name)
    places: dict[str, Place] = {}
    for name, weight in own.items():
        holder = by_memory.get(_memory(weight))
        if holder is None:
            return None
        places[name] = Place(holder, _layout(tensors[holder]), weight.shape, weight.stride())
    return places


def _memory(tensor: Tensor) -> tuple[int, int, torch.dtype]:
    return tensor.data_ptr(), tensor.numel(), tensor.dtype


def _layout(tensor: Tensor) -> Layout:
    return tensor.dtype, tensor.shape, tensor.stride()


def refilled(holder: nn.Module) -> PreTrainedModel | None:
    """The checkpoint's model on the very weights of an object, frozen; None if there is none.

    Args:
        holder: What was made of the checkpoint.
    """
    shell = _SHELLS.get(holder)
    if shell is None or shell.places is None:
        return None
    held = dict(holder.named_parameters(remove_duplicate=False))
    weights: dict[Place, nn.Parameter] = {}
    for place in shell.places.values():
        tensor = held.get(place.holder)
        if tensor is None or _layout(tensor) != place.held:
            return None
        view = tensor.detach().as_strided(place.shape, place.stride, tensor.storage_offset())
        weights[place] = nn.Parameter(view, requires_grad=False)
    for name, place in shell.places.items():
        module, _, own = name.rpartition(".")
        shell.model.get_submodule(module)._parameters[own] = weights[place]
    device = next(iter(weights.values())).device
    return shell.model.to(device).eval()
