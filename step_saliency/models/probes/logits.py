"""Are logits the same with a cache, and the same as transformers' own?"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from step_saliency.models.facts import backend_of, device_of
from step_saliency.models.identity import origin_of
from step_saliency.models.probes.measure import AGREEMENT, Measurement, at_most, precision_of, run
from step_saliency.models.reference import load_reference


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
