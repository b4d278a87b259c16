"""Reading config, tokenizer and weights of a source with transformers.

Weights are read from safetensors (or GGUF) only, never from pickles; code from a checkpoint runs
only if the user says so; with ``HF_HUB_OFFLINE=1`` nothing but local files is read.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
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

from step_saliency.models.bundled import Source
from step_saliency.models.folder import (
    INDEX,
    check_declared_weights,
    check_index,
    json_object,
    stored_shapes,
    weight_files,
)
from step_saliency.models.gguf import gguf_shapes, refuse_unread
from step_saliency.models.gguf_config import completed
from step_saliency.models.precision import cast_weights
from step_saliency.models.readable import reading
from step_saliency.models.tensors import check_amount, check_loaded, check_sizes, warn_of_zeros

SPLITTING_PROBES = (
    "Wait, 3 + 45 = 48, isn't it? So x_1 = \\frac{1}{2}...\n\n  Step 2:\tTHE answer's 1,234.5!",
    " naïve  Ωμέγα 数学は楽しい。\r\n\n🙂 e-mail@x.org\n",
)
"""Texts on which different rules for splitting text show: digits, spaces, cases, scripts."""


def read_config(source: Source, name: str, revision: str | None, *, trust_remote_code: bool) -> Any:
    """The transformers config of a source.

    Raises:
        ValueError: it cannot be read, or counts something as no whole number above 0.
    """
    with reading(source, name, "config"):
        config = AutoConfig.from_pretrained(
            source.path,
            revision=revision,
            trust_remote_code=trust_remote_code,
            **_gguf(source),
        )
        check_sizes(config)
        if source.gguf_file:
            config = completed(config, source.gguf_path)
    return config


def read_tokenizer(
    source: Source, name: str, revision: str | None, *, trust_remote_code: bool
) -> Any:
    """The tokenizer of a source, which splits text as its file says.

    Raises:
        ValueError: it cannot be read, or has no vocabulary.
    """
    with reading(source, name, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(
            source.path,
            revision=revision,
            trust_remote_code=trust_remote_code,
            **_gguf(source),
        )
        if not _tokenizes_as_stored(tokenizer, source, revision):
            tokenizer = PreTrainedTokenizerFast.from_pretrained(source.path, revision=revision)
        if not set(tokenizer.get_vocab()) - set(tokenizer.get_added_vocab()):
            raise ValueError("there is no vocabulary, as in a tokenizer.json")
    return tokenizer


def _tokenizes_as_stored(tokenizer: Any, source: Source, revision: str | None) -> bool:
    """Whether the tokenizer splits text as the checkpoint's tokenizer.json does.

    AutoTokenizer may pick a class by the architecture of the model, and that class brings its own
    rules for splitting text, whatever the file says.
    """
    file = _file_of(source, "tokenizer.json", revision)
    if file is None or source.gguf_file or not tokenizer.is_fast:
        return True
    stored = Tokenizer.from_file(file)
    loaded = tokenizer.backend_tokenizer
    return all(
        loaded.encode(text, add_special_tokens=False).ids
        == stored.encode(text, add_special_tokens=False).ids
        for text in SPLITTING_PROBES
    )


def _file_of(source: Source, name: str, revision: str | None) -> str | None:
    """Where a file of a folder or hub checkpoint is on this machine; None if it has none."""
    file: str | None = cached_file(
        source.path,
        name,
        revision=revision,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return file


def _gguf(source: Source) -> dict[str, str]:
    return {"gguf_file": str(source.gguf_path)} if source.gguf_file else {}


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
        ValueError: if there are no safetensors, no causal language model of that kind, or a tensor
            is missing, extra or misshapen.
    """
    options: dict[str, Any] = {**_gguf(source)} or {"use_safetensors": True}
    with reading(source, source.path, "weights"), _quiet_report():
        _check_stored(source, config, revision, trust_remote_code=trust_remote_code)
        model, info = AutoModelForCausalLM.from_pretrained(
            source.path,
            dtype=dtype,
            revision=revision,
            trust_remote_code=trust_remote_code,
            attn_implementation="eager",
            config=config,
            ignore_mismatched_sizes=True,  # refused below, by name
            output_loading_info=True,
            **options,
            **_plain_weights(source, config),
            **_plain_experts(config, dtype),
        )
        check_loaded(info)
    warn_of_zeros(model, source.path)
    if source.gguf_file:
        refuse_unread(source.gguf_path, model)
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
    cast_weights(model, dtype)
    return model.eval()


def _check_stored(
    source: Source, config: Any, revision: str | None, *, trust_remote_code: bool
) -> None:
    """Refuse names of weights that are no safetensors, and models far larger than their weights."""
    check_declared_weights(config.to_dict(), f"the config of {source.path}")
    if source.gguf_file:
        check_amount(config, gguf_shapes(source.gguf_path))
    elif source.is_folder:
        stored = stored_shapes(weight_files(Path(source.path)))
        if not trust_remote_code:
            check_amount(config, stored)
    else:
        index = _file_of(source, INDEX, revision)
        if index is not None:
            check_index(json_object(Path(index)), f"{source.path}/{INDEX}")


@contextmanager
def _quiet_report() -> Iterator[None]:
    """Context without transformers' table of missing tensors, which are refused by name here."""
    logger = logging.getLogger("transformers.modeling_utils")
    logger.addFilter(_is_no_report)
    try:
        yield
    finally:
        logger.removeFilter(_is_no_report)


def _is_no_report(record: logging.LogRecord) -> bool:
    return "LOAD REPORT" not in record.getMessage()


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
