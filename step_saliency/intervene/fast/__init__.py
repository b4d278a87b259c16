"""The same edits inside transformers' own attention: no hook points, no scores of all pairs.

A registered attention function gets the queries of a pass with the keys and values of all cached
positions. Where no edit of the layer can act, it hands them to SDPA. Where an odds-equal bridge
acts on single queries, the attention row p is re-weighted group by group, since a shift of the
scores by s_B on the bridge B and s_S on the current part S changes nothing but their softmax sums:

    q[k] = p[k] * f_B  (k in B),   p[k] * f_S  (k in S),   p[k]  (else)

with factors f from the three sums alone (`odds_equal_factors`). Scores are formed in float32 at
least: in half precision rounded scores would move rows that are left alone, and miss tau_B. Other
edits of scores get the scores of a block of queries at a time. Edits of head outputs act on what
attention returns, edits of residuals on what a decoder layer returns.

When it misleads: a row that is left alone in a layer that acts is that of another kernel than SDPA,
and differs from it by as much as the model's type rounds outputs. An architecture whose attention
or residual does more than the adapter shows would be edited elsewhere than by hooks.
"""

from step_saliency.intervene.fast.attach import fast_session
from step_saliency.intervene.fast.session import FastSession

__all__ = ["FastSession", "fast_session"]
