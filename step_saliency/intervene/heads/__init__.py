"""What does a single head do? Scale it, replace it by its mean, or turn it to chosen steps.

With z_t the output of a head at query t, before the output projection, and p its attention row,

    HeadScale      z'_t = factor * z_t                    0 ablates, 1 changes nothing
    HeadMean       z'_t = mean of z over reference traces, of t's region or of all tokens
    HeadRedirect   p'   = the row q with the least KL(q || p) among those with q(B) = mass, for
                          rows with p(B) < mass; B the keys of the chosen steps

`HeadRedirect` is the projection of `oeb` with a mass and a bridge of one's own: the odds between
keys of B stay as they are, and so do those between the keys that give mass away.

Heads are named as pairs ``(3, 5)`` or as ``"L3H5"``, layer and head from 0. All three act on every
query unless ``regions`` or ``steps`` say which; both together take what is in both.

When it misleads: ablating by zero takes the model off its distribution; a mean over few tokens
carries their content with it, and later layers can make up for a missing head (compare with the
heads' direct effect before calling a head unimportant).
"""

from step_saliency.intervene.heads.edit import HeadEdit
from step_saliency.intervene.heads.mean import HeadMean, HeadMeans, mean_head_outputs
from step_saliency.intervene.heads.names import HeadNames, parse_heads
from step_saliency.intervene.heads.queries import (
    acts_in,
    check_queries,
    edited_queries,
    queries_in,
)
from step_saliency.intervene.heads.redirect import HeadRedirect
from step_saliency.intervene.heads.scale import HeadScale

__all__ = [
    "HeadEdit",
    "HeadMean",
    "HeadMeans",
    "HeadNames",
    "HeadRedirect",
    "HeadScale",
    "acts_in",
    "check_queries",
    "edited_queries",
    "mean_head_outputs",
    "parse_heads",
    "queries_in",
]
