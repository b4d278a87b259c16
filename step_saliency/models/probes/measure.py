"""What all probes share: a measurement, its threshold, and a run of the model on a few tokens."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from step_saliency.models.facts import (
    backend_of,
    config_of,
    device_of,
    dtype_of,
    n_ctx,
    n_layers,
)
from step_saliency.models.hooking import live_names

AGREEMENT = {
    torch.float64: 1e-9,
    torch.float32: 1e-4,
    torch.float16: 0.03,
    torch.bfloat16: 0.1,
}
"""Largest difference of logits or gradients that counts as equal, per precision."""
EFFECT = {torch.float64: 1e-9, torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 2e-2}
"""Smallest change of logits that counts as an effect, per precision."""
ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 0.05}
"""Largest difference of attention weights that counts as equal, per precision."""


NAMED = 3
"""Faults of one kind that are named."""


class Measurement(NamedTuple):
    """One measured value and what it is held to; without a value there was nothing to measure.

    Attributes:
        value: The measured value.
        threshold: The limit.
        passed: Whether the value is on the right side of it; None if it could not be measured.
        note: What the value is, or why there is none.
        warns: Whether the note is worth a warning, although nothing failed.
    """

    value: float | None
    threshold: float | None
    passed: bool | None
    note: str
    warns: bool = False


def not_measured(note: str) -> Measurement:
    """Nothing to measure, and why."""
    return Measurement(None, None, None, note)


def no_fault(faults: Sequence[str], otherwise: str) -> Measurement:
    """A number of faults that must be zero; the first few are named."""
    named = "; ".join(faults[:NAMED])
    more = f"; and {len(faults) - NAMED} more" if len(faults) > NAMED else ""
    return Measurement(float(len(faults)), 0.0, not faults, f"{named}{more}" or otherwise)


def warned(measurement: Measurement, note: str) -> Measurement:
    """The same, with a remark that refuses nothing."""
    return measurement._replace(note=note, warns=True)


def at_most(value: float, threshold: float, note: str) -> Measurement:
    """A value that must be small; NaN is not."""
    return Measurement(value, threshold, value <= threshold, note)


def at_least(value: float, threshold: float, note: str) -> Measurement:
    """A value that must be large; NaN is not."""
    return Measurement(value, threshold, value >= threshold, note)


def precision_of(model: Any) -> torch.dtype:
    """Data type that a forward pass is as exact as.

    That of the weights, but transformers' softmax, norms and rotations, which a bridge runs, are
    in float32 even where the weights are in float64.
    """
    dtype = dtype_of(model)
    in_float32 = dtype == torch.float64 and backend_of(model) == "bridge"
    return torch.float32 if in_float32 else dtype


def probe_tokens(model: Any, n_tokens: int) -> Int[Tensor, "2 pos"]:
    """Two sequences of the same random token ids for every model with that vocabulary."""
    generator = torch.Generator().manual_seed(0)
    n_pos = min(n_tokens, n_ctx(model))
    tokens = torch.randint(int(config_of(model).d_vocab), (2, n_pos), generator=generator)
    return tokens.to(device_of(model))


def run(model: Any, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch shown d_vocab"]:
    """Logits of a full forward pass over unpadded tokens, whatever the tokenizer's padding is."""
    logits: Tensor = model(tokens, attention_mask=torch.ones_like(tokens), return_type="logits")
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def layer_names(model: Any, *hooks: str) -> list[str]:
    """Names of the given hooks in every layer, checked to fire."""
    names = [f"blocks.{layer}.{hook}" for layer in range(n_layers(model)) for hook in hooks]
    return list(live_names(model, names))


def recorder(record: dict[str, Tensor], name: str) -> Callable[..., None]:
    """A hook that files a copy of what it is shown under a name."""

    def file_copy(tensor: Float[Tensor, "..."], hook: Any) -> None:
        record[name] = tensor.detach().clone()

    return file_copy


def worse(worst: float, differences: Float[Tensor, "..."]) -> float:
    """The larger of the two; NaN wins and stays."""
    largest = float(differences.max())
    return largest if not largest <= worst else worst
