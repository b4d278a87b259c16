"""Reading config, tokenizer and weights of a source with transformers.

Weights are read from safetensors (or GGUF) only, never from pickles; code from a checkpoint runs
only if the user says so; with ``HF_HUB_OFFLINE=1`` nothing but local files is read.
"""

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils import cached_file

from step_saliency.models.bundled import BUNDLED, Source

SPLITTING_PROBES = (
    "Wait, 3 + 45 = 48, isn't it? So x_1 = \\frac{1}{2}...\n\n  Step 2:\tTHE answer's 1,234.5!",
    " naïve  Ωμέγα 数学は楽しい。\r\n\n🙂 e-mail@x.org\n",
)
"""Texts on which different rules for splitting text show: digits, spaces, cases, scripts."""


def _unreadable(name: str, source: Source, error: Exception) -> ValueError:
    if source.help:
        return ValueError(f"{source.help} ({error})")
    if source.is_folder:
        return ValueError(f"the folder {source.path!r} cannot be read: {error}")
    return ValueError(
        f"{name!r} is not a bundled name ({', '.join(BUNDLED)}), not a folder, and cannot be read "
        f"from the hub: {error}"
    )


def read_config(source: Source, name: str, revision: str | None, *, trust_remote_code: bool) -> Any:
    try:
        return AutoConfig.from_pretrained(
            source.path,
            revision=revision,
            trust_remote_code=trust_remote_code,
            **_gguf(source),
        )
    except (OSError, ValueError, KeyError) as error:
        raise _unreadable(name, source, error) from error


def read_tokenizer(
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


def save(source: Source, folder: Path) -> None:
    """Save what is read of a source, in float32: 4 bytes a parameter."""
    config = read_config(source, source.path, None, trust_remote_code=False)
    tokenizer = read_tokenizer(source, source.path, None, trust_remote_code=False)
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
