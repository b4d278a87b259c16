"""Small random models of every architecture that the toolkit claims, on the CPU and offline.

Both backends of one ``(arch, seed)`` carry the same weights. Those are drawn ten times wider than
transformers draws them, and biases and norms are random too, so that attention is neither uniform
nor one-hot and no gradient vanishes by accident.
"""

from functools import cache
from typing import Any, Literal, get_args

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    GptOssConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from step_saliency.models.convert import from_transformers, has_hooked

Arch = Literal[
    "gpt2-like",
    "llama",
    "llama3-rope",
    "qwen2",
    "qwen3",
    "mistral",
    "gemma2",
    "gemma3",
    "gpt_oss",
    "neox",
]
Backend = Literal["hooked", "bridge"]

ARCHS: tuple[Arch, ...] = get_args(Arch)
BACKENDS: tuple[Backend, ...] = ("hooked", "bridge") if has_hooked() else ("bridge",)
"""What the installed TransformerLens can be tested with."""
BACKEND: Backend = BACKENDS[0]
"""The default backend of the installed TransformerLens."""

WINDOW = 6
SPECIAL_TOKENS = (
    "<|pad|>",
    "<|begin|>",
    "<|end|>",
    "<|user|>",
    "<|assistant|>",
    "<|system|>",
    "<think>",
    "</think>",
    "<|start|>",
    "<|channel|>",
    "<|message|>",
)
CORPUS = (
    "First, let me think about the question. The answer is 42, so we add 3 and 4 to get 7.",
    "Wait, that is wrong. Therefore x = 12 and the final answer is \\boxed{12}.",
    "Step 1: the number of apples is 5. Step 2: the total is 5 + 7 = 12.",
)
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


@cache
def _byte_level_bpe() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer.to_str()


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with offsets, special tokens and a chat template.

    It round-trips any text and adds no BOS by itself.
    """
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_byte_level_bpe()),
        pad_token="<|pad|>",
        bos_token="<|begin|>",
        eos_token="<|end|>",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def tiny_config(
    arch: Arch,
    *,
    n_layers: int = 3,
    n_heads: int = 4,
    n_kv_heads: int = 2,
    d_head: int = 12,
    d_model: int = 32,
    n_ctx: int = 512,
    window: int = WINDOW,
) -> Any:
    """A transformers config; ``d_head`` counts where it may differ from d_model / n_heads."""
    tokenizer = tiny_tokenizer()
    ids = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    shape = {
        **ids,
        "hidden_size": d_model,
        "intermediate_size": 2 * d_model,
        "num_hidden_layers": n_layers,
        "num_attention_heads": n_heads,
        "max_position_embeddings": n_ctx,
    }
    grouped = {**shape, "num_key_value_heads": n_kv_heads}
    with_head = {**grouped, "head_dim": d_head}
    alternating = [("sliding_attention", "full_attention")[i % 2] for i in range(n_layers)]
    windowed = {**with_head, "sliding_window": window, "layer_types": alternating}
    match arch:
        case "gpt2-like":
            return GPT2Config(
                **ids, n_embd=d_model, n_layer=n_layers, n_head=n_heads, n_positions=n_ctx
            )
        case "llama":
            return LlamaConfig(**with_head)
        case "llama3-rope":
            return LlamaConfig(**grouped, rope_parameters=_llama3_rope(n_ctx))
        case "qwen2":
            return Qwen2Config(**grouped, tie_word_embeddings=True)
        case "qwen3":
            return Qwen3Config(**with_head)
        case "mistral":
            return MistralConfig(**with_head, sliding_window=window)
        case "gemma2":
            return Gemma2Config(
                **windowed,
                query_pre_attn_scalar=d_head + 3,
                attn_logit_softcapping=2.0,
                final_logit_softcapping=5.0,
            )
        case "gemma3":
            return Gemma3TextConfig(**windowed, query_pre_attn_scalar=d_head + 3)
        case "gpt_oss":
            return GptOssConfig(
                **windowed,
                num_local_experts=4,
                num_experts_per_tok=2,
                rope_parameters=_yarn_rope(n_ctx),
            )
        case "neox":
            return GPTNeoXConfig(**shape, rotary_pct=0.5)


def _llama3_rope(n_ctx: int) -> dict[str, Any]:
    return {
        "rope_type": "llama3",
        "rope_theta": 500.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": n_ctx // 8,
    }


def _yarn_rope(n_ctx: int) -> dict[str, Any]:
    return {
        "rope_type": "yarn",
        "rope_theta": 1000.0,
        "factor": 4.0,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "truncate": False,
        "original_max_position_embeddings": n_ctx // 4,
    }


def tiny_transformers(
    arch: Arch, *, seed: int = 0, dtype: torch.dtype = torch.float32, **shape: int
) -> PreTrainedModel:
    """The random transformers model that both backends are made from."""
    config = tiny_config(arch, **shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(
            config, attn_implementation="eager", **_exact_experts(arch)
        )
    return draw_weights(model, seed=seed).to(dtype)


def draw_weights(model: PreTrainedModel, *, seed: int = 0) -> PreTrainedModel:
    """The same model in evaluation mode, with weights that leave no gradient small by accident."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        _draw(name, parameter, generator)
    return model.eval()


def _exact_experts(arch: Arch) -> dict[str, str]:
    """The grouped matrix product of experts has no float64."""
    return {"experts_implementation": "eager"} if arch == "gpt_oss" else {}


@torch.no_grad()
def _draw(name: str, parameter: nn.Parameter, generator: torch.Generator) -> None:
    noise = torch.randn(parameter.shape, generator=generator)
    centred_on_one = "norm" in name or ".ln_" in name
    if centred_on_one and name.endswith("weight"):
        parameter.copy_(1.0 + 0.2 * noise)
    elif name.endswith("sinks"):
        parameter.copy_(noise)
    else:
        parameter.copy_(0.25 * noise)


def tiny_model(
    arch: Arch = "qwen2",
    *,
    seed: int = 0,
    backend: Backend = BACKEND,
    dtype: torch.dtype = torch.float32,
    n_layers: int = 3,
    n_heads: int = 4,
    n_kv_heads: int = 2,
    d_head: int = 12,
    d_model: int = 32,
    n_ctx: int = 512,
    window: int = WINDOW,
) -> Any:
    """A small random model with a tokenizer, as a HookedTransformer or a TransformerBridge.

    Example:
        >>> model = tiny_model("qwen2", backend="bridge")
        >>> model(model.tokenizer("3 + 4 = 7", return_tensors="pt").input_ids).shape
    """
    model = tiny_transformers(
        arch,
        seed=seed,
        dtype=dtype,
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        d_head=d_head,
        d_model=d_model,
        n_ctx=n_ctx,
        window=window,
    )
    return from_transformers(model, tiny_tokenizer(), backend=backend, name=f"tiny-{arch}")


def random_tokens(n_pos: int, *, batch: int = 1, seed: int = 0) -> torch.Tensor:
    """Token ids without special ones, shape ``batch pos``."""
    generator = torch.Generator().manual_seed(seed)
    low, high = len(SPECIAL_TOKENS), len(tiny_tokenizer())
    return torch.randint(low, high, (batch, n_pos), generator=generator)
