"""What the tests of vLLM engines share: engines, flows, and how tokens are compared."""

import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import cache
from typing import Any

import pytest
import torch

import step_saliency as ss
from step_saliency.models.bundled import BUNDLED
from step_saliency.vllm import extra_args

vllm = pytest.importorskip("vllm", reason="needs vLLM, in an environment of its own")

N_NEW = 128
ROUNDING = 1e-3
"""Logits that are closer may be swapped by the order in which kernels add, in float32."""
STRONG = {"tau_max": 0.3, "alpha": 0.3}
MADE: list[Any] = []
"""Engines of this process; one that is let go takes the groups of all others with it."""
KINDS = ("off", "oeb", "smi", "stepflow")


def engine(path: str, *, max_model_len: int = 1024, dtype: str = "float32", **options: Any) -> Any:
    """An engine in this process, with little memory for the cache."""
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    from step_saliency.vllm import plugin

    plugin.register()
    _have_experts()
    llm = vllm.LLM(
        model=path,
        dtype=dtype,
        enforce_eager=True,
        max_model_len=max_model_len,
        disable_log_stats=True,
        **options,
    )
    MADE.append(llm)
    return llm


def _have_experts() -> None:
    """Groups are made by the first engine of a process, that of experts only if it has some."""
    from vllm.distributed import parallel_state

    if MADE and parallel_state._EP is None:
        parallel_state._EP = parallel_state._TP


@cache
def roomy_engine() -> Any:
    """The bundled reasoner, 64 requests at a time."""
    return engine(str(BUNDLED["reasoner"]().path), max_num_seqs=64)


@cache
def small_engine() -> Any:
    """The bundled reasoner with few blocks and few tokens a pass: chunks and preemption."""
    return engine(
        str(BUNDLED["reasoner"]().path),
        max_num_seqs=16,
        max_num_batched_tokens=32,
        enable_prefix_caching=True,
        enable_chunked_prefill=True,
        max_model_len=512,
        num_gpu_blocks_override=24,
        block_size=32,
    )


def flow_of(kind: str, n_layers: int = 8, **strengths: float) -> ss.StepFlow | None:
    """A strong flow in the first two and the last two layers; None if it is off."""
    strong = {**STRONG, **strengths}
    deep = [n_layers - 2, n_layers - 1]
    oeb = ss.OddsEqualBridge([0, 1], tau_max=strong["tau_max"])
    smi = ss.StepMomentumInjection(deep, alpha=strong["alpha"])
    halves = {"oeb": {"oeb": oeb}, "smi": {"smi": smi}, "stepflow": {"oeb": oeb, "smi": smi}}
    return ss.StepFlow(**halves[kind]) if kind in halves else None


def prompt(trace: ss.Trace) -> list[int]:
    return trace.tokens.tolist()[: -trace.meta["response_tokens"]]


def response(trace: ss.Trace) -> list[int]:
    return trace.tokens.tolist()[-trace.meta["response_tokens"] :]


def decoded(
    llm: Any,
    prompts: Sequence[list[int]],
    flows: Sequence[ss.StepFlow | None],
    *,
    max_tokens: int = N_NEW,
) -> list[list[int]]:
    """Greedy responses of an engine, asked for as vLLM's own users do."""
    asked = [
        vllm.SamplingParams(
            temperature=0,
            max_tokens=max_tokens,
            extra_args=None if flow is None else extra_args(flow),
        )
        for flow in flows
    ]
    outputs = llm.generate([{"prompt_token_ids": ids} for ids in prompts], asked, use_tqdm=False)
    return [list(output.outputs[0].token_ids) for output in outputs]


def next_logits(model: Any, flow: ss.StepFlow | None, tokens: Sequence[int]) -> torch.Tensor:
    """Logits after these tokens by the TransformerLens object."""
    with torch.no_grad(), nullcontext() if flow is None else flow.attached(model):
        logits: torch.Tensor = model(torch.tensor([tokens]))[0, -1]
    return logits


def gap(
    ids: Sequence[int],
    trace: ss.Trace,
    flow: ss.StepFlow | None,
    logits: Callable[[ss.StepFlow | None, Sequence[int]], torch.Tensor],
) -> float:
    """Difference of the logits of the first two tokens that differ; 0 where none does.

    vLLM keeps the end mark, traces do not.
    """
    want = response(trace)
    if list(ids[: len(want)]) == want and len(ids) <= len(want) + 1:
        return 0.0
    known = zip(ids, want, strict=False)
    at = next((i for i, (a, b) in enumerate(known) if a != b), min(len(ids), len(want)))
    if at == min(len(ids), len(want)):
        return float("inf")
    after = logits(flow, prompt(trace) + want[:at])
    return abs(float(after[ids[at]] - after[want[at]])) or ROUNDING / 2


def same(
    got: Sequence[list[int]],
    traces: Sequence[ss.Trace],
    flows: Sequence[ss.StepFlow | None],
    model: Any,
    *,
    rounding: float = ROUNDING,
) -> bool:
    """Equal, or parting where the two tokens are equally likely up to rounding; few part."""

    def logits(flow: ss.StepFlow | None, tokens: Sequence[int]) -> torch.Tensor:
        return next_logits(model, flow, tokens)

    gaps = [
        gap(ids, trace, flow, logits) for ids, trace, flow in zip(got, traces, flows, strict=True)
    ]
    assert sum(each > 0 for each in gaps) <= len(gaps) // 8
    return max(gaps) < rounding
