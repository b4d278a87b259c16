"""What the streaming path asks of a model, whatever its class."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

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


def refuse_hooks(model: Any, bypassed: Sequence[str]) -> None:
    """Refuse hooks where streaming has nothing for them, or only parts of it.

    Args:
        model: HookedTransformer or TransformerBridge.
        bypassed: Hook points of an attention module that step attention goes past.

    Raises:
        ValueError: there is a hook at one of them, or after the last block.
    """
    for name, point in model.hook_dict.items():
        if not point.has_hooks():
            continue
        if name.startswith("blocks.") and name.endswith(tuple(f".attn.{end}" for end in bypassed)):
            raise ValueError(
                f"there is a hook at {name}, a point that streaming lacks: it never forms "
                "attention scores or patterns; remove it or use method='hooks'"
            )
        if name.startswith(("ln_final", "unembed")):
            raise ValueError(
                f"there is a hook at {name}, which streaming runs on a few positions at a time; "
                "remove it or use method='hooks'"
            )
