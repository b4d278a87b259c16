"""Shallow lock-in, deep decay, and whether correct and error traces differ in them."""

from step_saliency.diagnose.bands import Band, Bands
from step_saliency.diagnose.change_points import BandChoice, find_bands
from step_saliency.diagnose.comparison import compare
from step_saliency.diagnose.curves import mean_curves
from step_saliency.diagnose.diagnosis import Diagnosis, diagnose

__all__ = [
    "Band",
    "BandChoice",
    "Bands",
    "Diagnosis",
    "compare",
    "diagnose",
    "find_bands",
    "mean_curves",
]
