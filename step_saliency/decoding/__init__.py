"""Questions in, traces out: rows, stop rules, sampling, two loops that draw tokens, and the vote.

Edits of the model come from `intervene`; no maps are made here.
"""

from step_saliency.decoding.continuation import Continuation

__all__ = ["Continuation"]
