"""Name -> model: hub ids, local Hugging Face folders and bundled names.

``load_model`` returns what TransformerLens would: a HookedTransformer (transformer-lens 3) or a
TransformerBridge, whose logits are those of transformers on the same weights. Weights are read
from safetensors (or GGUF) only, never from pickles; code from a checkpoint runs only if the user
says so; with ``HF_HUB_OFFLINE=1`` nothing but local files is read.
"""

import copy
import os
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from tokenizers import Tokenizer
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import cached_file

from step_saliency.models.bundled import BUNDLED, Source
from step_saliency.models.convert import (
    HOOKED_ARCHITECTURES,
    attach_tokenizer,
    from_transformers,
    has_hooked,
    hooked_config_fields,
    hooked_transformer_class,
)
from step_saliency.models.facts import device_of, dtype_of
from step_saliency.models.identity import Origin, origin_of, record_origin
from step_saliency.models.memory import free_bytes
from step_saliency.models.unpack import unpacked

SPLITTING_PROBES = (
    "Wait, 3 + 45 = 48, isn't it? So x_1 = \\frac{1}{2}...\n\n  Step 2:\tTHE answer's 1,234.5!",
    " naïve  Ωμέγα 数学は楽しい。\r\n\n🙂 e-mail@x.org\n",
)
"""Texts on which different rules for splitting text show: digits, spaces, cases, scripts."""

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
        name: Bundled name (``"reasoner"``, ``"smollm2-135m-instruct"``), folder in Hugging Face
            format, or hub id. A bundled name wins over a folder of that name; write ``./reasoner``
            for the folder.
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
        ValueError: for a name that cannot be read, an architecture or dtype or device that cannot
            be had, or weights that only exist as a pickle.
    """
    chosen = _resolve_backend(backend)
    torch_dtype = _resolve_dtype(dtype)
    torch_device = _resolve_device(device)
    source = resolve_source(name)
    files = unpacked(source, partial(_save, source))
    config = _read_config(files, str(name), revision, trust_remote_code=trust_remote_code)
    if chosen == "hooked":
        _check_hooked(config, source)
    tokenizer = _read_tokenizer(files, str(name), revision, trust_remote_code=trust_remote_code)
    checkpoint = read_transformers(
        files, config, dtype=torch_dtype, revision=revision, trust_remote_code=trust_remote_code
    )
    commit = getattr(checkpoint.config, "_commit_hash", None) or revision
    if chosen == "hooked" and type(checkpoint).__name__ not in HOOKED_ARCHITECTURES:
        model = _hooked_by_name(
            source.path, checkpoint, tokenizer, torch_device, process_weights=process_weights
        )
    else:
        model = from_transformers(
            checkpoint,
            tokenizer,
            backend=chosen,
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
    record_origin(model, origin)
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
        raise ValueError(f"device {str(device)!r} cannot be used here: {error}") from error
    return resolved


def resolve_source(name: str | os.PathLike[str]) -> Source:
    """Find out whether ``name`` is a bundled name, a folder or a hub id, without reading weights.

    Raises:
        ValueError: for a folder that does not exist or lacks config.json or safetensors.
    """
    text = os.fspath(name)
    if text in BUNDLED:
        return BUNDLED[text]()
    folder = Path(text).expanduser()
    if folder.is_dir():
        _check_folder(folder)
        return Source(str(folder))
    looks_like_path = text.startswith((".", "~", os.sep)) or text.count("/") > 1 or "\\" in text
    if looks_like_path or not text:
        raise ValueError(f"there is no folder {text!r}")
    return Source(text)


def _check_folder(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise ValueError(f"the folder {str(folder)!r} has no config.json")
    if any(folder.glob("*.safetensors")):
        return
    pickles = sorted(file.name for file in folder.glob("pytorch_model*.bin"))
    if pickles:
        raise ValueError(
            f"the folder {str(folder)!r} has its weights only as a pickle ({pickles[0]}), which "
            "can run code when it is read; save it again as safetensors "
            "(model.save_pretrained(folder))"
        )
    raise ValueError(f"the folder {str(folder)!r} has no *.safetensors file")


def _unreadable(name: str, source: Source, error: Exception) -> ValueError:
    if source.help:
        return ValueError(f"{source.help} ({error})")
    if source.is_folder:
        return ValueError(f"the folder {source.path!r} cannot be read: {error}")
    return ValueError(
        f"{name!r} is not a bundled name ({', '.join(BUNDLED)}), not a folder, and cannot be read "
        f"from the hub: {error}"
    )


def _read_config(
    source: Source, name: str, revision: str | None, *, trust_remote_code: bool
) -> Any:
    try:
        return AutoConfig.from_pretrained(
            source.path,
            revision=revision,
            trust_remote_code=trust_remote_code,
            **_gguf(source),
        )
    except (OSError, ValueError, KeyError) as error:
        raise _unreadable(name, source, error) from error


def _read_tokenizer(
    source: Source, name: str, revision: str | None, *, trust_remote_code: bool
) -> Any:
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            source.path,
            revision=revision,
            trust_remote_code=trust_remote_code,
            **_gguf(source),
        )
        if _tokenizes_as_stored(tokenizer, source, revision):
            return tokenizer
        return PreTrainedTokenizerFast.from_pretrained(source.path, revision=revision)
    except (OSError, ValueError, KeyError) as error:
        raise _unreadable(f"{name} (tokenizer)", source, error) from error


def _tokenizes_as_stored(tokenizer: Any, source: Source, revision: str | None) -> bool:
    """Whether the tokenizer splits text as the checkpoint's tokenizer.json does.

    AutoTokenizer may pick a class by the architecture of the model, and that class brings its own
    rules for splitting text, whatever the file says.
    """
    file = cached_file(
        source.path,
        "tokenizer.json",
        revision=revision,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    if file is None or source.gguf_file or not tokenizer.is_fast:
        return True
    stored = Tokenizer.from_file(file)
    loaded = tokenizer.backend_tokenizer
    return all(
        loaded.encode(text, add_special_tokens=False).ids
        == stored.encode(text, add_special_tokens=False).ids
        for text in SPLITTING_PROBES
    )


def _gguf(source: Source) -> dict[str, str]:
    return {"gguf_file": source.gguf_file} if source.gguf_file else {}


def read_transformers(
    source: Source,
    config: Any,
    *,
    dtype: torch.dtype,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """Read the weights as a transformers model on the CPU, with eager attention.

    Args:
        source: Folder or hub id.
        config: Its transformers config.
        dtype: Data type of the weights.
        revision: Branch, tag or commit of a hub id.
        trust_remote_code: Allow code from the checkpoint to run.

    Raises:
        ValueError: if there are no safetensors, or no causal language model of that kind.
    """
    options: dict[str, Any] = {**_gguf(source)} or {"use_safetensors": True}
    try:
        model = AutoModelForCausalLM.from_pretrained(
            source.path,
            dtype=dtype,
            revision=revision,
            trust_remote_code=trust_remote_code,
            attn_implementation="eager",
            config=config,
            **options,
            **_plain_weights(source, config),
            **_plain_experts(config, dtype),
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise _unreadable(source.path, source, error) from error
    if source.gguf_file and hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    return model.to(dtype).eval()


def _save(source: Source, folder: Path) -> None:
    """Save what is read of a source, in float32: 4 bytes a parameter."""
    config = _read_config(source, source.path, None, trust_remote_code=False)
    tokenizer = _read_tokenizer(source, source.path, None, trust_remote_code=False)
    tokenizer.save_pretrained(folder)
    read_transformers(source, config, dtype=torch.float32).save_pretrained(folder)


def _plain_weights(source: Source, config: Any) -> dict[str, Any]:
    """Have packed weights (GGUF, MXFP4) unpacked, so that hooks and converters see numbers."""
    quantization = getattr(config, "quantization_config", None) or {}
    if isinstance(quantization, dict) and quantization.get("quant_method") == "mxfp4":
        return {"quantization_config": transformers.Mxfp4Config(dequantize=True)}
    if source.gguf_file and hasattr(transformers, "GgufConfig"):
        return {"quantization_config": transformers.GgufConfig(dequantize=True)}
    return {}


def _plain_experts(config: Any, dtype: torch.dtype) -> dict[str, Any]:
    """The grouped matrix product of experts has no float64."""
    has_experts = getattr(config, "num_local_experts", None) or getattr(config, "num_experts", None)
    return {"experts_implementation": "eager"} if has_experts and dtype == torch.float64 else {}


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
    source = unpacked(source, partial(_save, source))
    options: dict[str, Any] = {
        "revision": origin.revision,
        "trust_remote_code": origin.trust_remote_code,
    }
    try:
        config = _read_config(source, origin.name, **options)
        reference = read_transformers(source, config, dtype=dtype_of(model), **options)
    except ValueError as error:
        return None, f"the weights cannot be read again: {error}"
    return reference.to(_roomy_device(device_of(model), n_bytes)), ""


def _roomy_device(device: torch.device, n_bytes: int) -> torch.device:
    if device.type == "cuda" and free_bytes(device) < 1.2 * n_bytes:
        return torch.device("cpu")
    return device


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
