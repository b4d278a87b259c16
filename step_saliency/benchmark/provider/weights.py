"""Models by name, each read once a process: a transformers model, or an engine, and its tokenizer.

The fast loop decodes by the transformers model alone, so no TransformerLens copy of the weights is
made beside it. Conditions of one model share it.
"""

import threading
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from step_saliency.benchmark.provider.engine import load_engine
from step_saliency.benchmark.provider.settings import ProviderSettings, device_of, dtype_of
from step_saliency.decoding.job import context_of
from step_saliency.models.checkpoint import read_config, read_tokenizer, read_transformers, save
from step_saliency.models.identity import weights_digest
from step_saliency.models.precision import cast_weights
from step_saliency.models.readable import reading
from step_saliency.models.sources import resolve_source
from step_saliency.models.unpack import unpacked
from step_saliency.vllm.loaded import LoadedEngine

_LOCK = threading.Lock()
_LOADED: dict[tuple[Any, ...], "Weights"] = {}


@dataclass(frozen=True, eq=False)
class Weights:
    """A model that decodes, and its tokenizer."""

    model: PreTrainedModel | LoadedEngine
    tokenizer: Any

    @property
    def context(self) -> int:
        """Longest sequence, in tokens."""
        return context_of(self.model)

    @property
    def facts(self) -> dict[str, Any]:
        """What tells the model from others, in JSON types."""
        if isinstance(self.model, LoadedEngine):
            return self.model.facts
        return {"weights": weights_digest(self.model), "dtype": str(self.model.dtype)}


def weights_for(name: str, settings: ProviderSettings) -> Weights:
    """The model of a name, read now or earlier in this process.

    Args:
        name: Bundled name, folder, GGUF file or hub id.
        settings: Where it goes, and in which precision.

    Raises:
        ValueError: as `ss.load_model`; accelerate is missing for a ``device_map``.
    """
    key = (
        name,
        settings.engine,
        settings.tensor_parallel,
        settings.max_length,
        settings.device,
        settings.device_map,
        settings.dtype,
        settings.revision,
        settings.trust_remote_code,
    )
    with _LOCK:
        if key not in _LOADED:
            _LOADED[key] = _read(name, settings)
        return _LOADED[key]


def forget_weights() -> None:
    """Let go of all models."""
    with _LOCK:
        _LOADED.clear()


def _read(name: str, settings: ProviderSettings) -> Weights:
    source = resolve_source(name)
    files = unpacked(source, partial(save, source))
    if settings.engine == "vllm":
        engine = load_engine(files, settings)
        return Weights(engine, engine.tokenizer)
    trust = settings.trust_remote_code
    config = read_config(files, name, settings.revision, trust_remote_code=trust)
    tokenizer = read_tokenizer(files, name, settings.revision, trust_remote_code=trust)
    device, dtype = device_of(settings), dtype_of(settings)
    if settings.device_map is not None:
        return Weights(_spread(files, config, dtype, settings), tokenizer)
    model = read_transformers(
        files, config, dtype=dtype, revision=settings.revision, trust_remote_code=trust
    )
    return Weights(model.to(device), tokenizer)


def _spread(
    source: Any, config: Any, dtype: torch.dtype, settings: ProviderSettings
) -> PreTrainedModel:
    """Layers over several devices, as accelerate maps them."""
    try:
        import accelerate  # noqa: F401
    except ImportError as error:
        raise ValueError(
            "device_map needs accelerate: pip install 'step-saliency[benchmarks]'"
        ) from error
    with reading(source, source.path, "weights"):
        model = AutoModelForCausalLM.from_pretrained(
            source.path,
            config=config,
            dtype=dtype,
            revision=settings.revision,
            trust_remote_code=settings.trust_remote_code,
            attn_implementation="eager",
            use_safetensors=True,
            device_map=settings.device_map,
        )
    cast_weights(model, dtype)
    return model.eval()
