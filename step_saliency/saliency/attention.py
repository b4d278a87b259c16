"""One seam through which every model's attention becomes step attention.

Question: how can one attention function, `AttentionRun.attend`, take the place of the attention of
any model without touching anything else of it? Three classes of model, two seams:

    transformers models   their attention registry hands rotated queries, ungrouped keys, values,
                          scale, window, cap and sinks to a function of one's own
    TransformerBridge     its attention computes scores itself, for its hooks; here it hands over to
                          the transformers attention that it wraps (the bridge's own projections
                          inside), and the rest is the line above
    HookedTransformer     what lies between its queries, keys and values and its head outputs is
                          replaced; projections, norms, rotation and output are its own

What is replaced has no scores and no pattern, so hooks at those points cannot act: they are
refused, as are hooks after the last block, which runs on a few positions at a time. All other
hooks, of `q`, `k`, `v`, `z`, residuals and MLPs, act as always, but twice: forward and again when
their block is differentiated.

When it misleads: an architecture could hide a change of its attention where neither seam sees it.
`check_seam` therefore compares, once per model, with the model's own attention on a few tokens.
"""

import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from step_saliency.models.registry import (
    attention_implementation,
    bridged_attention,
    decoder_layers,
    replaced_methods,
    unbridged_forward,
)
from step_saliency.saliency.kernels.step_attention import KernelName, load_kernel
from step_saliency.saliency.kernels.step_attention.types import AttentionSpec, Spans, StepIndex

REGISTERED_NAME = "step_saliency"
"""Name of step attention in transformers' attention registry."""

CHECKED_TOKENS = 16
_checked: "weakref.WeakSet[nn.Module]" = weakref.WeakSet()


@dataclass(eq=False)
class AttentionRun:
    """What step attention needs beyond one layer's tensors, and where it leaves its totals.

    Attributes:
        kernel: Implementation.
        spans: Real positions of each sequence; None if all are.
        local: Whether keys and values get gradient from their own position alone.
        per_head: Whether totals keep heads apart.
        steps: Steps of rows and columns while a wanted layer is differentiated, otherwise None.
        totals: Totals of the layer that was differentiated last, averaged over heads unless
            `per_head`.
    """

    kernel: KernelName = "auto"
    spans: Spans | None = None
    local: bool = True
    per_head: bool = False
    steps: StepIndex | None = None
    totals: Float[Tensor, "batch heads_out step step"] | None = None

    def attend(
        self,
        q: Float[Tensor, "batch head pos d_head"],
        k: Float[Tensor, "batch kv_head pos d_head"],
        v: Float[Tensor, "batch kv_head pos d_value"],
        spec: AttentionSpec,
        sinks: Float[Tensor, "head"] | None = None,
    ) -> Float[Tensor, "batch head pos d_value"]:
        """Head outputs, whose backward pass leaves `totals`."""
        z: Tensor = _StepAttention.apply(q, k, v, sinks, spec, self)
        return z


class _StepAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        sinks: Tensor | None,
        spec: AttentionSpec,
        run: AttentionRun,
    ) -> Tensor:
        kernel = load_kernel(run.kernel, q.device, q.dtype)
        z, lse = kernel.attention(q, k, v, spec, spans=run.spans, sinks=sinks)
        ctx.save_for_backward(q, k, v, z, lse)
        ctx.spec, ctx.run = spec, run
        return z

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        run = ctx.run
        q, k, v, z, lse = ctx.saved_tensors
        result = load_kernel(run.kernel, q.device, q.dtype).pool_influence(
            q,
            k,
            v,
            z,
            lse,
            grads[0],
            ctx.spec,
            spans=run.spans,
            steps=run.steps,
            per_head=run.per_head,
            local=run.local,
        )
        if result.totals is not None:
            run.totals = result.totals if run.per_head else result.totals / q.shape[1]
        return result.dq, result.dk, result.dv, None, None, None


class Seam(ABC):
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
    def step_attention(self, run: AttentionRun) -> Any:
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


class HookedSeam(Seam):
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
        mask = None if positions is None else (positions >= 0).long()
        self.model(tokens, attention_mask=mask, stop_at_layer=self.model.cfg.n_layers)

    def logits(self, resid: Float[Tensor, "query d_model"]) -> Float[Tensor, "query vocab"]:
        batch = resid.unsqueeze(0)
        logits: Tensor = self.model(
            batch, start_at_layer=self.model.cfg.n_layers, return_type="logits"
        )
        return logits[0]

    @contextmanager
    def step_attention(self, run: AttentionRun) -> Iterator[None]:
        config = self.model.cfg
        if config.positional_embedding_type in ("alibi", "relative_positional_bias"):
            raise ValueError(
                f"{config.positional_embedding_type} adds to the attention scores, which streaming "
                "does not form; use method='hooks'"
            )
        if config.attention_dir != "causal":
            raise ValueError(
                f"attention_dir={config.attention_dir!r}: only causal models have traces"
            )
        _refuse_hooks(self.model, ("hook_attn_scores", "hook_pattern"))
        with ExitStack() as stack:
            for block in self.blocks:
                attention: Any = block.attn
                stack.enter_context(replaced_methods(attention, self._methods(attention, run)))
            yield

    def _methods(self, attention: Any, run: AttentionRun) -> dict[str, Callable[..., Any]]:
        config = self.model.cfg
        spec = AttentionSpec(
            scale=1.0 / float(attention.attn_scale),
            softcap=float(config.attn_scores_soft_cap) if config.attn_scores_soft_cap > 0 else None,
            window=config.window_size if attention.attn_type == "local" else None,
        )
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


