"""The transformers model behind a TransformerLens object, for what needs no hooks.

    transformers model       itself
    loaded by `load_model`   the checkpoint's own modules on the model's very weights (`shared`);
                             where weights were computed, read once more and kept beside it
    any other bridge         the model inside it, whose attention is asked without the bridge's

Weights that were replaced or changed in place, also through ``.data``, since a reference model was
made have it made anew; one that would have to be read again is not to be had then. What of such
changes is not seen is said in `contents`; `check_reference_model` compares logits before each use.
"""

from contextlib import nullcontext
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from step_saliency.models.adapter import attending_by
from step_saliency.models.bundled import Source
from step_saliency.models.checkpoint import read_config, read_transformers, save
from step_saliency.models.facts import backend_of, device_of, dtype_of
from step_saliency.models.hooking import without_hooks
from step_saliency.models.identity import WeightsState, is_changed, origin_of
from step_saliency.models.interrupts import together, uninterrupted
from step_saliency.models.memory import free_bytes
from step_saliency.models.precision import HALF, Widened, rounded_rotations
from step_saliency.models.shared import refilled
from step_saliency.models.unpack import unpacked

CHECKED_TOKENS = 32
TOLERANCE = {torch.float64: 1e-4}
"""In float64 transformers has its softmax and norms in float32, which differ by some 1e-6."""
WIDE_TOLERANCE = 2e-3
"""In float32, which half precision is compared in too."""
ROUNDED_TWICE = ("gemma", "gpt_oss")
"""Kinds whose weights a HookedTransformer computes from (1 + w of norms, experts) and rounds."""

_REFERENCE_MODELS: "WeakKeyDictionary[nn.Module, tuple[PreTrainedModel, WeightsState]]" = (
    WeakKeyDictionary()
)
"""Reference models, and the state of the weights that they were made of."""


def reference_model(model: Any) -> PreTrainedModel:
    """The transformers model with the weights of a model; made at most once.

    Args:
        model: HookedTransformer, TransformerBridge or transformers model.

    Raises:
        ValueError: there is none to be had, and why.
    """
    if isinstance(model, PreTrainedModel):
        return model
    is_bridge = backend_of(model) == "bridge"
    if origin_of(model) is None and is_bridge and isinstance(model.original_model, PreTrainedModel):
        inner: PreTrainedModel = model.original_model
        return inner
    known = _REFERENCE_MODELS.get(model)
    if known is not None and known[1].is_still(model):
        return known[0]
    _REFERENCE_MODELS.pop(model, None)
    state = WeightsState.of(model)
    reference = _made(model)
    if isinstance(reference, str):
        raise ValueError(f"there is no transformers model to decode with: {reference}")
    _REFERENCE_MODELS[model] = reference, state
    return reference


def has_reference_model(model: Any) -> bool:
    """Whether a reference model is to be had without reading weights."""
    if isinstance(model, PreTrainedModel) or model in _REFERENCE_MODELS:
        return True
    return origin_of(model) is None and backend_of(model) == "bridge"


def is_inside(model: Any, reference: PreTrainedModel) -> bool:
    """Whether the reference model is the one inside a bridge."""
    return getattr(model, "original_model", None) is reference


def _made(model: Any) -> PreTrainedModel | str:
    origin = origin_of(model)
    if origin is not None and origin.process_weights:
        return "the weights were processed (process_weights=True), so values differ"
    shared = refilled(model)
    if shared is not None:
        return shared
    if is_changed(model):
        return "its weights were changed since they were loaded"
    reference, why = load_reference(model)
    if reference is None:
        return why
    if reference.device.type != device_of(model).type:
        return f"no memory for a second copy on {device_of(model)}"
    return reference.requires_grad_(False)


def load_reference(model: nn.Module) -> tuple[PreTrainedModel | None, str]:
    """Read the transformers model that ``model`` was made from once more, to compare with.

    Args:
        model: A model that ``load_model`` returned.

    Returns:
        The transformers model, on the device of ``model`` if it fits there, else on the CPU; or
        None and the reason why there is none.
    """
    origin = origin_of(model)
    if origin is None:
        return None, "the model was not loaded by load_model"
    n_bytes = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    if n_bytes > free_bytes(torch.device("cpu")) / 2:
        return None, f"no memory for a second copy of {n_bytes / 2**30:.1f} GiB"
    source = Source(origin.source, gguf_file=origin.gguf_file)
    source = unpacked(source, partial(save, source))
    options: dict[str, Any] = {
        "revision": origin.revision,
        "trust_remote_code": origin.trust_remote_code,
    }
    try:
        config = read_config(source, origin.name, **options)
        reference = read_transformers(source, config, dtype=dtype_of(model), **options)
    except ValueError as error:
        return None, f"the weights cannot be read again: {error}"
    return reference.to(_roomy_device(device_of(model), n_bytes)), ""


