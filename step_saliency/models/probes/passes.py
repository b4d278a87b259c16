"""The passes that probes read: what is run, and what is kept of it."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from types import MappingProxyType
from typing import Any

import torch
from einops import repeat
from jaxtyping import Float, Int
from torch import Tensor

from step_saliency.models.facts import backend_of, device_of, n_layers
from step_saliency.models.hooking import firing_hooks, frozen_parameters, live_names, module_hook
from step_saliency.models.interrupts import one_change, together
from step_saliency.models.probes.measure import layer_names, run
from step_saliency.models.turns import owned, owned_hooks

EDIT_TOKENS = 4
LAST_STEPS = 2
"""Tokens that are decoded one at a time, after the rest at once."""


@one_change
def gradients_from_first_block(exits: ExitStack, model: Any) -> list[Tensor]:
    """Let gradients flow from the first block's input on, and collect that input."""
    inputs: list[Tensor] = []

    def start_graph(residual: Tensor, hook: Any) -> Tensor:
        inputs.append(residual.detach().requires_grad_())
        return inputs[-1]

    name = "blocks.0.hook_resid_pre"
    live_names(model, [name])
    exits.enter_context(torch.inference_mode(False))
    exits.enter_context(torch.enable_grad())
    exits.enter_context(frozen_parameters(model))
    exits.enter_context(model.hooks(fwd_hooks=owned_hooks([(name, start_graph)])))
    return inputs


def next_token_losses(
    logits: Float[Tensor, "batch pos d_vocab"], tokens: Int[Tensor, "batch pos"]
) -> Float[Tensor, "batch query"]:
    """Cross-entropy of each next token."""
    return torch.nn.functional.cross_entropy(
        logits[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none"
    )


def local_gradient(model: Any, tokens: Int[Tensor, "1 pos"]) -> Float[Tensor, "pos"]:
    """Size of the gradient of the last prediction at each position, keys and values detached."""
    rotated = "blocks.0.attn.hook_rot_k" in firing_hooks(model)
    names = layer_names(model, "attn.hook_rot_k" if rotated else "attn.hook_k", "attn.hook_v")

    def detach(activation: Tensor, hook: Any) -> Tensor:
        return activation.detach()

    with (
        gradients_from_first_block(model) as inputs,
        together(model.hooks(fwd_hooks=owned_hooks([(name, detach) for name in names]))),
    ):
        loss = next_token_losses(run(model, tokens), tokens)[0, -1]
        (gradient,) = torch.autograd.grad(loss, inputs[0])
    return gradient[0].double().norm(dim=-1)


def tilt_keys(scores: Float[Tensor, "head query key"]) -> Float[Tensor, "head query key"]:
    """Favour every other key; entries masked by -inf or a large number stay masked."""
    keys = torch.arange(scores.shape[-1], device=scores.device)
    return scores + torch.where(keys % 2 == 0, 2.0, -2.0).to(scores)


def shove(activation: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Add a fixed random vector of the activation's own size."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(activation.shape, generator=generator).to(activation)
    return activation + noise * activation.std()


EDITS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {"attn.hook_attn_scores": tilt_keys, "attn.hook_z": shove, "hook_resid_post": shove}
)
"""What is tried at each hook: activation of one sequence -> edited activation."""


@torch.no_grad()
def edit_effects(model: Any, tokens: Int[Tensor, "1 pos"]) -> dict[str, Float[Tensor, "layer"]]:
    """Largest change of any of the last logits when one hook of one layer is edited.

    All edits are tried at once: a batch of copies of the same tokens, one edit in each copy.

    Returns:
        By hook of `EDITS`, as far as it fires in all layers: change per layer, in standard
        deviations of the clean logits.
    """
    fires = firing_hooks(model)
    places = [
        (hook, [f"blocks.{layer}.{hook}" for layer in range(n_layers(model))]) for hook in EDITS
    ]
    live = [(hook, names) for hook, names in places if fires.issuperset(names)]
    names = [(hook, name) for hook, of_hook in live for name in of_hook]
    copies = repeat(tokens[:, :EDIT_TOKENS], "1 pos -> copies pos", copies=len(names) + 1)
    hooks = [(name, _edit_row(row, EDITS[hook])) for row, (hook, name) in enumerate(names, start=1)]
    with together(model.hooks(fwd_hooks=owned_hooks(hooks)), *_last_logits_only(model)):
        clean, edited = run(model, copies)[:, -1].split([1, len(names)])
    effects = (edited - clean).abs().amax(dim=-1) / clean.std()
    return dict(zip([hook for hook, _ in live], effects.split(n_layers(model)), strict=True))


def _edit_row(row: int, edit: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    def hook_function(activation: Tensor, hook: Any) -> Tensor:
        edited = activation.clone()
        edited[row] = edit(activation[row])
        return edited

    return hook_function


def _last_logits_only(model: Any) -> Sequence[Any]:
    """Contexts in which the last position alone is unembedded: copies are many."""
    unembed = getattr(model, "unembed", None)
    if unembed is None:
        return ()
    # contiguous, since torch multiplies what is not by a copy of the weights for each row
    last = owned(lambda _module, args: (args[0][:, -1:].contiguous(), *args[1:]))
    return (module_hook(unembed.register_forward_pre_hook, last),)


@torch.no_grad()
def decode_with_cache(model: Any, tokens: Int[Tensor, "1 pos"]) -> Float[Tensor, "1 pos d_vocab"]:
    """Logits of a sequence whose last tokens are read one at a time over the model's cache."""
    step = _cached_step_hooked if backend_of(model) == "hooked" else _cached_step_bridge
    n_pos = tokens.shape[1]
    stops = range(n_pos - LAST_STEPS, n_pos + 1)
    cache: Any = None
    logits, start = [], 0
    for stop in stops:
        part, cache = step(model, tokens[:, :stop], start, cache)
        logits.append(part)
        start = stop
    return torch.cat(logits, dim=1).float()


def _cached_step_hooked(
    model: Any, tokens: Int[Tensor, "1 pos"], start: int, cache: Any
) -> tuple[Float[Tensor, "1 new d_vocab"], Any]:
    from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

    if cache is None:
        cache = TransformerLensKeyValueCache.init_cache(model.cfg, device_of(model), 1)
    new = tokens[:, start:]
    return model(new, past_kv_cache=cache, attention_mask=torch.ones_like(new)), cache


def _cached_step_bridge(
    model: Any, tokens: Int[Tensor, "1 pos"], start: int, cache: Any
) -> tuple[Float[Tensor, "1 new d_vocab"], Any]:
    logits, cache = model(
        tokens[:, start:],
        attention_mask=torch.ones_like(tokens),
        position_ids=torch.arange(start, tokens.shape[1], device=tokens.device)[None],
        return_type="logits_and_cache",
        use_cache=True,
        **({} if cache is None else {"past_key_values": cache}),
    )
    return logits, cache
