"""What StepFlow cannot do in an engine, by name, before a request reaches it."""

from collections.abc import Iterator
from typing import Any

import vllm

from step_saliency.intervene.stepflow import StepFlow
from step_saliency.models.facts import layer_type_of
from step_saliency.vllm.loaded import BACKENDS, other_backends

TESTED = ("0.32",)
"""Versions of vLLM that StepFlow was tested with."""
FULL, WINDOWED = "full_attention", "sliding_attention"


def is_tested(version: str) -> bool:
    """Whether a version of vLLM is one that StepFlow was tested with."""
    return version.split("+")[0].rsplit(".", 1)[0] in TESTED


def untested(version: str) -> str:
    """What is said of other versions."""
    return (
        f"StepFlow is tested with vLLM {' and '.join(TESTED)}, and this is {version}: requests"
        " that ask for it are refused, all others go on as they would"
    )


def refusals(config: Any) -> Iterator[str]:
    """What of an engine's configuration StepFlow cannot go with."""
    parallel = config.parallel_config
    if not is_tested(vllm.__version__):
        yield untested(vllm.__version__)
    if config.speculative_config is not None:
        yield "speculative decoding: drafted tokens have no steps yet"
    if parallel.pipeline_parallel_size > 1:
        yield "pipeline parallelism is not tested"
    if getattr(parallel, "decode_context_parallel_size", 1) > 1:
        yield "context parallelism: no rank has all keys of a row"
    if getattr(parallel, "enable_dbo", False):
        yield "dual-batch overlap: two passes share one thread"
    if config.use_v2_model_runner:
        yield "vLLM's second model runner; set VLLM_USE_V2_MODEL_RUNNER=0"
    if config.cache_config.cache_dtype not in ("auto", "float32", "bfloat16", "float16"):
        yield f"a cache of {config.cache_config.cache_dtype}: values would have to be rescaled"
    if config.compilation_config.cudagraph_mode.has_full_cudagraphs():
        yield "full CUDA graphs, which leave out edits; set cudagraph_mode to PIECEWISE or NONE"
    attention = getattr(config, "attention_config", None)
    asked = [getattr(attention, "backend", None), *_by_kind(attention).values()]
    others = {backend.name for backend in asked if backend is not None} - set(BACKENDS)
    if others:
        yield other_backends(others)
    if config.model_config.use_mla:
        yield "latent attention: there are no keys of heads"


def _by_kind(attention: Any) -> dict[str, Any]:
    return dict(getattr(attention, "backend_per_kind", None) or {})


def flow_refusals(config: Any, flow: StepFlow) -> Iterator[str]:
    """What of a flow the layers of an engine's model cannot take."""
    text = config.model_config.hf_text_config
    layers = sorted({layer for edit in flow.edits for layer in edit.layers})
    types = {layer: layer_type_of(text, layer) for layer in layers}
    other = [layer for layer in layers if types[layer] not in (FULL, WINDOWED)]
    if other:
        yield f"layers {other} attend in a way of their own ({types[other[0]]})"
    injected = () if flow.smi is None else flow.smi.layers
    windowed = [layer for layer in injected if types[layer] == WINDOWED]
    if windowed and not _keeps_all(config):
        yield (
            f"momentum in layers {windowed}, which have a sliding window: the engine drops values "
            "that fall out of it, and a step may be longer; set "
            "disable_hybrid_kv_cache_manager=True, which keeps them (where some layers have none), "
            "or choose smi_layers without one"
        )


def _keeps_all(config: Any) -> bool:
    """Whether layers with a window keep what falls out of it, as others of the model do."""
    text = config.model_config.hf_text_config
    types = {layer_type_of(text, layer) for layer in range(text.num_hidden_layers)}
    return FULL in types and bool(config.scheduler_config.disable_hybrid_kv_cache_manager)
