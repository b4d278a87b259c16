"""Options of a run, checked before anything is loaded or created."""

from collections.abc import Sequence

import torch

from step_saliency.models.load import DTYPES
from step_saliency.options import METHODS, OBJECTIVES, POOLS, ROWS, check_option, is_whole
from step_saliency.runs.roles import ROLES
from step_saliency.runs.settings import MapSettings
from step_saliency.segment.formats import check_format
from step_saliency.segment.splitters import make_splitter

BACKENDS = ("auto", "hooked", "bridge")


def check_options(settings: MapSettings) -> None:
    """Raise ValueError for an option that no row can be mapped with.

    Args:
        settings: Of the run.
    """
    check_format(settings.format)
    make_splitter(settings.splitter)
    for name, known in (
        ("objective", OBJECTIVES),
        ("method", METHODS),
        ("pool", POOLS),
        ("rows", ROWS),
        ("backend", BACKENDS),
    ):
        check_option(name, getattr(settings, name), known)
    check_option("dtype", settings.dtype.removeprefix("torch."), tuple(DTYPES))
    if settings.layers is not None:
        check_layers(settings.layers)
    for role in settings.fields:
        check_option("field", role, tuple(ROLES))
    _check_device(settings.device)


def check_layers(layers: Sequence[int] | None, n_layers: int | None = None) -> None:
    """Raise ValueError for layers that are none, or that a model lacks.

    Args:
        layers: As for `step_saliency`; negative ones count from the last.
        n_layers: Of the model, where it is known.
    """
    if layers is None:
        return
    if not layers or not all(is_whole(layer) for layer in layers):
        raise ValueError(f"layers={layers!r:.80} names no layer; give whole numbers")
    beyond = [] if n_layers is None else [n for n in layers if not -n_layers <= n < n_layers]
    if beyond:
        raise ValueError(f"layers={beyond}: the model has layers 0 to {(n_layers or 0) - 1}")


def _check_device(device: str | None) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {device!r} cannot be used here: {reason}") from None
