"""What step maps say about a trace and a model: shallow lock-in, deep decay, and whether error and
correct traces differ in them. Maps come from `saliency`, intervals and tests from `stats`, pictures
from `plotting`; nothing here runs or edits a model.
"""

from step_saliency.diagnosis.change_points import BandChoice, find_bands
from step_saliency.diagnosis.comparison import compare
from step_saliency.diagnosis.curves import mean_curves
from step_saliency.diagnosis.diagnosis import Diagnosis, diagnoses_frame
from step_saliency.diagnosis.indices import diagnose
from step_saliency.models.bands import Band, Bands

__all__ = [
    "Band",
    "BandChoice",
    "Bands",
    "Diagnosis",
    "compare",
    "diagnose",
    "diagnoses_frame",
    "find_bands",
    "mean_curves",
]
