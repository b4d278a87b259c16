"""What a model must do for the analyses to mean anything, each as one measurement on the model.

Every probe runs the model on a few random tokens and returns a number with the threshold that it is
held to. Differences between logits are in units of the standard deviation of the clean logits,
so that thresholds depend on the data type and not on the model.

Edits are tried in every layer: a batch of copies of the same tokens, with the edit of layer l in
copy l only. A hook whose edit is dropped gives a difference of exactly zero, or of rounding.
Where an edit does pass, the probe does not tell whether it is the right one; ``score_softmax``
adds that the pattern is the softmax of the scores that the hook shows.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from einops import einsum, repeat
from jaxtyping import Float, Int
from torch import Tensor

from step_saliency.models.facts import (
    backend_of,
    config_of,
    device_of,
    dtype_of,
    n_ctx,
    n_layers,
    sink_logits,
)
from step_saliency.models.hooking import firing_hooks, frozen_parameters, live_names
from step_saliency.models.identity import origin_of
from step_saliency.models.load import load_reference

AGREEMENT = {
    torch.float64: 1e-9,
    torch.float32: 1e-4,
    torch.float16: 0.03,
    torch.bfloat16: 0.1,
}
"""Largest difference of logits or gradients that counts as equal, per precision."""
EFFECT = {torch.float64: 1e-9, torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 2e-2}
"""Smallest change of logits that counts as an effect, per precision."""
ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 0.05}
"""Largest difference of attention weights that counts as equal, per precision."""
EDIT_TOKENS = 8
LOGITS_PER_PASS = 2**24


class Measurement(NamedTuple):
    """One measured value and what it is held to; without a value there was nothing to measure.

    Attributes:
        value: The measured value.
        threshold: The limit.
        passed: Whether the value is on the right side of it; None if it could not be measured.
        note: What the value is, or why there is none.
    """

    value: float | None
    threshold: float | None
    passed: bool | None
    note: str


def at_most(value: float, threshold: float, note: str) -> Measurement:
    """A value that must be small; NaN is not."""
    return Measurement(value, threshold, value <= threshold, note)


def at_least(value: float, threshold: float, note: str) -> Measurement:
    """A value that must be large; NaN is not."""
    return Measurement(value, threshold, value >= threshold, note)


def precision_of(model: Any) -> torch.dtype:
    """Data type that a forward pass is as exact as.

    That of the weights, but transformers' softmax, norms and rotations, which a bridge runs, are
    in float32 even where the weights are in float64.
    """
    dtype = dtype_of(model)
    in_float32 = dtype == torch.float64 and backend_of(model) == "bridge"
    return torch.float32 if in_float32 else dtype


def probe_tokens(model: Any, n_tokens: int) -> Int[Tensor, "1 pos"]:
    """The same random token ids for every model with that vocabulary."""
    generator = torch.Generator().manual_seed(0)
    n_pos = min(n_tokens, n_ctx(model))
    tokens = torch.randint(int(config_of(model).d_vocab), (1, n_pos), generator=generator)
    return tokens.to(device_of(model))


def run(model: Any, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_vocab"]:
    """Logits of a full forward pass over unpadded tokens, whatever the tokenizer's padding is."""
    logits: Tensor = model(tokens, attention_mask=torch.ones_like(tokens), return_type="logits")
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def layer_names(model: Any, *hooks: str) -> list[str]:
    """Names of the given hooks in every layer, checked to fire."""
    names = [f"blocks.{layer}.{hook}" for layer in range(n_layers(model)) for hook in hooks]
    return list(live_names(model, names))


def _capture(
    model: Any, tokens: Int[Tensor, "batch pos"], *hooks: str
) -> dict[str, Float[Tensor, "..."]]:
    kept: dict[str, Tensor] = {}

    def keeper(name: str) -> Callable[..., None]:
        def keep(activation: Tensor, hook: Any) -> None:
            kept[name] = activation.detach().clone()

        return keep

    names = layer_names(model, *hooks)
    with torch.no_grad(), model.hooks(fwd_hooks=[(name, keeper(name)) for name in names]):
        run(model, tokens)
    return kept


