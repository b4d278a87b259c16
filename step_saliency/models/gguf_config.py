"""What transformers does not make of a GGUF file's facts: scaled rotations, and Mistral by name.

llama.cpp divides each rotary frequency by a factor of its own, which the files of Llama 3.1 and
later store (``rope_freqs.weight``). transformers passes over them; its own rotation of type
``llama3``, which they were made by, gives them back:

    ramp_i   = clip((original / wavelength_i - low) / (high - low), 0, 1)
    factor_i = 1 / ((1 - ramp_i) / factor + ramp_i)

They are taken where that gives every stored factor, else the file is refused. What a file says of
linear or YaRN scaling is no table but a number, which transformers reads for GPT-OSS only.

When it misleads: windows and caps of attention scores that transformers does not ask a file for
have its defaults.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from transformers import LlamaConfig

from step_saliency.models.readable import UnreadableError

ROPE_FREQS = "rope_freqs.weight"
FOLDER_INSTEAD = "use the model's folder of safetensors instead"
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
"""Of every model from Llama 3.1 on."""
ORIGINAL_LENGTH = 8192
"""Tokens that Llama 3 was trained on before its rotations were scaled."""


def completed(config: Any, file: Path) -> Any:
    """The transformers config of a GGUF file, with its scaled rotations.

    Args:
        config: What transformers makes of the file.
        file: The GGUF file.

    Raises:
        ValueError: rotations scaled in a way that transformers would leave out.
    """
    from gguf import GGUFReader  # heavy, and needed for GGUF files only

    reader = GGUFReader(file)
    scaling = next(
        (f for key, f in reader.fields.items() if key.endswith("rope.scaling.type")), None
    )
    kind = "none" if scaling is None else bytes(scaling.parts[scaling.data[0]]).decode()
    if kind != "none" and config.model_type != "gpt_oss":
        raise UnreadableError(
            f"the file {str(file)!r} scales rotations ({kind}), which transformers does not read "
            f"from GGUF: the model without it is another one; {FOLDER_INSTEAD}"
        )
    if config.model_type == "mistral":
        config = _as_llama(config)
    factors = next((tensor.data for tensor in reader.tensors if tensor.name == ROPE_FREQS), None)
    if factors is not None:
        config.rope_parameters = _rope_parameters(config, np.asarray(factors, np.float64), file)
    return config


def _as_llama(config: Any) -> LlamaConfig:
    """Mistral's models are stored, and run by llama.cpp, as Llama's: only the name differs."""
    different = ("model_type", "architectures", "sliding_window", "transformers_version")
    return LlamaConfig(**{k: v for k, v in config.to_dict().items() if k not in different})


def _rope_parameters(config: Any, stored: Float[np.ndarray, " freq"], file: Path) -> dict[str, Any]:
    """Rope parameters whose factors are those of the file."""
    parameters: dict[str, Any] = dict(config.rope_parameters)
    if np.all(stored == 1):
        return parameters
    factor = float(stored.max())
    expected = llama3_factors(2 * len(stored), parameters["rope_theta"], factor)
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if 2 * len(stored) != width or not np.allclose(stored, expected, rtol=1e-5, atol=0):
        raise UnreadableError(
            f"the file {str(file)!r} scales rotations by a table of its own ({ROPE_FREQS}), which "
            "is not that of Llama 3.1 and which transformers does not read from GGUF: the model "
            f"without it is another one; {FOLDER_INSTEAD}"
        )
    scaled = {"rope_type": "llama3", "factor": factor, **LLAMA3}
    return parameters | scaled | {"original_max_position_embeddings": ORIGINAL_LENGTH}


def llama3_factors(width: int, base: float, factor: float) -> Float[np.ndarray, " freq"]:
    """What Llama 3.1 divides its rotary frequencies by.

    Args:
        width: Of a head.
        base: Of the rotation.
        factor: Of the longest wavelengths.
    """
    wavelength = 2 * math.pi * base ** (np.arange(0, width, 2) / width)
    low, high = LLAMA3["low_freq_factor"], LLAMA3["high_freq_factor"]
    ramp = np.clip((ORIGINAL_LENGTH / wavelength - low) / (high - low), 0, 1)
    factors: Float[np.ndarray, " freq"] = 1 / ((1 - ramp) / factor + ramp)
    return factors
