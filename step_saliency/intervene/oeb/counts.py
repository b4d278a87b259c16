"""Counters of `Effects` from what a projection did."""

from jaxtyping import Float
from torch import Tensor

from step_saliency.intervene.oeb.projection import OddsEqualShifts


def counts_by_head(shifts: OddsEqualShifts) -> dict[str, Float[Tensor, "head"]]:
    """Counters of `Effects`, from rows of shape ``batch head query``."""
    counts = {
        "rows_seen": shifts.acts,
        "rows_shifted": shifts.shifted,
        "infeasible": shifts.infeasible,
        "mass_before": shifts.mass_before,
        "mass_after": shifts.mass_after,
        "kl": shifts.divergence,
        "total_variation": shifts.variation,
    }
    return {name: rows.detach().double().sum((0, 2)) for name, rows in counts.items()}
