"""Do edits at hooks change the logits, in every layer?

A hook whose edit is dropped gives a difference of exactly zero, or of rounding. Where an edit does
pass, this does not tell whether it is the right one.
"""

from step_saliency.models.probes.examination import Examination
from step_saliency.models.probes.measure import EFFECT, Measurement, at_least, precision_of


def score_edits(examination: Examination) -> Measurement:
    """Do edits of attention scores change logits, in every layer?"""
    return _edit_measurement(examination, "attn.hook_attn_scores")


def head_edits(examination: Examination) -> Measurement:
    """Do edits of head outputs change logits, in every layer?"""
    return _edit_measurement(examination, "attn.hook_z")


def residual_edits(examination: Examination) -> Measurement:
    """Do edits of the residual stream after a block change logits, in every layer?"""
    return _edit_measurement(examination, "hook_resid_post")


def _edit_measurement(examination: Examination, hook: str) -> Measurement:
    if hook not in examination.effects:
        raise ValueError(f"{hook} does not fire in every layer")
    effects = examination.effects[hook]
    layer = int(effects.nan_to_num(nan=-1.0).argmin())
    note = f"smallest change of logits by an edit at {hook}, in layer {layer}"
    return at_least(float(effects[layer]), EFFECT[precision_of(examination.model)], note)
