"""Shallow lock-in, deep decay, and whether correct and error traces differ in them."""

from step_saliency.diagnosis.change_points import BandChoice, find_bands
from step_saliency.diagnosis.comparison import compare
from step_saliency.diagnosis.curves import mean_curves
from step_saliency.diagnosis.diagnosis import Diagnosis, diagnose
from step_saliency.models.bands import Band, Bands

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