class TransformersSeam(Seam):
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
        return int(self.transformers_model.config.get_text_config(decoder=True).vocab_size)

    def run_blocks(
        self, tokens: Int[Tensor, "batch pos"], positions: Int[Tensor, "batch pos"] | None
    ) -> None:
        inputs: dict[str, Any] = {"input_ids": tokens, "use_cache": False}
        if positions is not None:
            inputs["position_ids"] = positions.clamp(min=0)
        self.transformers_model.base_model(**inputs)

    def logits(self, resid: Float[Tensor, "query d_model"]) -> Float[Tensor, "query vocab"]:
        """The model's own forward, whose blocks all answer with `resid`."""
        resid = resid.unsqueeze(0)

        def answer(*_args: Any, **_kwargs: Any) -> Tensor:
            return resid

        inputs = resid.detach().to(self.device)
        with ExitStack() as stack:
            for block in self.blocks:
                stack.enter_context(replaced_methods(block, {"forward": answer}))
            logits: Tensor = self.transformers_model(inputs_embeds=inputs, use_cache=False).logits
        return logits[0]

    @contextmanager
    def step_attention(self, run: AttentionRun) -> Iterator[None]:
        if not getattr(self.transformers_model, "_supports_attention_backend", False):
            raise ValueError(
                f"{type(self.transformers_model).__name__} does not take its attention from "
                "transformers' registry; use method='hooks'"
            )
        bridged = self.model is not self.transformers_model
        if bridged:
            own = bridged_attention(self.blocks[0]).named_children()
            points = {name for name, child in own if hasattr(child, "has_hooks")}
            _refuse_hooks(self.model, sorted(points - {"hook_in", "hook_out"}))
        AttentionInterface.register(REGISTERED_NAME, _registered_attention)
        with ExitStack() as stack:
            stack.enter_context(attention_implementation(self.transformers_model, REGISTERED_NAME))
            if bridged:
                for block in self.blocks:
                    attention = bridged_attention(block)
                    methods = {"forward": unbridged_forward(attention)}
                    stack.enter_context(replaced_methods(attention, methods))
            token = _current_run.set(run)
            stack.callback(_current_run.reset, token)
            yield


_current_run: ContextVar[AttentionRun] = ContextVar("step_saliency_attention_run")


def _registered_attention(
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
    z = _current_run.get().attend(query, key, value, spec, s_aux)
    return z.transpose(1, 2), None


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


def _refuse_hooks(model: Any, bypassed: Sequence[str]) -> None:
    """Refuse hooks where streaming has nothing for them, or only parts of it."""
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


def find_seam(model: nn.Module) -> Seam:
    """How a model is run block by block.

    Args:
        model: HookedTransformer, TransformerBridge or a causal model of transformers.

    Raises:
        ValueError: anything else.
    """
    names = {cls.__name__ for cls in type(model).__mro__}
    if "HookedTransformer" in names:
        return HookedSeam(model)
    inner = getattr(model, "original_model", None) if "TransformerBridge" in names else model
    if isinstance(inner, PreTrainedModel):
        return TransformersSeam(model, inner)
    raise ValueError(
        "expected a HookedTransformer, a TransformerBridge or a transformers model, got "
        f"{type(model).__name__}"
    )


def refusal(model: nn.Module) -> str | None:
    """Why a model, with the hooks that it has now, cannot be streamed; None if it can."""
    try:
        with find_seam(model).step_attention(AttentionRun()):
            return None
    except ValueError as error:
        return str(error)


@torch.no_grad()
def check_seam(seam: Seam, tokens: Int[Tensor, "pos"]) -> None:
    """Compare, once per model, step attention with the model's own attention on a few tokens.

    Raises:
        ValueError: they differ, so that maps would be of another model.
    """
    if seam.model in _checked:
        return
    tokens = tokens[:CHECKED_TOKENS].unsqueeze(0).to(seam.device)
    own = _last_resid(seam, tokens)
    with seam.step_attention(AttentionRun()):
        ours = _last_resid(seam, tokens)
    half = own.dtype in (torch.bfloat16, torch.float16)
    own, ours = own.float(), ours.float()
    difference = (own - ours).norm(dim=-1) / own.norm(dim=-1)
    tolerance = 0.1 if half else 1e-3
    if not float(difference.median()) < tolerance:
        raise ValueError(
            f"{type(seam.model).__name__}: with streaming attention the last residuals differ by "
            f"{float(difference.median()):.1%} from the model's own; use method='hooks'"
        )
    _checked.add(seam.model)


def _last_resid(seam: Seam, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
    outputs: list[Any] = []
    handle = seam.blocks[-1].register_forward_hook(lambda _m, _args, out: outputs.append(out))
    try:
        seam.run_blocks(tokens, None)
    finally:
        handle.remove()
    output = outputs[0]
    resid: Tensor = output[0] if isinstance(output, tuple) else output
    return resid
