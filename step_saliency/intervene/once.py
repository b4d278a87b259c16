"""Results that the layers of one pass share."""

from collections.abc import Callable, Hashable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

import torch

from step_saliency.intervene.labels import StepLabels

_Options = ParamSpec("_Options")
_Result = TypeVar("_Result")


def once_per_labels(
    function: Callable[Concatenate[StepLabels, _Options], _Result],
) -> Callable[Concatenate[StepLabels, _Options], _Result]:
    """Let calls with the same labels and options share one result, as long as the labels live.

    Every pass has labels of its own, so that what its layers have in common is made once.

    Args:
        function: Of labels and hashable options; what it returns is not to be changed.
    """
    results: WeakKeyDictionary[StepLabels, dict[Hashable, _Result]] = WeakKeyDictionary()

    @wraps(function)
    def shared(labels: StepLabels, *args: _Options.args, **options: _Options.kwargs) -> _Result:
        of_labels = results.setdefault(labels, {})
        key = args, frozenset(options.items())
        if key not in of_labels:
            of_labels[key] = function(labels, *args, **options)
        return of_labels[key]

    return shared


def labels_on(labels: StepLabels, device: torch.device) -> StepLabels:
    """The labels on a device: the same object for all layers that are there."""
    return labels if labels.step.device == device else _moved(labels, device)


@once_per_labels
def _moved(labels: StepLabels, device: torch.device) -> StepLabels:
    return labels.to(device)
