"""Name -> model: hub ids, local Hugging Face folders, GGUF files and bundled names.

``load_model`` returns what TransformerLens would: a HookedTransformer (transformer-lens 3) or a
TransformerBridge, whose logits are those of transformers on the same weights.
"""

import copy
import os
from functools import partial
from typing import Any, Literal

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from step_saliency.models.bundled import Source
from step_saliency.models.checkpoint import read_config, read_tokenizer, read_transformers, save
from step_saliency.models.convert import (
    HOOKED_ARCHITECTURES,
    attach_tokenizer,
    from_transformers,
    has_hooked,
    hooked_config_fields,
    hooked_transformer_class,
)
from step_saliency.models.identity import Origin, record_origin
from step_saliency.models.sources import resolve_source
from step_saliency.models.unpack import unpacked

DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def load_model(
    name: str | os.PathLike[str],
    *,
    backend: Literal["auto", "hooked", "bridge"] = "auto",
    device: str | torch.device | None = None,
    dtype: torch.dtype | str = torch.float32,
    revision: str | None = None,
    trust_remote_code: bool = False,
    process_weights: bool = False,
) -> Any:
    """Load a language model as a TransformerLens object.

    Args:
        name: Bundled name (``"reasoner"``, ``"reporter"``, ``"smollm2-135m-instruct"``), folder in
            Hugging Face format or with one GGUF file, GGUF file, or hub id. A bundled name wins
            over a folder of that name; write ``./reasoner`` for the folder.
        backend: ``"hooked"`` for a HookedTransformer, ``"bridge"`` for a TransformerBridge,
            ``"auto"`` for the first with transformer-lens 3 and the second with 4.
        device: Where the weights go; None takes CUDA if there is a device, else the CPU.
        dtype: ``torch.float32``, ``float64``, ``bfloat16`` or ``float16``, or its name.
        revision: Branch, tag or commit of a hub id.
        trust_remote_code: Allow code from the checkpoint to run.
        process_weights: Let TransformerLens fold norms and centre weights. Changes what is
            measured at most hooks, so it is off by default.

    Returns:
        A HookedTransformer or TransformerBridge in eval mode, with the checkpoint's own tokenizer:
        ``model.to_tokens(text)`` gives the ids that ``model.tokenizer(text)`` gives.

    Raises:
        ValueError: for a name or a file of it that cannot be read, an architecture or dtype or
            device that cannot be had, weights that only exist as a pickle, or a tensor that is
            missing, extra or misshapen.
    """
    backend_name = _resolve_backend(backend)
    torch_dtype = _resolve_dtype(dtype)
    torch_device = _resolve_device(device)
    source = resolve_source(name)
    files = unpacked(source, partial(save, source))
    config = read_config(files, str(name), revision, trust_remote_code=trust_remote_code)
    if backend_name == "hooked":
        _check_hooked(config, source)
    tokenizer = read_tokenizer(files, str(name), revision, trust_remote_code=trust_remote_code)
    checkpoint = read_transformers(
        files, config, dtype=torch_dtype, revision=revision, trust_remote_code=trust_remote_code
    )
    commit = getattr(checkpoint.config, "_commit_hash", None) or revision
    if backend_name == "hooked" and type(checkpoint).__name__ not in HOOKED_ARCHITECTURES:
        model = _hooked_by_name(
            source.path, checkpoint, tokenizer, torch_device, process_weights=process_weights
        )
    else:
        model = from_transformers(
            checkpoint,
            tokenizer,
            backend=backend_name,
            name=str(name),
            device=torch_device,
            process_weights=process_weights,
            consume=True,
        )
    origin = Origin(
        name=str(name),
        source=source.path,
        gguf_file=source.gguf_file,
        revision=commit,
        trust_remote_code=trust_remote_code,
        process_weights=process_weights,
    )
    record_origin(model, origin, checkpoint.config, checkpoint.generation_config)
    return model


def _resolve_backend(backend: Literal["auto", "hooked", "bridge"]) -> Literal["hooked", "bridge"]:
    if backend not in ("auto", "hooked", "bridge"):
        raise ValueError(f"backend {backend!r} is not 'auto', 'hooked' or 'bridge'")
    if backend == "hooked":
        hooked_transformer_class()
        return "hooked"
    if backend == "auto" and has_hooked():
        return "hooked"
    return "bridge"


def _resolve_dtype(dtype: torch.dtype | str) -> torch.dtype:
    known = DTYPES.get(dtype.removeprefix("torch.")) if isinstance(dtype, str) else dtype
    if known is None or known not in DTYPES.values():
        raise ValueError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}")
    return known


def _resolve_device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        torch.empty(0, device=resolved)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition(". ")[0].partition("\n")[0]
        raise ValueError(f"device {str(device)!r} cannot be used here: {reason}") from error
    return resolved


def _architecture(config: Any) -> str:
    """Class name that AutoModelForCausalLM will pick; GGUF files do not say it themselves."""
    named = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type)
    if isinstance(named, str):
        return named
    return (getattr(config, "architectures", None) or [f"of type {config.model_type!r}"])[0]


def _check_hooked(config: Any, source: Source) -> None:
    """Refuse before gigabytes are read."""
    architecture = _architecture(config)
    if architecture in HOOKED_ARCHITECTURES:
        hooked_config_fields(config, architecture=architecture)
        return
    if source.is_folder or not _in_name_list(source.path):
        raise ValueError(
            f"no HookedTransformer for the architecture {architecture!r} of {source.path!r}; there "
            f"is one for {', '.join(sorted(HOOKED_ARCHITECTURES))} and for the names in "
            "transformer_lens.supported_models. Use backend='bridge'."
        )


def _in_name_list(name: str) -> bool:
    from transformer_lens.loading_from_pretrained import get_official_model_name

    try:
        get_official_model_name(name)
    except ValueError:
        return False
    return True


def _hooked_by_name(
    name: str,
    checkpoint: PreTrainedModel,
    tokenizer: Any,
    device: torch.device,
    *,
    process_weights: bool,
) -> nn.Module:
    """HookedTransformers of the remaining architectures, by TransformerLens' own name list."""
    hooked_class = hooked_transformer_class()
    load = (
        hooked_class.from_pretrained
        if process_weights
        else hooked_class.from_pretrained_no_processing
    )
    model = load(
        name,
        hf_model=checkpoint,
        tokenizer=copy.deepcopy(tokenizer),
        dtype=checkpoint.dtype,
        device=str(device),
    )
    attach_tokenizer(model, tokenizer)
    return model.eval()
