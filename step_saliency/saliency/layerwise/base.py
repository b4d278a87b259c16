"""What the streaming path asks of a model, whatever its class."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from step_saliency.models.hooking import has_torch_hooks, hooked_modules, module_names
from step_saliency.models.turns import inner_model
from step_saliency.saliency.layerwise.run import AttentionRun


class LayerwiseModel(ABC):
    """A model that can be run block by block, with step attention in place of its own."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    @property
    @abstractmethod
    def blocks(self) -> Sequence[nn.Module]:
        """The transformer blocks in order."""

    @abstractmethod
    def run_blocks(
        self, tokens: Int[Tensor, "batch pos"], positions: Int[Tensor, "batch pos"] | None
    ) -> None:
        """Run embedding and blocks, for what hooks on the blocks see.

        Args:
            tokens: Token ids.
            positions: Position of each token, -1 at padding; None for 0, 1, 2, ...
        """

    @abstractmethod
    def logits(self, resid: Float[Tensor, "query d_model"]) -> Float[Tensor, "query vocab"]:
        """What the model makes of the last block's output at some positions, caps included."""

    @abstractmethod
    def step_attention(self, run: AttentionRun) -> AbstractContextManager[None]:
        """Context in which the model's attention is step attention.

        Raises:
            ValueError: hooks at points that step attention does not have.
        """

    @property
    @abstractmethod
    def vocab(self) -> int:
        """Number of logits at a position."""

    @property
    def device(self) -> torch.device:
        """Where token ids go."""
        device = next(self.model.parameters()).device
        return torch.device("cpu") if device.type == "meta" else device


def first_tensor(output: Any) -> Tensor:
    """The residual in what a block returns."""
    tensor: Tensor = output[0] if isinstance(output, tuple) else output
    return tensor


def refuse_hooks(model: Any, unlike: Callable[[], Collection[str]]) -> None:
    """Refuse hooks that would act otherwise by streaming than in a pass of the model.

    Args:
        model: HookedTransformer or TransformerBridge.
        unlike: Names of hook points and modules in the blocks that step attention goes past, or
            calls in another way; asked for where a hook could be at one.

    Raises:
        ValueError: there is a hook at one of them, after the last block, or at the model as a
            whole.
    """
    inner = inner_model(model)
    modules = hooked_modules(inner, model)
    points = sorted((n for n, point in model.hook_dict.items() if point.has_hooks()), key=len)
    names = module_names(inner, model)
    of_attention = {names[part] for part in _attention_parts(model)}
    suspects = [name for name in points if ".attn." in name]
    suspects += [name for name in modules if name in of_attention]
    bypassed = unlike() if suspects else ()
    for name in suspects:
        if name in bypassed:
            raise ValueError(
                f"there is a hook at {name}, a point that streaming lacks or has in another form: "
                "it leaves attention to code that never forms scores or patterns; remove it or use "
                "method='hooks'"
            )
    wholes = {names[module] for module in _wholes(model)}
    for name in points + modules:
        if name.startswith(("ln_final", "unembed")) or name in wholes:
            raise ValueError(f"{_IN_PARTS.format(name)}; remove it or use method='hooks'")


_IN_PARTS = "there is a hook at {}, which streaming runs on a few positions at a time"


def refuse_late_hooks(
    model: nn.Module, blocks: Sequence[nn.Module], late: Callable[[], Collection[nn.Module]]
) -> None:
    """The same of a transformers model alone, whose blocks run as they are.

    Args:
        model: Transformers model.
        blocks: Its blocks.
        late: Modules that a pass leaves after the last block; asked for where a hook could be at
            one.

    Raises:
        ValueError: there is a hook at one of them.
    """
    inside = {part for block in blocks for part in block.modules()}
    hooked = {
        module: name
        for module, name in module_names(model).items()
        if module not in inside and has_torch_hooks(module)
    }
    in_parts = late() if hooked else ()
    for module, name in hooked.items():
        if module in in_parts:
            raise ValueError(
                f"{_IN_PARTS.format(name)}; remove it, or map a TransformerBridge of the model "
                "with method='hooks'"
            )


def _attention_parts(model: Any) -> list[nn.Module]:
    attentions = (getattr(block, "attn", None) for block in model.blocks)
    return [
        part for attention in attentions if attention is not None for part in attention.modules()
    ]


def _wholes(model: Any) -> list[nn.Module]:
    """What a pass goes through as a whole, where streaming goes block by block."""
    inner = inner_model(model)
    return [model, inner, getattr(inner, "base_model", inner)]