def _roomy_device(device: torch.device, n_bytes: int) -> torch.device:
    if device.type == "cuda" and free_bytes(device) < 1.2 * n_bytes:
        return torch.device("cpu")
    return device


@torch.no_grad()
def own_predictions(
    model: Any, reference: PreTrainedModel, tokens: list[int]
) -> Float[Tensor, "batch pos vocab"]:
    """Log-probabilities over a few last tokens by a model itself, in float32 at least.

    Where the reference model is the model, or inside of it, this is to be asked before another
    attention takes its place.
    """
    dtype, batch = dtype_of(model), _last_tokens(model, tokens)
    mask = torch.ones_like(batch)
    rounded = (rounded_rotations(model, dtype), rounded_rotations(reference, dtype), Widened())
    with together(*rounded, without_hooks(reference)):
        if model is not reference:
            return _log_probabilities(
                _pass(model, batch, return_type="logits", attention_mask=mask)
            )
        own = str(getattr(model.config, "_attn_implementation", ""))
        kernel = attending_by(model, "sdpa") if "flash" in own else nullcontext()  # no float32
        with kernel:
            said = _pass(model, batch, attention_mask=mask, use_cache=False)
            return _log_probabilities(said.logits)


@uninterrupted
def _pass(model: Any, tokens: Int[Tensor, "batch pos"], **options: Any) -> Any:
    """What a model says of a few tokens."""
    return model(tokens, **options)


def _last_tokens(model: Any, tokens: list[int]) -> Int[Tensor, "batch pos"]:
    return torch.tensor([tokens[-CHECKED_TOKENS:]], device=device_of(model))


@torch.no_grad()
def check_reference_model(
    model: Any,
    reference: PreTrainedModel,
    tokens: list[int],
    own: Float[Tensor, "batch pos vocab"] | None = None,
) -> None:
    """Compare the predictions over a few last tokens, in float32 at least.

    Args:
        model: The model.
        reference: Its reference model, as it would decode: with another attention, if it has one.
        tokens: A prompt.
        own: `own_predictions` of the model; by default they are asked for now, which says nothing
            of a model that is its own reference model.

    In half precision two classes of model round differently, by up to 2 in log probability. What
    they compute in float32 from the same half-precision weights is the same. Only a
    HookedTransformer of a kind in `ROUNDED_TWICE` may differ, by as much as half precision costs
    the reference model.

    Raises:
        ValueError: they differ by more, as after the model's weights were changed, or are not
            finite.
    """
    if own is None:
        own = own_predictions(model, reference, tokens)
    dtype, batch = dtype_of(model), _last_tokens(model, tokens)
    wide = (rounded_rotations(model, dtype), rounded_rotations(reference, dtype), Widened())
    with together(*wide, without_hooks(reference)):
        expected = _log_probabilities(_pass(reference, batch, use_cache=False).logits)
    difference = float((own - expected).abs().max())
    if difference <= TOLERANCE.get(dtype, WIDE_TOLERANCE):
        return
    if dtype in HALF and _rounds_twice(model, reference):
        rounded = _log_probabilities(reference(batch, use_cache=False).logits)
        if _root_mean_square(own - expected) <= _root_mean_square(rounded - expected):
            return
    if model is reference or is_inside(model, reference):
        raise OwnAttentionError(
            f"the attention of {type(reference).__name__} is not what its weights give: without it "
            f"predictions differ by {difference:.2g} in log probability"
        )
    raise ValueError(
        f"the predictions of the model and of its weights as they were loaded differ by "
        f"{difference:.2g} in log probability, as after weights were changed; "
        "use method='hooks'"
    )


class OwnAttentionError(ValueError):
    """A model attends in another way than any attention could that takes the place of its own."""


def _rounds_twice(model: Any, reference: PreTrainedModel) -> bool:
    kind = reference.config.model_type
    return backend_of(model) == "hooked" and kind.startswith(ROUNDED_TWICE)


def _root_mean_square(values: Float[Tensor, "..."]) -> float:
    return float(values.square().mean().sqrt())


def _log_probabilities(logits: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Log-probabilities of what is at all probable."""
    return logits.double().cpu().log_softmax(-1).clamp(min=-12)
