"""Layers and strengths of `StepFlow`: chosen on some problems, judged on others.

Responses come from `decoding`, intervals from `stats`, edits from `intervene`; nothing of these is
done here.
"""

from step_saliency.calibration.calibrate import calibrate
from step_saliency.calibration.result import Calibration

__all__ = ["Calibration", "calibrate"]
