"""A HookedTransformer run layer by layer.

What lies between its queries, keys and values and its head outputs is replaced; projections, norms,
rotation and output are its own.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from step_saliency.models.adapter import replaced_methods
from step_saliency.models.interrupts import change
from step_saliency.saliency.kernels.step_attention.types import AttentionSpec
from step_saliency.saliency.layerwise.base import LayerwiseModel, refuse_hooks
from step_saliency.saliency.layerwise.run import AttentionRun


class LayerwiseHooked(LayerwiseModel):
    """A HookedTransformer."""

    model: Any

    @property
    def blocks(self) -> Sequence[nn.Module]:
        return list(self.model.blocks)

    @property
    def vocab(self) -> int:
        return int(self.model.cfg.d_vocab)

    def run_blocks(
        self, tokens: Int[Tensor, "batch pos"], positions: Int[Tensor, "batch pos"] | None
    ) -> None:
        # Without a mask, leading pad tokens count as padding if the tokenizer pads on the left.
        mask = torch.ones_like(tokens) if positions is None else (positions >= 0).long()
        self.model(tokens, attention_mask=mask, stop_at_layer=self.model.cfg.n_layers)

    def logits(self, resid: Float[Tensor, "query d_model"]) -> Float[Tensor, "query vocab"]:
        batch, unembed = resid.unsqueeze(0), self.model.unembed

        def project(x: Float[Tensor, "1 query d_model"]) -> Float[Tensor, "1 query vocab"]:
            return nn.functional.linear(x, unembed.W_U.T, unembed.b_U)

        # its own forward copies W_U at every call, unless that lies as in a checkpoint
        with replaced_methods(unembed, {"forward": project}):
            logits: Tensor = self.model(
                batch, start_at_layer=self.model.cfg.n_layers, return_type="logits"
            )
        return logits.squeeze(0)

    def _bypassed(self) -> list[str]:
        points = ("hook_attn_scores", "hook_pattern")
        return [f"blocks.{i}.attn.{point}" for i in range(len(self.blocks)) for point in points]

    @change
    def step_attention(self, run: AttentionRun) -> Iterator[None]:
        _refuse_config(self.model.cfg)
        refuse_hooks(self.model, self._bypassed)
        with ExitStack() as stack:
            for block in self.blocks:
                attention: Any = block.attn
                methods = _step_methods(self.model.cfg, attention, run)
                stack.enter_context(replaced_methods(attention, methods))
            yield


def _refuse_config(config: Any) -> None:
    if config.positional_embedding_type in ("alibi", "relative_positional_bias"):
        raise ValueError(
            f"{config.positional_embedding_type} adds to the attention scores, which streaming "
            "does not form; use method='hooks'"
        )
    if config.attention_dir != "causal":
        raise ValueError(f"attention_dir={config.attention_dir!r}: only causal models have traces")


def _step_methods(config: Any, attention: Any, run: AttentionRun) -> dict[str, Callable[..., Any]]:
    """Methods of an attention module that carry q and k past scores and pattern to z."""
    spec = _spec(config, attention)
    sinks = attention.sinks if config.use_attention_sinks else None
    seen: dict[str, Tensor] = {}

    def keep_queries_and_keys(
        q: Float[Tensor, "batch pos head d_head"], k: Float[Tensor, "batch pos kv_head d_head"]
    ) -> Float[Tensor, "batch head 1 1"]:
        seen["q"], seen["k"] = q, k
        # a stand-in for the scores: what follows up to the head outputs works on any shape
        return q.new_zeros(q.shape[0], q.shape[2], 1, 1)

    def leave_unmasked(scores: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
        return scores

    def attend(
        v: Float[Tensor, "batch pos kv_head d_head"],
        pattern: Float[Tensor, "batch head 1 1"],
    ) -> Float[Tensor, "batch pos head d_head"]:
        q, k = seen.pop("q").transpose(1, 2), seen.pop("k").transpose(1, 2)
        z = run.attend(q, k, v.transpose(1, 2), spec, sinks)
        return attention.hook_z(z.transpose(1, 2))

    return {
        "calculate_attention_scores": keep_queries_and_keys,
        "apply_causal_mask": leave_unmasked,
        "calculate_z_scores": attend,
    }


def _spec(config: Any, attention: Any) -> AttentionSpec:
    cap = float(config.attn_scores_soft_cap)
    return AttentionSpec(
        scale=1.0 / float(attention.attn_scale),
        softcap=cap if cap > 0 else None,
        window=config.window_size if attention.attn_type == "local" else None,
    )
