"""Are all weights finite, and are they those of one training?

A tensor that a checkpoint lacked is left as it was drawn or set at first. Among tensors that were
trained it stands out:

    constant    a norm of exact ones, a bias or matrix of exact zeros, where those of the same name
                in other layers are not
    fresh       a matrix whose entries are independent numbers of one spread: the mean squares of
                its rows and of its columns vary as chance has it, its kurtosis is that of a normal
                or uniform distribution, and its spread is one that initialisers use

A model in which most matrices are fresh was never trained, which is worth a remark and no refusal.

When it misleads: a trained matrix can look fresh by two of these signs (values and outputs of small
models do), which is why all of them must hold; one that was drawn with an unusual spread, or is
small, is not recognised.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from step_saliency.models.facts import config_of, text_config_of
from step_saliency.models.probes.examination import Examination
from step_saliency.models.probes.measure import Measurement, no_fault, warned

MOST_ROWS, MOST_COLUMNS = 512, 4096
"""Of larger matrices, rows and columns at equal distances are looked at."""
LEAST_SIDE, LEAST_ENTRIES = 32, 4096
LEAST_JUDGED = 8
"""Matrices of which most have to be trained, before one that is not stands out."""
STANDARD_ERRORS = 5.0
USUAL_SPREAD = 0.02
SAME_SPREAD = 0.03
"""Share by which a spread may be off that of an initialiser, beyond chance."""
NUMBERED = re.compile(r"\b\d+\b\.?|_original_component\.?")


class Weight(NamedTuple):
    """A parameter, by its name and by what it is in every layer."""

    name: str
    kind: str
    values: Tensor


@torch.no_grad()
def finite_weights(examination: Examination) -> Measurement:
    """Is there no NaN and no infinity in any parameter?"""
    faults = [f"{w.name} has NaN or inf" for w in _weights(examination.model) if _has_nan(w)]
    return no_fault(faults, "no NaN or inf in any tensor")


def _has_nan(weight: Weight) -> bool:
    values = weight.values
    if not values.is_floating_point() or values.numel() == 0:
        return False
    return not all(bool(extreme.isfinite()) for extreme in torch.aminmax(values))


@torch.no_grad()
def trained_weights(examination: Examination) -> Measurement:
    """Is no tensor as it was before training, where the others are not?"""
    weights = [weight for weight in _weights(examination.model) if not _has_nan(weight)]
    # processing folds norms into what reads them, those of queries and keys excepted
    is_folded = bool(getattr(examination.model, "compatibility_mode", False))
    alone = [w for w in _alone_constant(weights) if not (is_folded and _is_norm(w))]
    faults = [f"{weight.name} is constant" for weight in alone]
    matrices = [w for w in weights if _is_judged(w.values) and not _is_constant(w.values)]
    spreads = initial_spreads(examination.model)
    fresh = [weight for weight in matrices if is_fresh(weight.values, spreads)]
    if len(matrices) < LEAST_JUDGED:
        return no_fault(faults, "no tensor is constant, and too few are large enough to judge more")
    if 2 * len(fresh) <= len(matrices):
        faults += [f"{weight.name} looks freshly initialised" for weight in fresh]
        return no_fault(faults, "no tensor looks freshly initialised or constant")
    untrained = "the model looks untrained: most matrices are as initialisers draw them"
    return warned(no_fault(faults, untrained), "; ".join([*faults[:3], untrained]))


def _weights(model: Any) -> list[Weight]:
    return [Weight(_plain(name), _kind(name), p) for name, p in model.named_parameters()]


def _plain(name: str) -> str:
    return name.replace("_original_component.", "")


def _kind(name: str) -> str:
    """The name without numbers of layers."""
    return NUMBERED.sub("", name)


def _is_constant(values: Tensor) -> bool:
    flat = values.reshape(-1)
    return len(flat) > 1 and bool((flat[:64] == flat[0]).all()) and bool((flat == flat[0]).all())


def _alone_constant(weights: list[Weight]) -> Iterable[Weight]:
    """Constant tensors whose like in other layers, or all matrices, or all norms, are not."""
    groups: dict[str, list[Weight]] = defaultdict(list)
    for weight in weights:
        groups[weight.kind].append(weight)
    for group in groups.values():
        constant = [weight for weight in group if _is_constant(weight.values)]
        if constant and 2 * len(constant) <= len(_peers(group, weights)) - len(constant):
            yield from constant


def _peers(group: list[Weight], weights: list[Weight]) -> list[Weight]:
    """What a tensor is compared with."""
    if len(group) > 1:
        return group
    (one,) = group
    if one.values.ndim > 1:
        return [w for w in weights if w.values.ndim > 1 and not _is_constant(w.values)] + group
    if _is_norm(one):
        return [w for w in weights if _is_norm(w) and not _is_constant(w.values)] + group
    return group


def _is_norm(weight: Weight) -> bool:
    of_norm = "norm" in weight.kind or ".ln" in weight.kind or weight.kind.startswith("ln")
    return of_norm and weight.kind.endswith((".weight", ".w"))


def _is_judged(values: Tensor) -> bool:
    sides = values.shape[-1], values[..., 0].numel()
    return values.ndim > 1 and min(sides) >= LEAST_SIDE and math.prod(sides) >= LEAST_ENTRIES


def initial_spreads(model: Any) -> tuple[float, ...]:
    """Standard deviations that initialisers of such a model draw with, beside those of shapes."""
    configs = (config_of(model), text_config_of(model))
    named = [getattr(config, "initializer_range", None) for config in configs]
    gpt2_like = 0.8 / math.sqrt(int(config_of(model).d_model))  # TransformerLens' own
    return (USUAL_SPREAD, gpt2_like, *(float(x) for x in named if x and x > 0))


def is_fresh(values: Float[Tensor, "..."], spreads: Iterable[float]) -> bool:
    """Whether a matrix is one of independent numbers of a spread that initialisers use.

    Args:
        values: The matrix; of more axes, the last against the others.
        spreads: Standard deviations that count, beside 1 / sqrt(3 n) of torch's own linear layers.
    """
    matrix = _thinned(values.reshape(-1, values.shape[-1])).double()
    n_rows, n_columns = matrix.shape
    square = matrix.square().mean()
    spread = float(square.sqrt())
    if spread == 0.0:
        return False
    kurtosis = float((matrix / spread).pow(4).mean())
    chance = STANDARD_ERRORS * math.sqrt(0.5 / matrix.numel())
    sides = {n for side in values.shape for n in (side, values.numel() // side)}
    known = (*spreads, *(1 / math.sqrt(3 * side) for side in sides))
    return (
        1.7 < kurtosis < 3.0 + STANDARD_ERRORS * math.sqrt(24 / matrix.numel())
        and any(abs(spread / one - 1) < SAME_SPREAD + chance for one in known)
        and _varies_by_chance(matrix, kurtosis, n_rows)
        and _varies_by_chance(matrix.T, kurtosis, n_columns)
    )


def _varies_by_chance(matrix: Float[Tensor, "row column"], kurtosis: float, n_rows: int) -> bool:
    """Whether rows have mean squares as different as those of independent numbers."""
    squares = matrix.square().mean(1)
    expected = (kurtosis - 1) * squares.mean().square() / matrix.shape[1]
    return float(squares.var() / expected) < 1 + STANDARD_ERRORS * math.sqrt(2 / n_rows)


def _thinned(matrix: Float[Tensor, "row column"]) -> Float[Tensor, "some_rows some_columns"]:
    rows, columns = matrix.shape
    return matrix[:: math.ceil(rows / MOST_ROWS), :: math.ceil(columns / MOST_COLUMNS)]
