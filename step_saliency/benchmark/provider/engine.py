"""A vLLM engine in place of a transformers model: ``-M engine=vllm``.

The engine lives in this process (its workers may be others), one for all conditions of a model;
each request says by itself which flow it wants.
"""

import os
from typing import Any

import torch

from step_saliency.benchmark.provider.settings import ProviderSettings, dtype_of
from step_saliency.models.memory import free_bytes
from step_saliency.models.sources import Source
from step_saliency.vllm.loaded import LoadedEngine

MISSING = (
    "engine='vllm' needs vLLM, which wants an environment of its own: see 'Decode at scale' in the "
    "documentation"
)


def load_engine(source: Source, settings: ProviderSettings) -> LoadedEngine:
    """An engine that has read a model.

    Args:
        source: Folder or hub id.
        settings: How it is loaded.

    Raises:
        ValueError: there is no vLLM, or it does not take the model.
    """
    if source.gguf_file is not None:
        raise ValueError(f"engine='vllm' reads no GGUF file, and {source.path!r} holds one")
    try:
        from vllm import LLM
    except ImportError as error:
        raise ValueError(MISSING) from error
    engine = LoadedEngine.of(LLM(model=source.path, **engine_options(settings)))
    assert engine is not None
    return engine


def engine_options(settings: ProviderSettings) -> dict[str, Any]:
    """Options of vLLM's ``LLM``; what is not here is as vLLM chooses.

    A full CUDA graph would leave edits out, so graphs are cut at attention; momentum needs values
    that fall out of a sliding window, so they are kept. On a CPU vLLM would ask for nearly all
    memory that there is, and end where others use some; it gets half of what is free for keys and
    values, or what ``VLLM_CPU_KVCACHE_SPACE`` says.
    """
    on_cuda = torch.cuda.is_available()
    return {
        "dtype": str(dtype_of(settings)).removeprefix("torch."),
        "revision": settings.revision,
        "trust_remote_code": settings.trust_remote_code,
        "max_num_seqs": settings.batch_size,
        "max_model_len": settings.max_length,
        "tensor_parallel_size": settings.tensor_parallel,
        "disable_hybrid_kv_cache_manager": True,
        "disable_log_stats": True,
        **(
            {"compilation_config": {"cudagraph_mode": "PIECEWISE"}}
            if on_cuda
            else {"enforce_eager": True, **_cpu_cache()}
        ),
    }


def _cpu_cache() -> dict[str, int]:
    if "VLLM_CPU_KVCACHE_SPACE" in os.environ:
        return {}
    return {"kv_cache_memory_bytes": int(free_bytes(torch.device("cpu")) / 2)}
