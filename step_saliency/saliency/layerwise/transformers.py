"""A transformers model, alone or inside a TransformerBridge, run layer by layer.

Step attention takes the place of its attention by `models.adapter`; nothing else is touched.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from step_saliency.models.adapter import (
    adapted_attention,
    decoder_layers,
    replaced_methods,
)
from step_saliency.models.facts import n_heads, n_kv_heads
from step_saliency.models.hooking import module_hook, parts_of, without_torch_hooks
from step_saliency.models.interrupts import change, together
from step_saliency.models.turns import owned
from step_saliency.models.undisturbed import undisturbed
from step_saliency.saliency.kernels.step_attention.types import AttentionSpec
from step_saliency.saliency.layerwise.base import LayerwiseModel, refuse_hooks, refuse_late_hooks
from step_saliency.saliency.layerwise.reached import unlike_names
from step_saliency.saliency.layerwise.run import AttentionRun


class LayerwiseTransformers(LayerwiseModel):
    """A transformers model, alone or inside a TransformerBridge."""

    def __init__(self, model: nn.Module, transformers_model: PreTrainedModel) -> None:
        super().__init__(model)
        self.transformers_model = transformers_model

    @property
    def blocks(self) -> Sequence[nn.Module]:
        bridged = getattr(self.model, "blocks", None)
        if bridged is not None:
            return list(bridged)
        return decoder_layers(self.transformers_model)

    @property
    def vocab(self) -> int:
        return int(self._config.vocab_size)

    @property
    def _config(self) -> Any:
        return self.transformers_model.config.get_text_config(decoder=True)

    def run_blocks(
        self, tokens: Int[Tensor, "batch pos"], positions: Int[Tensor, "batch pos"] | None
    ) -> None:
        inputs: dict[str, Any] = {"input_ids": tokens, "use_cache": False}
        if positions is not None:
            inputs["position_ids"] = positions.clamp(min=0)
        self.transformers_model.base_model(**inputs)

    def logits(self, resid: Float[Tensor, "query d_model"]) -> Float[Tensor, "query vocab"]:
        """The model's own forward, whose blocks all answer with `resid`.

        Torch hooks of the user's have acted before, or are refused.
        """
        resid = resid.unsqueeze(0)

        def answer(*_args: Any, **_kwargs: Any) -> Tensor:
            return resid

        inputs = {
            name: resid.detach().new_zeros(*resid.shape[:2], *sizes).to(self.device)
            for name, sizes in self._embedded(resid.shape[-1]).items()
        }
        answering = [replaced_methods(block, {"forward": answer}) for block in self.blocks]
        with together(without_torch_hooks(parts_of(self.model)), *answering):
            logits: Tensor = self.transformers_model(**inputs, use_cache=False).logits
        return logits.squeeze(0)

    def _embedded(self, d_model: int) -> dict[str, tuple[int, ...]]:
        """What the model takes in place of token ids, and its sizes at one position.

        Some project embeddings to the width of the residual (OPT), or have more of them for each
        layer (Gemma 4).
        """
        config = self._config
        sizes: dict[str, tuple[int, ...]] = {
            "inputs_embeds": (getattr(config, "word_embed_proj_dim", None) or d_model,)
        }
        if of_layer := getattr(config, "hidden_size_per_layer_input", None):
            sizes["per_layer_inputs"] = (config.num_hidden_layers, of_layer)
        return sizes

    @change
    def step_attention(self, run: AttentionRun) -> Iterator[None]:
        bridge = self._bridge
        if n_shared := getattr(self._config, "num_kv_shared_layers", None):
            raise ValueError(
                f"the last {n_shared} layers of this {type(self.transformers_model).__name__} "
                "attend to keys and values of earlier layers (num_kv_shared_layers), to which "
                "streaming carries no gradient"
            )
        if bridge is not None:
            refuse_hooks(bridge, self._unlike)
        else:
            refuse_late_hooks(self.model, self.blocks, self._late_modules)
        attention = partial(_attend, run)
        with adapted_attention(self.transformers_model, attention, bridge=bridge):
            yield

    @property
    def _bridge(self) -> Any:
        return None if self.model is self.transformers_model else self.model

    def _late_modules(self) -> set[nn.Module]:
        """Modules that a pass leaves after the last block: norm, unembedding, the model itself."""
        left: list[nn.Module] = []
        note = owned(lambda module, _args, _output: left.append(module))
        token = torch.zeros(1, 1, dtype=torch.long, device=self.device)
        contexts = (
            torch.inference_mode(False),
            torch.no_grad(),
            undisturbed(self.model, warn=False),
        )
        noting = [module_hook(part.register_forward_hook, note) for part in self.model.modules()]
        with together(*contexts, without_torch_hooks(self.model.modules()), *noting):
            self.transformers_model(token, use_cache=False)
        last = len(left) - 1 - left[::-1].index(self.blocks[-1])
        return set(left[last + 1 :])

    def _unlike(self) -> frozenset[str]:
        bridge, attention = self._bridge, partial(_attend, AttentionRun())
        tokens = torch.zeros(1, _n_tokens(bridge), dtype=torch.long, device=self.device)
        return unlike_names(
            bridge,
            lambda: self.run_blocks(tokens, None),
            lambda: adapted_attention(self.transformers_model, attention, bridge=bridge),
        )


def _n_tokens(bridge: Any) -> int:
    """Positions, so few, that their axis is none of heads."""
    return next(n for n in (1, 2, 3) if n not in (n_heads(bridge), n_kv_heads(bridge)))


def _attend(
    run: AttentionRun,
    module: nn.Module,
    query: Float[Tensor, "batch head pos d_head"],
    key: Float[Tensor, "batch kv_head pos d_head"],
    value: Float[Tensor, "batch kv_head pos d_value"],
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    is_causal: bool | None = None,
    position_bias: Tensor | None = None,
    **_kwargs: Any,
) -> tuple[Float[Tensor, "batch pos head d_value"], None]:
    """Step attention with the arguments of transformers' attention functions."""
    name = type(module).__name__
    causal = is_causal if is_causal is not None else getattr(module, "is_causal", True)
    if not causal:
        raise ValueError(f"{name} attends in both directions; only causal models have traces")
    if attention_mask is not None or position_bias is not None:
        raise ValueError(f"{name} has a mask or bias of its own; use method='hooks'")
    if dropout:
        raise ValueError(f"{name} drops out attention weights (p = {dropout}); call model.eval()")
    _refuse_layer_type(module, sliding_window)
    scale = float(scaling if scaling is not None else query.shape[-1] ** -0.5)
    spec = AttentionSpec(scale=scale, softcap=softcap, window=sliding_window)
    z = run.attend(query, key, value, spec, s_aux)
    return z.transpose(1, 2).contiguous(), None  # as transformers' own, which some models view


def _refuse_layer_type(module: Any, sliding_window: int | None) -> None:
    """Refuse masks that reach attention by another way than its arguments."""
    layer_types = getattr(getattr(module, "config", None), "layer_types", None)
    layer = getattr(module, "layer_idx", None)
    if layer_types is None or layer is None:
        return
    windowed = layer_types[layer] == "sliding_attention"
    if layer_types[layer] not in ("full_attention", "sliding_attention") or (
        windowed and sliding_window is None
    ):
        raise ValueError(
            f"layer {layer} has attention of type {layer_types[layer]!r}, whose mask streaming "
            "does not know; use method='hooks'"
        )
