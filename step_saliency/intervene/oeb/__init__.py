"""The Odds-Equal Bridge: its projection as plain functions of rows, the edit, and its placebos.

What attaches edits to models lives beside this folder, and how single queries are projected inside
transformers' attention in `fast`.
"""

from step_saliency.intervene.oeb.counts import counts_by_head
from step_saliency.intervene.oeb.edit import OddsEqualBridge
from step_saliency.intervene.oeb.masses import visible_keys
from step_saliency.intervene.oeb.placebos import dosed_scores, placebo_scores
from step_saliency.intervene.oeb.projection import (
    OddsEqualFactors,
    OddsEqualShifts,
    bridge_floor,
    group_shifts,
    odds_equal_factors,
    odds_equal_shifts,
)
from step_saliency.intervene.oeb.random_bridge import random_block, random_bridge
from step_saliency.intervene.oeb.scores import odds_equal_scores, projected_scores

__all__ = [
    "OddsEqualBridge",
    "OddsEqualFactors",
    "OddsEqualShifts",
    "bridge_floor",
    "counts_by_head",
    "dosed_scores",
    "group_shifts",
    "odds_equal_factors",
    "odds_equal_scores",
    "odds_equal_shifts",
    "placebo_scores",
    "projected_scores",
    "random_block",
    "random_bridge",
    "visible_keys",
]
