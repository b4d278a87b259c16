"""Which layers, which strengths: chosen on some problems, judged on others."""

from step_saliency.calibration.calibrate import Calibration, calibrate

__all__ = ["Calibration", "calibrate"]
