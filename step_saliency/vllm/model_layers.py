"""The layers of an engine's model: what they read, and what head outputs write.

The norm of momentum is that of sum_h W_O[h] m_h, relative to what the layer reads at the same token
(see `intervene.smi`). vLLM hands the residual stream from layer to layer in two parts, whose sum is
taken at the few tokens that get momentum; W_O is applied by the layer's own output projection,
whatever form its weights have. In a tensor-parallel engine each rank has a share of the heads, and
the shares are added up.

Inside a model that is compiled as a whole nothing can be seen from here; such engines count
injections without their norm, and say so (`not_seen`).
"""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from vllm.config import CompilationMode
from vllm.distributed import tensor_model_parallel_all_reduce
from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.layers.linear import RowParallelLinear
from vllm.model_executor.models.utils import extract_layer_index

from step_saliency.vllm.engine import running

PARTS = ("hidden_states", "residual")
"""Arguments of a layer whose sum it reads; the second is None in the first layer."""


@dataclass(frozen=True, eq=False)
class SeenLayer:
    """A layer of the model.

    Attributes:
        block: The layer.
        projection: Output projection of its attention.
        places: Where the arguments `PARTS` stand in the layer's call.
    """

    block: nn.Module
    projection: Any
    places: Mapping[str, int]

    def read(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], at: Tensor
    ) -> Float[Tensor, "injection d_model"]:
        """What the layer reads at some tokens."""
        hidden, residual = (
            kwargs[name] if name in kwargs else args[self.places[name]] for name in PARTS
        )
        read: Tensor = hidden[at] if residual is None else hidden[at] + residual[at]
        return read


def seen_layers(model: nn.Module) -> dict[int, SeenLayer]:
    """Layers whose input and output projection are where they are in models of this kind."""
    layers = {}
    modules = dict(model.named_modules())
    for name, module in modules.items():
        if not isinstance(module, Attention):
            continue
        attention = modules[name.rpartition(".")[0]]
        block = modules[name.rpartition(".")[0].rpartition(".")[0]]
        projections = [m for m in attention.children() if isinstance(m, RowParallelLinear)]
        arguments = list(inspect.signature(block.forward).parameters)
        if len(projections) == 1 and set(PARTS) <= set(arguments):
            places = {part: arguments.index(part) for part in PARTS}
            layers[extract_layer_index(module.layer_name)] = SeenLayer(
                block, projections[0], places
            )
    return layers


def not_seen(config: Any, model: nn.Module) -> str | None:
    """Why the norm of momentum is not known in an engine; None if it is."""
    if config.compilation_config.mode != CompilationMode.NONE:
        return (
            "the engine's model is compiled, and what its layers read is not seen; "
            "enforce_eager=True counts it"
        )
    depth = config.model_config.get_num_layers(config.parallel_config)
    if set(range(depth)) - set(seen_layers(model)):
        return f"layers of {type(model).__name__} are built in a way that is not known here"
    return None


@dataclass(eq=False)
class ModelLayers:
    """The layers of a model that is not compiled."""

    model: nn.Module
    _watched: set[int] = field(default_factory=set)

    @cached_property
    def _layers(self) -> dict[int, SeenLayer]:
        return seen_layers(self.model)

    def watch(self, layers: Iterable[int]) -> None:
        """From now on note in each pass what these layers read where momentum is added."""
        for layer in set(layers) - self._watched:
            self._watched.add(layer)
            self._watch(layer, self._layers[layer])

    def _watch(self, layer: int, seen: SeenLayer) -> None:
        def note(_block: nn.Module, args: Any, kwargs: Any) -> None:
            pass_ = running()
            if pass_ is not None and layer in pass_.plan.momentum_layers:
                queries = pass_.plan.momentum(layer).queries
                pass_.residuals[layer] = seen.read(args, kwargs, queries)

        seen.block.register_forward_pre_hook(note, with_kwargs=True)

    def written(
        self, layer: int, outputs: Float[Tensor, "injection head d_value"]
    ) -> Float[Tensor, "injection d_model"]:
        """What head outputs of a layer write to the residual stream, those of all ranks."""
        projection = self._layers[layer].projection
        flat = outputs.flatten(1).to(projection.params_dtype)
        with torch.inference_mode():
            share = projection.quant_method.apply(projection, flat)
            return tensor_model_parallel_all_reduce(share)
