"""What is trained: the configuration of a run, and the model before its first step."""

from dataclasses import dataclass
from typing import Literal

import torch
from safetensors.torch import load_model
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

Task = Literal["reasoner", "planner", "reporter"]
"""What is trained, each on problems of its own; the reporter goes on from the planner."""


@dataclass(frozen=True)
class TrainConfig:
    """Everything that the weights depend on, and how often to save and to log.

    ``start`` is a file of weights (safetensors) to begin with. ``snapshot_every`` keeps the weights
    alone of every so many steps, beside the checkpoint.
    """

    task: Task = "reasoner"
    start: str = ""
    seed: int = 0
    steps: int | None = None
    hours: float | None = None
    batch_size: int = 24
    lr: float = 3e-3
    outer_lr: float = 3e-3
    warmup: int = 100
    decay: float = 0.3
    weight_decay: float = 0.02
    grad_clip: float = 1.0
    optimizer: str = "muon"
    bfloat16: bool = True
    n_layers: int = 8
    d_model: int = 128
    d_mlp: int = 352
    checkpoint_every: int = 200
    log_every: int = 25
    held_out_every: int = 200
    snapshot_every: int = 0


def build_model(config: TrainConfig, tokenizer: PreTrainedTokenizerFast) -> Qwen2ForCausalLM:
    """A Qwen2 at the start of its training, with 4 query heads that share 2 key-value heads."""
    architecture = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=config.d_model,
        intermediate_size=config.d_mlp,
        num_hidden_layers=config.n_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=tokenizer.model_max_length,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        initializer_range=0.02,
        tie_word_embeddings=True,
        use_cache=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        attn_implementation="sdpa",
    )
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        model = Qwen2ForCausalLM(architecture)
    if config.start:
        load_model(model, config.start)
    model.generation_config.do_sample = False
    return model
