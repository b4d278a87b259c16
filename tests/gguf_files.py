"""Small GGUF files, written as llama.cpp's converters write them."""

import json
from pathlib import Path
from typing import Any

import gguf
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
}
NORMAL, CONTROL = 1, 3


def write_gguf(
    file: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    *,
    without: str | None = None,
    extra: str | None = None,
) -> None:
    """Write a model in float32, with its tokenizer.

    Args:
        file: Where.
        model: A llama, qwen2 or qwen3.
        tokenizer: A byte-level BPE tokenizer.
        without: GGUF name of a tensor to leave out.
        extra: GGUF name of a tensor to add.
    """
    kind = model.config.model_type
    writer = gguf.GGUFWriter(file, kind)
    _write_config(writer, model.config)
    _write_tokenizer(writer, tokenizer)
    names = gguf.get_tensor_name_map(ARCHITECTURES[kind], model.config.num_hidden_layers)
    tied = model.config.tie_word_embeddings
    for name, weight in model.state_dict().items():
        stem, _, suffix = name.rpartition(".")
        gguf_name = f"{names.get_name(stem)}.{suffix}"
        if gguf_name != without and not (tied and stem == "lm_head"):
            stored = _permuted(weight, gguf_name, model.config) if kind == "llama" else weight
            writer.add_tensor(gguf_name, stored.contiguous().numpy())
    if extra:
        writer.add_tensor(extra, torch.ones(4).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_config(writer: gguf.GGUFWriter, config: Any) -> None:
    writer.add_name("tiny")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    if getattr(config, "head_dim", None):
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
        writer.add_rope_dimension_count(config.head_dim)


def _write_tokenizer(writer: gguf.GGUFWriter, tokenizer: PreTrainedTokenizerFast) -> None:
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    ids = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    special = set(tokenizer.get_added_vocab())
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([token for token, _ in ids])
    writer.add_token_types([CONTROL if token in special else NORMAL for token, _ in ids])
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in model["merges"]])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_chat_template(tokenizer.chat_template)


def _permuted(weight: torch.Tensor, name: str, config: Any) -> torch.Tensor:
    """Queries and keys of a llama as GGUF orders them: the two halves of a head interleaved."""
    heads = {
        "attn_q": config.num_attention_heads,
        "attn_k": config.num_key_value_heads,
    }.get(name.split(".")[-2])
    if heads is None:
        return weight
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)
