"""Do gradients arrive, are they those of keys and values, do they stay at their own position?"""

import torch
from einops import einsum, repeat
from jaxtyping import Float
from torch import Tensor

from step_saliency.models.facts import (
    attended_values,
    attention_scale,
    dtype_of,
    score_softcap,
)
from step_saliency.models.probes.examination import Examination
from step_saliency.models.probes.measure import (
    AGREEMENT,
    NAMED,
    Measurement,
    at_least,
    at_most,
    no_fault,
    precision_of,
    worse,
)
from step_saliency.models.queries import query_key_hooks, rotation_hooks, stretched

PATTERN, HEAD_OUTPUT, VALUES = "attn.hook_pattern", "attn.hook_z", "attn.hook_v"
SCORES = "attn.hook_attn_scores"


def gradients(examination: Examination) -> Measurement:
    """Do gradients at the patterns exist, are they finite and not all zero, in every layer?

    In float16 those of sure predictions are zero, of which a few random tokens show nothing.
    """
    arrived = [
        gradient
        for name, gradient in examination.observed.gradients.items()
        if name.endswith(PATTERN)
    ]
    good = [bool(g.isfinite().all()) and bool(g.any()) for g in arrived]
    share = sum(good) / examination.n_layers
    if dtype_of(examination.model) == torch.float16:
        note = "in float16 gradients of sure predictions round to 0; maps are refused"
        return no_fault([note], note)
    return at_least(share, 1.0, "share of layers with finite gradients that are not all zero")


def value_gradients(examination: Examination) -> Measurement:
    """Is the gradient at the pattern that of z times the values, dL/dA[t, k] = dL/dz_t . v_k?"""
    worst = 0.0
    for direct, z_gradient, values in zip(
        examination.gradients(PATTERN),
        examination.gradients(HEAD_OUTPUT),
        examination.activations(VALUES),
        strict=True,
    ):
        values = attended_values(examination.model, values)
        direct, by_values = direct.double().tril(), _pattern_gradient(z_gradient, values).tril()
        worst = worse(worst, (direct - by_values).abs() / direct.abs().max())
    note = "largest difference between dL/dA and dL/dz . v, as a share of the largest entry"
    return at_most(worst, AGREEMENT[precision_of(examination.model)], note)


def _pattern_gradient(
    z_gradient: Float[Tensor, "batch query head d_head"],
    values: Float[Tensor, "batch key kv_head d_head"],
) -> Float[Tensor, "batch head query key"]:
    n_heads, n_values = z_gradient.shape[2], values.shape[2]
    if n_heads % n_values or values.shape[-1] != z_gradient.shape[-1]:
        raise ValueError(
            f"{VALUES} shows {list(values.shape)}, which are no values of the {n_heads} heads of "
            f"{z_gradient.shape[-1]} dimensions"
        )
    return einsum(
        z_gradient.double(),
        ungrouped(values, n_heads).double(),
        "batch query head d, batch key head d -> batch head query key",
    )


def ungrouped(
    keys: Float[Tensor, "batch key kv_head d"], n_heads: int
) -> Float[Tensor, "batch key head d"]:
    """Keys or values for each query head: those of its group."""
    group = n_heads // keys.shape[2]
    return repeat(keys, "batch key kv_head d -> batch key (kv_head group) d", group=group)


def score_products(examination: Examination) -> Measurement:
    """Are scores products of the queries and keys that hooks show, by the scale that is assumed?

    On the diagonal, and but for what is added whatever the tokens are, as a bias by position is.
    """
    worst, layers = 0.0, []
    limit = AGREEMENT[precision_of(examination.model)]
    for layer, scores in enumerate(examination.activations(SCORES)):
        own = scores.diagonal(dim1=-2, dim2=-1).double()
        first, second = own - _own_products(examination, layer)
        difference = float((first - second).abs().max() / own.abs().max())
        worst = max(worst, difference)
        layers += [] if difference <= limit else [layer]
    where = f" (in layers {', '.join(map(str, layers[:NAMED]))})" if layers else ""
    note = f"difference between scores and products of the queries and keys at hooks{where}"
    return at_most(worst, limit, note)


def _own_products(examination: Examination, layer: int) -> Float[Tensor, "batch head pos"]:
    """Of each position's query and key, scaled and capped as scores are."""
    model, shown = examination.model, examination.observed.activations
    names = query_key_hooks(model, layer)
    if not shown.keys() >= set(names):
        raise ValueError(f"{' and '.join(names)} do not both fire")
    q, k = (shown[name].double() for name in names)
    turns = [shown[name].double() ** 2 for name in rotation_hooks(model, layer)]
    if q.ndim != 4 or k.ndim != 4 or q.shape[2] % k.shape[2] or q.shape[-1] != k.shape[-1]:
        raise ValueError(
            f"{names[1]} shows {list(k.shape)}, which are no keys of the queries {list(q.shape)}"
        )
    k = stretched(k, turns[0] + turns[1] if turns else None)
    product = einsum(
        q, ungrouped(k, q.shape[2]), "batch pos head d, batch pos head d -> batch head pos"
    )
    product = product * attention_scale(model, layer)
    cap = score_softcap(model)
    return product if cap is None else cap * torch.tanh(product / cap)


def local_gradients(examination: Examination) -> Measurement:
    """With keys and values detached, does a prediction depend on its own position only?"""
    size = examination.local
    own = size[len(size) - 2]  # the last position predicts nothing
    others = float((size.sum() - own) / own)
    note = "gradient that reaches other positions, as a share of that at the own position"
    return at_most(others, 1e-6, note)
