"""Are logits the same with a cache, and the same as transformers' own?"""

import torch
from jaxtyping import Float
from torch import Tensor

from step_saliency.models.identity import origin_of
from step_saliency.models.probes.examination import Examination
from step_saliency.models.probes.measure import (
    AGREEMENT,
    Measurement,
    at_most,
    not_measured,
    precision_of,
)
from step_saliency.models.reference import load_reference


def cached_decoding(examination: Examination) -> Measurement:
    """Does decoding with the model's cache give the logits of one forward pass?"""
    full = examination.observed.logits[:1]
    what = "cached decoding and the forward pass"
    limit = AGREEMENT[precision_of(examination.model)]
    return _logit_agreement(examination.decoded, full, what, limit)


def _logit_agreement(
    logits: Float[Tensor, "1 pos d_vocab"],
    expected: Float[Tensor, "1 pos d_vocab"],
    what: str,
    limit: float,
) -> Measurement:
    expected = expected.to(logits)
    by_position = (logits - expected).square().mean(-1).sqrt() / expected.std()
    note = f"root mean square difference between the logits of {what}, at the worst position"
    return at_most(float(by_position.max()), limit, note)


def transformers_logits(examination: Examination) -> Measurement:
    """Are the logits those of transformers, on the same weights read anew?

    A bridge's own ``original_model`` is no witness: the bridge replaces its submodules. In float64
    transformers has its softmax, norms and rotations in float32 all the same, and is as exact.
    """
    model = examination.model
    origin = origin_of(model)
    if origin is None:
        return not_measured("where the weights came from is not known")
    reference, reason = load_reference(model)
    if reference is None:
        return not_measured(reason)
    ours = examination.observed.logits[:1]
    with torch.no_grad():
        theirs = reference(examination.tokens[:1].to(reference.device)).logits.float()
    if origin.process_weights:
        ours, theirs = ours.log_softmax(-1), theirs.log_softmax(-1)
    limit = max(AGREEMENT[precision_of(model)], AGREEMENT[torch.float32])
    what = "the model and transformers"
    return _logit_agreement(ours.to(theirs.device), theirs, what, limit)
