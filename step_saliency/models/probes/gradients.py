"""Do gradients arrive, are they those of the values, and do they stay at their own position?"""

import torch
from einops import einsum, repeat
from jaxtyping import Float
from torch import Tensor

from step_saliency.models.facts import dtype_of
from step_saliency.models.probes.examination import Examination
from step_saliency.models.probes.measure import (
    AGREEMENT,
    Measurement,
    at_least,
    at_most,
    no_fault,
    precision_of,
    worse,
)

PATTERN, HEAD_OUTPUT, VALUES = "attn.hook_pattern", "attn.hook_z", "attn.hook_v"


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
    group = n_heads // n_values
    ungrouped = repeat(values, "batch key kv_head d -> batch key (kv_head group) d", group=group)
    return einsum(
        z_gradient.double(),
        ungrouped.double(),
        "batch query head d, batch key head d -> batch head query key",
    )


def local_gradients(examination: Examination) -> Measurement:
    """With keys and values detached, does a prediction depend on its own position only?"""
    size = examination.local
    own = size[len(size) - 2]  # the last position predicts nothing
    others = float((size.sum() - own) / own)
    note = "gradient that reaches other positions, as a share of that at the own position"
    return at_most(others, 1e-6, note)
