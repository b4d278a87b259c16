"""What a map is said to cost, against what it costs."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_streaming import make_trace, reference, stream
from tiny import BACKENDS, Backend, tiny_model, tiny_transformers
from torch.profiler import ProfilerActivity, profile

import step_saliency as ss
from step_saliency.saliency import streaming
from step_saliency.saliency.estimate import choose_path, estimate
from step_saliency.saliency.objectives import NextToken, SequenceLoss
from step_saliency.saliency.pooling import step_layout

GIB = 2**30
SHAPE = {"n_layers": 4, "n_heads": 4, "n_kv_heads": 2, "d_head": 16, "n_ctx": 4096}


def peak_bytes(run: Callable[[], Any]) -> int:
    """Most memory that PyTorch held at a time while this ran, above what it held before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        run()
    events = [
        event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"
    ]
    held = torch.tensor(
        [e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())], dtype=torch.long
    )
    return int(held.cumsum(0).max())


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of logits that do not hide the blocks of a small model."""
    monkeypatch.setitem(streaming.LOGIT_BYTES, "cpu", 2**18)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("d_model", [64, 128])
def test_memory_of_streaming_is_what_is_measured(backend: Backend, d_model: int) -> None:
    model = tiny_model("llama", backend=backend, d_model=d_model, **SHAPE)
    layers = range(4)
    stream(model, make_trace(20), layers=layers)
    for n_pos in (512, 2048):
        for objective in (NextToken(), SequenceLoss()):
            trace = make_trace(n_pos, n_steps=20)
            measured = peak_bytes(lambda t=trace, o=objective: stream(model, t, o, layers=layers))
            told = estimate(model, n_pos, objective=objective).streaming.peak_bytes
            assert 0.8 < told / measured < 1.4


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("arch", ["llama", "gemma2"])
def test_memory_of_hooks_is_what_is_measured(arch: Any, backend: Backend) -> None:
    model = tiny_model(arch, backend=backend, d_model=64, **SHAPE)
    trace = make_trace(512, n_steps=20)
    layout = step_layout(trace.step_ids)
    measured = peak_bytes(lambda: reference(model, trace, NextToken(), layout, layers=range(4)))
    assert 0.8 < estimate(model, 512).hooks.peak_bytes / measured < 1.8


def test_memory_of_streaming_is_linear_and_of_hooks_quadratic_in_the_length() -> None:
    model = tiny_model()
    short, long = (estimate(model, n) for n in (100_000, 200_000))
    assert long.streaming.peak_bytes == pytest.approx(2 * short.streaming.peak_bytes, rel=0.05)
    assert long.hooks.peak_bytes == pytest.approx(4 * short.hooks.peak_bytes, rel=0.05)


def test_the_longest_trace_fits_and_one_more_token_does_not() -> None:
    model = tiny_model()
    told = estimate(model, 1000, available_bytes=GIB)
    for path in (told.hooks, told.streaming):
        at, beyond = (
            getattr(estimate(model, n), path.name) for n in (path.longest, path.longest + 1)
        )
        assert at.peak_bytes <= GIB < beyond.peak_bytes


def test_fewer_layers_and_offloading_cost_less() -> None:
    model = tiny_model(n_layers=8)
    everything = estimate(model, 50_000)
    top = estimate(model, 50_000, layers=[-1])
    assert top.hooks.peak_bytes < everything.hooks.peak_bytes
    assert top.streaming.seconds < everything.streaming.seconds
    offloaded = estimate(model, 50_000, offload=True)
    assert offloaded.streaming.peak_bytes < everything.streaming.peak_bytes


@pytest.mark.parametrize("arch", ["llama", "gpt_oss", "gpt2-like"])
def test_both_classes_of_model_are_estimated_alike(arch: Any) -> None:
    told = {b: estimate(tiny_model(arch, backend=b), 3000).streaming for b in BACKENDS}
    plain = estimate(tiny_transformers(arch), 3000).streaming
    for path in told.values():
        assert path.peak_bytes == plain.peak_bytes


def test_it_prints_both_paths() -> None:
    text = str(ss.estimate(tiny_model(), 4096, available_bytes=GIB))
    assert "4,096 tokens, 1.00 GiB free on cpu" in text
    assert re.search(r"hooks +peak +\d+\.\d\d GiB .* does not fit \(up to 2,\d{3} tokens", text)
    assert re.search(r"streaming +peak +0\.\d\d GiB .* fits", text)


def test_auto_takes_hooks_for_short_traces_and_streaming_for_long_ones() -> None:
    model = tiny_model()
    assert choose_path(model, 200) == "hooks"
    assert choose_path(model, 2000) == "streaming"
    assert choose_path(model, 200, method="streaming") == "streaming"
    assert choose_path(model, 300, method="hooks") == "hooks"
    assert choose_path(tiny_transformers("llama"), 10) == "streaming"


def test_auto_takes_the_path_that_fits() -> None:
    model = tiny_model()
    assert choose_path(model, 250, available_bytes=8 * 2**20) == "streaming"


@pytest.mark.parametrize("backend", BACKENDS)
def test_auto_takes_hooks_where_streaming_cannot_honour_a_hook(backend: Backend) -> None:
    model = tiny_model(backend=backend)
    hook = ("blocks.0.attn.hook_attn_scores", lambda scores, hook: scores)
    with model.hooks(fwd_hooks=[hook]):
        assert choose_path(model, 2000) == "hooks"
        told = estimate(model, 2000)
        assert told.streaming.refusal is not None
        assert not told.fits("streaming")
        with pytest.raises(ValueError, match=r"hook at blocks\.0\.attn\.hook_attn_scores"):
            choose_path(model, 2000, method="streaming")
        with pytest.raises(ValueError, match=r"'streaming' is not possible \(there is a hook"):
            choose_path(model, 2000, available_bytes=2**20)


@pytest.mark.parametrize("method", ["auto", "hooks", "streaming"])
def test_the_error_names_what_both_paths_need_and_how_much_fits(method: Any) -> None:
    expected = (
        r"100,000,000 tokens does not fit into the 1\.00 GiB free on cpu: method='hooks' needs "
        r"[\d,.]+ GiB and would fit up to 2,\d{3} tokens; method='streaming' needs [\d.]+ GiB and "
        r"would fit up to \d{3},\d{3} tokens"
    )
    with pytest.raises(ValueError, match=expected):
        choose_path(tiny_model(), 10**8, method=method, available_bytes=GIB)


def test_step_saliency_takes_the_path_that_is_asked_for() -> None:
    model, trace = tiny_model(), make_trace(40)
    by_hooks = ss.step_saliency(model, trace)
    streamed = ss.step_saliency(model, trace, method="streaming")
    assert (by_hooks.method, streamed.method) == ("hooks", "streaming")
    torch.testing.assert_close(streamed.maps, by_hooks.maps, rtol=1e-4, atol=1e-6)
    long = make_trace(300)
    assert ss.step_saliency(model, long).method == "streaming"


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="n_tokens=0"):
        estimate(tiny_model(), 0)
    with pytest.raises(ValueError, match="got Linear"):
        estimate(torch.nn.Linear(2, 2), 10)
