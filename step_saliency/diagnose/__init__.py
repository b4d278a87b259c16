"""Shallow lock-in, deep decay, and whether correct and error traces differ in them.

The package can be called: ``diagnose(sal)`` is `step_saliency.diagnose.diagnosis.diagnose`, because
the function and the package share the name ``step_saliency.diagnose``, and importing a module binds
it there.
"""

import sys
from types import ModuleType
from typing import Any

from step_saliency.diagnose.bands import Band, Bands
from step_saliency.diagnose.comparison import compare
from step_saliency.diagnose.diagnosis import Diagnosis, diagnose

__all__ = ["Band", "Bands", "Diagnosis", "compare", "diagnose"]


class _CallablePackage(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Diagnosis:
        return diagnose(*args, **kwargs)


sys.modules[__name__].__class__ = _CallablePackage