def _edit_row(row: int, edit: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    def hook_function(activation: Tensor, hook: Any) -> Tensor:
        edited = activation.clone()
        edited[row] = edit(activation[row])
        return edited

    return hook_function


def edit_effects(
    model: Any,
    tokens: Int[Tensor, "1 pos"],
    hook: str,
    edit: Callable[[Tensor], Tensor],
) -> Float[Tensor, "layer"]:
    """Largest change of any logit when ``edit`` is applied at ``hook`` of one layer at a time.

    Args:
        model: HookedTransformer or TransformerBridge.
        tokens: Tokens to run on.
        hook: Name within the block, e.g. ``"attn.hook_attn_scores"``.
        edit: Activation of one sequence -> edited activation.

    Returns:
        Change per layer, in standard deviations of the clean logits.
    """
    names = layer_names(model, hook)
    per_pass = max(1, LOGITS_PER_PASS // (tokens.shape[1] * int(config_of(model).d_vocab)) - 1)
    chunks = [names[start : start + per_pass] for start in range(0, len(names), per_pass)]
    return torch.cat([_effects_in_one_pass(model, tokens, chunk, edit) for chunk in chunks])


@torch.no_grad()
def _effects_in_one_pass(
    model: Any,
    tokens: Int[Tensor, "1 pos"],
    names: Sequence[str],
    edit: Callable[[Tensor], Tensor],
) -> Float[Tensor, "layer"]:
    copies = repeat(tokens, "1 pos -> copies pos", copies=len(names) + 1)
    hooks = [(name, _edit_row(row, edit)) for row, name in enumerate(names, start=1)]
    with model.hooks(fwd_hooks=hooks):
        clean, edited = run(model, copies).split([1, len(names)])
    return (edited - clean).abs().amax(dim=(1, 2)) / clean.std()


def _tilt_keys(scores: Float[Tensor, "head query key"]) -> Float[Tensor, "head query key"]:
    """Favour every other key; entries masked by -inf or a large number stay masked."""
    n_keys = scores.shape[-1]
    return scores + torch.where(torch.arange(n_keys, device=scores.device) % 2 == 0, 2.0, -2.0).to(
        scores
    )


def _shove(activation: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Add a fixed random vector of the activation's own size."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(activation.shape, generator=generator).to(activation)
    return activation + noise * activation.std()


def _edit_measurement(
    model: Any, tokens: Int[Tensor, "1 pos"], hook: str, edit: Callable[[Tensor], Tensor]
) -> Measurement:
    effects = edit_effects(model, tokens[:, :EDIT_TOKENS], hook, edit)
    layer = int(effects.nan_to_num(nan=-1.0).argmin())
    note = f"smallest change of logits by an edit at {hook}, in layer {layer}"
    return at_least(float(effects[layer]), EFFECT[precision_of(model)], note)


def score_edits(model: Any, tokens: Int[Tensor, "1 pos"]) -> Measurement:
    """Do edits of attention scores change logits, in every layer?"""
    return _edit_measurement(model, tokens, "attn.hook_attn_scores", _tilt_keys)


def head_edits(model: Any, tokens: Int[Tensor, "1 pos"]) -> Measurement:
    """Do edits of head outputs change logits, in every layer?"""
    return _edit_measurement(model, tokens, "attn.hook_z", _shove)


def residual_edits(model: Any, tokens: Int[Tensor, "1 pos"]) -> Measurement:
    """Do edits of the residual stream after a block change logits, in every layer?"""
    return _edit_measurement(model, tokens, "hook_resid_post", _shove)


def pattern_rows(model: Any, tokens: Int[Tensor, "1 pos"]) -> Measurement:
    """Do pattern rows sum to one, or to one minus what the sink takes?"""
    kept = _capture(model, tokens, "attn.hook_pattern", "attn.hook_attn_scores")
    worst = 0.0
    for layer in range(n_layers(model)):
        rows = kept[f"blocks.{layer}.attn.hook_pattern"].double().sum(-1)
        expected = _row_sums(model, layer, kept[f"blocks.{layer}.attn.hook_attn_scores"])
        worst = _worse(worst, (rows - expected).abs())
    sinks = sink_logits(model, 0) is not None
    note = f"largest distance of a row's sum from one{' minus the sink' if sinks else ''}"
    return at_most(worst, ROUNDING[precision_of(model)], note)


def _row_sums(
    model: Any, layer: int, scores: Float[Tensor, "batch head query key"]
) -> Float[Tensor, "batch head query"]:
    mass = scores.double().logsumexp(-1)
    sinks = sink_logits(model, layer)
    if sinks is None:
        return torch.ones_like(mass)
    return torch.sigmoid(mass - sinks.double()[None, :, None])


def score_softmax(model: Any, tokens: Int[Tensor, "1 pos"]) -> Measurement:
    """Is the pattern the softmax of the scores that the hook shows (with the sink, if any)?"""
    kept = _capture(model, tokens, "attn.hook_pattern", "attn.hook_attn_scores")
    worst = 0.0
    for layer in range(n_layers(model)):
        scores = kept[f"blocks.{layer}.attn.hook_attn_scores"]
        expected = scores.double().softmax(-1) * _row_sums(model, layer, scores)[..., None]
        worst = _worse(worst, (kept[f"blocks.{layer}.attn.hook_pattern"] - expected).abs())
    note = "largest difference between the pattern and the softmax of the scores"
    return at_most(worst, ROUNDING[precision_of(model)], note)


def _worse(worst: float, differences: Float[Tensor, "..."]) -> float:
    """The larger of the two; NaN wins and stays."""
    largest = float(differences.max())
    return largest if not largest <= worst else worst


@contextmanager
def _gradients_from_first_block(model: Any) -> Iterator[list[Tensor]]:
    """Let gradients flow from the first block's input on, and collect that input."""
    inputs: list[Tensor] = []

    def start_graph(residual: Tensor, hook: Any) -> Tensor:
        inputs.append(residual.detach().requires_grad_())
        return inputs[-1]

    name = "blocks.0.hook_resid_pre"
    live_names(model, [name])
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        frozen_parameters(model),
        model.hooks(fwd_hooks=[(name, start_graph)]),
    ):
        yield inputs


def _next_token_loss(
    logits: Float[Tensor, "1 pos d_vocab"], tokens: Int[Tensor, "1 pos"]
) -> Float[Tensor, "query"]:
    return torch.nn.functional.cross_entropy(logits[0, :-1], tokens[0, 1:], reduction="none")


def _gradients(
    model: Any, tokens: Int[Tensor, "1 pos"], *hooks: str
) -> dict[str, Float[Tensor, "..."]]:
    gradients: dict[str, Tensor] = {}

    def keeper(name: str) -> Callable[..., None]:
        def keep(gradient: Tensor, hook: Any) -> None:
            gradients[name] = gradient.detach().clone()

        return keep

    names = layer_names(model, *hooks)
    with (
        _gradients_from_first_block(model),
        model.hooks(bwd_hooks=[(name, keeper(name)) for name in names]),
    ):
        _next_token_loss(run(model, tokens), tokens).sum().backward()
    return gradients


def gradients(model: Any, tokens: Int[Tensor, "1 pos"]) -> Measurement:
    """Do gradients at the patterns exist, are they finite and not all zero, in every layer?"""
    found = _gradients(model, tokens, "attn.hook_pattern")
    good = [bool(g.isfinite().all()) and bool(g.any()) for g in found.values()]
    share = sum(good) / n_layers(model)
    return at_least(share, 1.0, "share of layers with finite gradients that are not all zero")


def value_gradients(model: Any, tokens: Int[Tensor, "1 pos"]) -> Measurement:
    """Is the gradient at the pattern that of z times the values, dL/dA[t, k] = dL/dz_t . v_k?"""
    found = _gradients(model, tokens, "attn.hook_pattern", "attn.hook_z")
    silent = set(layer_names(model, "attn.hook_pattern", "attn.hook_z")) - set(found)
    if silent:
        raise ValueError(f"no gradient arrives at {', '.join(sorted(silent))}")
    kept = _capture(model, tokens, "attn.hook_v")
    worst = 0.0
    for layer in range(n_layers(model)):
        attention = f"blocks.{layer}.attn"
        direct = found[f"{attention}.hook_pattern"].double().tril()
        by_values = _pattern_gradient(found[f"{attention}.hook_z"], kept[f"{attention}.hook_v"])
        worst = _worse(worst, (direct - by_values.tril()).abs() / direct.abs().max())
    note = "largest difference between dL/dA and dL/dz . v, as a share of the largest entry"
    return at_most(worst, AGREEMENT[precision_of(model)], note)


def _pattern_gradient(
    z_gradient: Float[Tensor, "batch query head d_head"],
    values: Float[Tensor, "batch key kv_head d_head"],
) -> Float[Tensor, "batch head query key"]:
    group = z_gradient.shape[2] // values.shape[2]
    ungrouped = repeat(values, "batch key kv_head d -> batch key (kv_head group) d", group=group)
    return einsum(
        z_gradient.double(),
        ungrouped.double(),
        "batch query head d, batch key head d -> batch head query key",
    )


def local_gradients(model: Any, tokens: Int[Tensor, "1 pos"]) -> Measurement:
    """With keys and values detached, does a prediction depend on its own position only?"""
    query = tokens.shape[1] - 2
    rotated = "blocks.0.attn.hook_rot_k" in firing_hooks(model)
    names = layer_names(model, "attn.hook_rot_k" if rotated else "attn.hook_k", "attn.hook_v")

    def detach(activation: Tensor, hook: Any) -> Tensor:
        return activation.detach()

    with (
        _gradients_from_first_block(model) as inputs,
        model.hooks(fwd_hooks=[(name, detach) for name in names]),
    ):
        loss = _next_token_loss(run(model, tokens), tokens)[query]
        (gradient,) = torch.autograd.grad(loss, inputs[0])
    size = gradient[0].double().norm(dim=-1)
    others = float((size.sum() - size[query]) / size[query])
    note = "gradient that reaches other positions, as a share of that at the own position"
    return at_most(others, 1e-6, note)


def cached_decoding(model: Any, tokens: Int[Tensor, "1 pos"]) -> Measurement:
    """Does decoding token by token with the model's cache give the logits of one forward pass?"""
    with torch.no_grad():
        full = run(model, tokens)
        step_by_step = _decode(model, tokens)
    return _logit_agreement(model, step_by_step, full, "cached decoding and the forward pass")


def _decode(model: Any, tokens: Int[Tensor, "1 pos"]) -> Float[Tensor, "1 pos d_vocab"]:
    step = _cached_step_hooked if backend_of(model) == "hooked" else _cached_step_bridge
    cache: Any = None
    logits = []
    for pos in range(tokens.shape[1]):
        next_logits, cache = step(model, tokens[:, : pos + 1], cache)
        logits.append(next_logits)
    return torch.cat(logits, dim=1).float()


def _cached_step_hooked(
    model: Any, tokens: Int[Tensor, "1 pos"], cache: Any
) -> tuple[Float[Tensor, "1 1 d_vocab"], Any]:
    from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

    if cache is None:
        cache = TransformerLensKeyValueCache.init_cache(model.cfg, device_of(model), 1)
    token = tokens[:, -1:]
    return model(token, past_kv_cache=cache, attention_mask=torch.ones_like(token)), cache


def _cached_step_bridge(
    model: Any, tokens: Int[Tensor, "1 pos"], cache: Any
) -> tuple[Float[Tensor, "1 1 d_vocab"], Any]:
    logits, cache = model(
        tokens[:, -1:],
        attention_mask=torch.ones_like(tokens),
        position_ids=torch.full_like(tokens[:, :1], tokens.shape[1] - 1),
        return_type="logits_and_cache",
        use_cache=True,
        **({} if cache is None else {"past_key_values": cache}),
    )
    return logits, cache


def _logit_agreement(
    model: Any,
    logits: Float[Tensor, "1 pos d_vocab"],
    expected: Float[Tensor, "1 pos d_vocab"],
    what: str,
) -> Measurement:
    expected = expected.to(logits)
    by_position = (logits - expected).square().mean(-1).sqrt() / expected.std()
    note = f"root mean square difference between the logits of {what}, at the worst position"
    return at_most(float(by_position.max()), AGREEMENT[precision_of(model)], note)


def transformers_logits(model: Any, tokens: Int[Tensor, "1 pos"]) -> Measurement:
    """Are the logits those of transformers, on the same weights read anew?

    A bridge's own ``original_model`` is no witness: the bridge replaces its submodules.
    """
    origin = origin_of(model)
    if origin is None:
        return Measurement(None, None, None, "where the weights came from is not known")
    reference, reason = load_reference(model)
    if reference is None:
        return Measurement(None, None, None, reason)
    with torch.no_grad():
        ours = run(model, tokens)
        theirs = reference(tokens.to(reference.device)).logits.float()
    if origin.process_weights:
        ours, theirs = ours.log_softmax(-1), theirs.log_softmax(-1)
    return _logit_agreement(model, ours.to(theirs.device), theirs, "the model and transformers")
