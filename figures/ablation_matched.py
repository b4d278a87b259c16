"""Placebos that move attention, or add vectors, as much as the half that they stand for.

Results: `analyses.ablation` with ``--conditions matched``: strengths of placebos are set so that
mean KL divergence per row moved, or mean norm per injection, is that of the edit (table ``doses``
has both, measured on other solutions). The panels are those of `figures.ablation`.
"""

import pandas as pd
from matplotlib.figure import Figure

from figures import ablation
from figures.results import AnyResults

NAME = "ablation_matched"


def make(results: AnyResults) -> tuple[Figure, pd.DataFrame]:
    """The figure and the rows that it shows."""
    table = ablation.load(results, NAME)
    return ablation.draw(table), table
