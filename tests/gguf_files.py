"""Small GGUF files, written as llama.cpp's converters write them."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gguf
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

ARCHITECTURES = {"gemma3_text": "gemma3", "qwen2_moe": "qwen2moe", "qwen3_moe": "qwen3moe"}
"""Names in GGUF of model types that have another name there."""
NORMAL, CONTROL = 1, 3
PLUS_ONE = ("gemma2", "gemma3", "nemotron")
"""Architectures whose norms GGUF stores with one added."""
TRANSPOSED = ("attn_qkv.weight", "attn_output.weight", "ffn_up.weight", "ffn_down.weight")
"""Matrices of GPT-2, which transformers keeps transposed."""


def write_gguf(
    file: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    *,
    without: str | None = None,
    extra: dict[str, Sequence[float]] | None = None,
    name: str = "tiny",
    scaling: gguf.RopeScalingType | None = None,
) -> None:
    """Write a model in float32, with its tokenizer.

    Args:
        file: Where.
        model: A transformers model.
        tokenizer: A byte-level BPE tokenizer.
        without: GGUF name of a tensor to leave out.
        extra: Tensors to add, by their names in GGUF.
        name: What the file calls the model.
        scaling: Kind of scaled rotations that the file tells of, by a factor of 2.
    """
    config = model.config
    arch = ARCHITECTURES.get(config.model_type, config.model_type)
    writer = gguf.GGUFWriter(file, arch)
    writer.add_name(name)
    if scaling is not None:
        writer.add_rope_scaling_type(scaling)
        writer.add_rope_scaling_factor(2.0)
    _write_config(writer, config)
    _write_tokenizer(writer, tokenizer)
    for gguf_name, weight in _tensors(model, arch):
        if gguf_name != without:
            writer.add_tensor(gguf_name, weight.contiguous().numpy())
    for gguf_name, values in (extra or {}).items():
        writer.add_tensor(gguf_name, torch.tensor(values, dtype=torch.float32).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_config(writer: gguf.GGUFWriter, config: Any) -> None:
    def fact(*names: str) -> Any:
        return next((getattr(config, n) for n in names if getattr(config, n, None)), None)

    rope = fact("rope_parameters") or {}
    facts = {
        writer.add_block_count: fact("num_hidden_layers"),
        writer.add_context_length: fact("max_position_embeddings"),
        writer.add_embedding_length: fact("hidden_size"),
        writer.add_feed_forward_length: fact("intermediate_size") or 4 * config.hidden_size,
        writer.add_head_count: fact("num_attention_heads"),
        writer.add_head_count_kv: fact("num_key_value_heads", "num_attention_heads"),
        writer.add_layer_norm_rms_eps: fact("rms_norm_eps", "norm_eps"),
        writer.add_layer_norm_eps: fact("layer_norm_epsilon", "norm_epsilon", "layer_norm_eps"),
        writer.add_rope_freq_base: rope.get("full_attention", rope).get("rope_theta"),
        writer.add_vocab_size: config.vocab_size,
        writer.add_key_length: fact("head_dim"),
        writer.add_value_length: fact("head_dim"),
        writer.add_sliding_window: fact("sliding_window"),
        writer.add_expert_count: fact("num_experts"),
        writer.add_expert_used_count: fact("num_experts") and config.num_experts_per_tok,
    }
    if config.model_type in ("llama", "mistral"):
        facts[writer.add_rope_dimension_count] = fact("head_dim")
    for add, value in facts.items():
        if value is not None:
            add(value)


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


def _tensors(model: PreTrainedModel, arch: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors by their names in GGUF."""
    config = model.config
    key = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == arch)
    names = gguf.get_tensor_name_map(key, config.num_hidden_layers)
    for name, weight in model.state_dict().items():
        stem, _, suffix = name.rpartition(".")
        if "experts." in name and suffix.endswith("_proj"):
            yield from _experts(name, weight)
        elif not (config.tie_word_embeddings and stem == "lm_head"):
            gguf_stem = names.get_name(stem) or names.get_name(stem.removeprefix("transformer."))
            gguf_name = f"{gguf_stem}.{suffix}"
            yield gguf_name, _as_stored(weight, gguf_name, arch, config)


def _experts(name: str, weight: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    block = f"blk.{name.split('.')[2]}.ffn"
    if name.endswith("down_proj"):
        yield f"{block}_down_exps.weight", weight
    else:
        gate, up = weight.chunk(2, dim=1)
        yield f"{block}_gate_exps.weight", gate
        yield f"{block}_up_exps.weight", up


def _as_stored(weight: torch.Tensor, name: str, arch: str, config: Any) -> torch.Tensor:
    heads = config.num_attention_heads
    if arch in PLUS_ONE and name.endswith("norm.weight"):
        return weight + 1
    if arch == "gpt2" and name.endswith(TRANSPOSED):
        return weight.T
    if arch == "bloom" and "attn_qkv" in name:
        by_head = weight.reshape(heads, 3, config.hidden_size // heads, *weight.shape[1:])
        return by_head.transpose(0, 1).reshape(weight.shape)
    if name.endswith("ffn_gate_inp_shexp.weight"):
        return weight[0]
    return _permuted(weight, name, config) if arch == "llama" else weight


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
