"""What a map is said to cost, against what it costs."""

import re
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from test_streaming import make_trace, reference, stream
from tiny import BACKENDS, Backend, tiny_model, tiny_transformers
from torch.profiler import ProfilerActivity, profile

import step_saliency as ss
import step_saliency.saliency.estimate as estimates
from step_saliency.saliency import api, streaming
from step_saliency.saliency.cost.shape import GAPS, model_shape
from step_saliency.saliency.cost.work import HEAP, Work
from step_saliency.saliency.estimate import Path, choose_path, estimate
from step_saliency.saliency.layerwise import LayerwiseModel
from step_saliency.saliency.objectives import NextToken, SequenceLoss
from step_saliency.saliency.pooling import step_layout
from step_saliency.saliency.streaming import streaming_maps

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
def off_the_heap(monkeypatch: pytest.MonkeyPatch) -> None:
    """The C library gets every tensor from the system, so that nothing but tensors counts."""
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "0")


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of logits that do not hide the blocks of a small model."""
    monkeypatch.setitem(streaming.LOGIT_BYTES, "cpu", 2**18)


@pytest.mark.usefixtures("small_chunks", "off_the_heap")
@pytest.mark.parametrize("keep", ["inputs", "heads", "activations"])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("d_model", "dtype"), [(64, torch.float32), (128, torch.float32), (64, torch.bfloat16)]
)
def test_memory_of_streaming_is_what_is_measured(
    backend: Backend, d_model: int, dtype: torch.dtype, keep: Any
) -> None:
    """Of tensors, as PyTorch counts them."""
    model = tiny_model("llama", backend=backend, d_model=d_model, **SHAPE).to(dtype)
    layers = range(4)
    stream(model, make_trace(20), layers=layers)
    for n_pos, objective in ((512, NextToken()), (2048, SequenceLoss())):
        run = partial(stream, model, make_trace(n_pos, n_steps=20), objective)
        measured = peak_bytes(partial(run, layers=layers, keep=keep))
        told = estimate(model, n_pos, objective=objective, keep=keep).streaming
        assert 0.8 < told.peak_bytes / measured < 1.25
        assert told.kept_bytes == 0


def test_a_heap_holds_more_than_its_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Below the size from which on glibc asks the system for each."""
    work = Work.of(model_shape(tiny_model(d_model=32)), "next_token", None)
    monkeypatch.delenv("MALLOC_MMAP_THRESHOLD_", raising=False)
    on_heap = work.streaming_bytes([1000])
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "0")
    assert on_heap == pytest.approx(HEAP["inputs"] * work.streaming_bytes([1000]), rel=1e-4)
    monkeypatch.delenv("MALLOC_MMAP_THRESHOLD_")
    # a million positions: every tensor but the buffers is above the limit
    large = work.streaming_bytes([10**6])
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "0")
    assert large == pytest.approx(work.streaming_bytes([10**6]), rel=0.05)


@pytest.mark.parametrize("backend", BACKENDS)
def test_gaps_on_the_heap_lie_between_the_graphs_that_are_kept(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Residuals of a block, as many as its class frees, while each is below the limit."""
    shape = model_shape(tiny_model(d_model=32, backend=backend))
    work = Work.of(shape, "next_token", None)
    gaps = GAPS["HookedTransformer" if backend == "hooked" else "TransformerBridge"]
    for n_pos, n_gaps in ((1000, gaps), (10**6, 0)):
        monkeypatch.delenv("MALLOC_MMAP_THRESHOLD_", raising=False)
        on_heap = work.streaming_bytes([n_pos], keep="activations")
        monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "0")
        tensors = work.streaming_bytes([n_pos], keep="activations")
        assert on_heap - tensors == n_gaps * shape.n_layers * n_pos * shape.d_model * 4


@pytest.mark.parametrize("keep", ["heads", "activations"])
def test_what_is_asked_to_be_kept_has_to_fit(keep: Any) -> None:
    model = tiny_model(n_layers=8)
    told, least = (estimate(model, 5000, keep=k).streaming for k in (keep, "inputs"))
    assert told.peak_bytes > least.peak_bytes
    choose = partial(choose_path, model, 5000, method="streaming", keep=keep)
    assert choose(available_bytes=told.peak_bytes) == Path("streaming", keep=keep)
    with pytest.raises(ValueError, match="does not fit"):
        choose(available_bytes=told.peak_bytes - 1)
    assert choose_path(model, 5000, available_bytes=least.peak_bytes).keep == "inputs"


@pytest.mark.usefixtures("off_the_heap")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("arch", ["llama", "gemma2"])
def test_memory_of_hooks_is_what_is_measured(
    arch: Any, backend: Backend, dtype: torch.dtype
) -> None:
    model = tiny_model(arch, backend=backend, d_model=64, **SHAPE).to(dtype)
    trace = make_trace(512, n_steps=20)
    layout = step_layout(trace.step_ids)
    for layers in (range(4), [3]):
        run = partial(reference, model, trace, NextToken(), layout, layers=layers)
        measured = peak_bytes(run)
        assert 0.8 < estimate(model, 512, layers=layers).hooks.peak_bytes / measured < 1.25


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


def test_fewer_layers_cost_less() -> None:
    model = tiny_model(n_layers=8)
    everything = estimate(model, 50_000)
    top = estimate(model, 50_000, layers=[-1])
    assert top.hooks.peak_bytes < everything.hooks.peak_bytes
    assert top.streaming.seconds < everything.streaming.seconds


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models count as being on a GPU, whose speed nobody asks."""
    monkeypatch.setattr(LayerwiseModel, "device", torch.device("cuda"))
    monkeypatch.setattr(estimates, "measured_speed", lambda shape: (1e12, 1e12))


# 50,000 tokens of this model with 8 layers: the inputs of its blocks are 8 * 50,000 * 32 floats
RESID_BYTES = 50_000 * 32 * 4


@pytest.mark.usefixtures("on_a_gpu")
def test_offloading_keeps_one_block_s_input_on_the_gpu() -> None:
    model = tiny_model(n_layers=8, d_model=32)
    inside, offloaded = (estimate(model, 50_000, offload=o).streaming for o in (False, True))
    assert inside.peak_bytes - offloaded.peak_bytes == 7 * RESID_BYTES
    assert offloaded.longest > inside.longest
    assert (inside.offload, offloaded.offload) == (False, True)


def test_offloading_gains_nothing_on_a_cpu() -> None:
    model = tiny_model(n_layers=8)
    inside, offloaded = (estimate(model, 50_000, offload=o).streaming for o in (False, True))
    assert inside.peak_bytes == offloaded.peak_bytes
    told = estimate(model, 50_000, available_bytes=inside.peak_bytes - 1)
    assert not told.streaming.offload
    assert "with offload=True" not in str(told)
    with pytest.raises(ValueError, match="does not fit"):
        choose_path(model, 50_000, method="streaming", available_bytes=inside.peak_bytes - 1)


@pytest.mark.usefixtures("on_a_gpu")
def test_offloading_is_chosen_where_nothing_else_fits() -> None:
    model = tiny_model(n_layers=8, d_model=32)
    inside, offloaded = (
        estimate(model, 50_000, offload=o, available_bytes=0).streaming.peak_bytes
        for o in (False, True)
    )
    choose = partial(choose_path, model, 50_000)
    assert choose(available_bytes=inside) == Path("streaming", offload=False)
    assert choose(available_bytes=inside - 1) == Path("streaming", offload=True)
    assert choose(available_bytes=inside, offload=True) == Path("streaming", offload=True)
    with pytest.raises(ValueError, match="does not fit"):
        choose(available_bytes=inside - 1, offload=False)
    with pytest.raises(ValueError, match=r"needs [\d.]+ GiB with offload=True"):
        choose(available_bytes=offloaded - 1)
    told = estimate(model, 50_000, available_bytes=inside - 1)
    assert told.fits("streaming")
    assert "fits with offload=True" in str(told)


@pytest.mark.usefixtures("on_a_gpu")
def test_what_is_offloaded_must_fit_into_main_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(n_layers=8, d_model=32)
    for room, fits in ((8 * RESID_BYTES, True), (8 * RESID_BYTES - 1, False)):
        monkeypatch.setattr(estimates, "free_bytes", lambda device, room=room: room)
        told = estimate(model, 50_000, offload=True, available_bytes=GIB)
        assert told.streaming.offload
        if fits:
            choose_path(model, 50_000, offload=True, available_bytes=GIB)
        else:
            with pytest.raises(ValueError, match="does not fit"):
                choose_path(model, 50_000, offload=True, available_bytes=GIB)


def test_nonsense_for_offload_is_refused() -> None:
    with pytest.raises(ValueError, match="offload='disk'"):
        choose_path(tiny_model(), 1000, offload="disk")  # type: ignore[arg-type]


@pytest.mark.parametrize("offload", [False, True])
def test_step_saliency_offloads_where_the_path_says_so(
    monkeypatch: pytest.MonkeyPatch, offload: bool
) -> None:
    """Chosen by the estimate, or asked for; the map is the same to the bit."""
    model, trace = tiny_model(), make_trace(40)
    plain = ss.step_saliency(model, trace, method="streaming", offload=False)
    offloads: list[bool] = []

    def record(*args: Any, offload: bool, **kwargs: Any) -> Any:
        offloads.append(offload)
        return record_blocks(*args, offload=offload, **kwargs)

    record_blocks = streaming.record_blocks
    monkeypatch.setattr(streaming, "record_blocks", record)
    ss.step_saliency(model, trace, method="streaming", offload=offload)
    monkeypatch.setattr(api, "choose_path", lambda *_, **__: Path("streaming", offload=offload))
    chosen = ss.step_saliency(model, trace)
    assert offloads == [offload, offload]
    assert torch.equal(chosen.maps, plain.maps)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU to be relieved")
def test_offloading_relieves_a_gpu() -> None:
    model = tiny_model("llama", d_model=256, **{**SHAPE, "n_layers": 24}).to("cuda")
    trace = make_trace(4096, n_steps=20)
    peaks, maps = [], []
    for offload in (False, True):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        maps.append(ss.step_saliency(model, trace, method="streaming", offload=offload).maps)
        peaks.append(torch.cuda.max_memory_allocated() - before)
    assert torch.equal(*maps)
    # the inputs of 23 of 24 blocks, 4 MiB each
    assert peaks[0] - peaks[1] > 0.8 * 23 * 4 * 2**20


def test_several_traces_cost_what_their_padded_batch_costs() -> None:
    model = tiny_model()
    one, four = (estimate(model, n).streaming for n in (1000, [1000] * 4))
    assert four.peak_bytes > 2 * one.peak_bytes
    assert four.seconds == pytest.approx(4 * one.seconds, rel=0.7)
    work = Work.of(model_shape(model), "next_token", None)
    padded, even = (work.streaming_bytes(lengths) for lengths in ([1000, 10, 10], [1000] * 3))
    assert padded == even
    # beyond `BATCH_TOKENS` traces are run one after another
    assert work.streaming_bytes([3000] * 4) == work.streaming_bytes([3000])
    assert work.streaming_seconds([3000] * 4, 1e9) == 4 * work.streaming_seconds([3000], 1e9)
    # and by hooks always
    assert work.hooks_bytes([1000] * 4) == work.hooks_bytes([1000])
    assert work.hooks_seconds([1000] * 4, 1e9, 1e9) == 4 * work.hooks_seconds([1000], 1e9, 1e9)


@pytest.mark.usefixtures("small_chunks", "off_the_heap")
@pytest.mark.parametrize("lengths", [(900, 300, 1000), (300,) * 6])
def test_memory_of_a_batch_is_what_is_measured(lengths: tuple[int, ...]) -> None:
    model = tiny_model("llama", d_model=64, **SHAPE)
    traces = [make_trace(n, n_steps=20, seed=n) for n in lengths]
    layouts = [step_layout(trace.step_ids) for trace in traces]
    objectives = [NextToken()] * len(lengths)
    stream(model, make_trace(20), layers=range(4))
    run = partial(streaming_maps, model, traces, objectives, layouts=layouts, layers=range(4))
    told = estimate(model, lengths, keep="inputs")
    assert 0.8 < told.streaming.peak_bytes / peak_bytes(run) < 1.25
    assert str(told).startswith(f"{len(lengths)} traces of up to {max(lengths):,} tokens")


def test_a_batch_that_does_not_fit_is_refused_although_each_trace_does() -> None:
    model, traces = tiny_model(), [make_trace(300, seed=seed) for seed in range(8)]
    one = estimate(model, 300).streaming.peak_bytes
    eight = estimate(model, [300] * 8).streaming.peak_bytes
    assert one < eight
    assert choose_path(model, 300, method="streaming", available_bytes=eight - 1)
    with pytest.raises(ValueError, match=r"8 traces of up to 300 tokens do not .*fewer traces or"):
        choose_path(model, [300] * 8, method="streaming", available_bytes=eight - 1)
    with pytest.MonkeyPatch.context() as tight:
        tight.setattr(estimates, "free_bytes", lambda device: eight - 1)
        with pytest.raises(ValueError, match="8 traces"):
            ss.step_saliency(model, traces, method="streaming")


@pytest.mark.parametrize("arch", ["llama", "gpt_oss", "gpt2-like"])
def test_both_classes_of_model_are_estimated_alike(arch: Any) -> None:
    told = {b: estimate(tiny_model(arch, backend=b), 3000).streaming for b in BACKENDS}
    plain = estimate(tiny_transformers(arch), 3000).streaming
    for path in told.values():
        assert path.peak_bytes == plain.peak_bytes


def test_it_prints_both_paths() -> None:
    text = str(ss.estimate(tiny_model(), 4096, available_bytes=GIB))
    assert "4,096 tokens, 1.00 GiB free on cpu" in text
    assert re.search(r"hooks +peak +\d+\.\d\d GiB .* does not fit \(up to [23],\d{3} tokens", text)
    assert re.search(r"streaming +peak +0\.\d\d GiB .* fits", text)


def test_auto_takes_hooks_for_short_traces_and_streaming_for_long_ones() -> None:
    model = tiny_model()
    assert choose_path(model, 200).name == "hooks"
    assert choose_path(model, 2000).name == "streaming"
    assert choose_path(model, 200, method="streaming").name == "streaming"
    assert choose_path(model, 300, method="hooks").name == "hooks"
    assert choose_path(tiny_transformers("llama"), 10).name == "streaming"


def test_auto_takes_the_path_that_fits() -> None:
    model = tiny_model()
    assert choose_path(model, 250, available_bytes=8 * 2**20).name == "streaming"


@pytest.mark.parametrize("backend", BACKENDS)
def test_auto_takes_hooks_where_streaming_cannot_honour_a_hook(backend: Backend) -> None:
    model = tiny_model(backend=backend)
    hook = ("blocks.0.attn.hook_attn_scores", lambda scores, hook: scores)
    with model.hooks(fwd_hooks=[hook]):
        with pytest.warns(
            UserWarning, match="mapped by hooks, slower .* there is a hook at"
        ) as said:
            assert choose_path(model, 2000).name == "hooks"
        assert len(said) == 1
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert choose_path(model, 2000, method="hooks").name == "hooks"
            assert choose_path(model, 200).name == "hooks"
        told = estimate(model, 2000)
        assert told.streaming.refusal is not None
        assert not told.fits("streaming")
        with pytest.raises(ValueError, match=r"hook at blocks\.0\.attn\.hook_attn_scores"):
            choose_path(model, 2000, method="streaming")
        with pytest.raises(ValueError, match=r"'streaming' is not possible \(there is a hook"):
            choose_path(model, 2000, available_bytes=2**20)


@pytest.mark.parametrize("method", ["auto", "hooks", "streaming"])
def test_the_error_names_what_both_paths_need_and_how_much_fits(method: Any) -> None:
    model = tiny_model()
    with pytest.raises(
        ValueError, match=r"100,000,000 tokens does not fit into the 1\.00 GiB free"
    ) as raised:
        choose_path(model, 10**8, method=method, available_bytes=GIB)
    said = re.findall(
        r"method='(\w+)' needs ([\d,.]+) GiB and would fit up to ([\d,]+) tokens", str(raised.value)
    )
    assert [name for name, *_ in said] == ["hooks", "streaming"]
    asked = estimate(model, 10**8, available_bytes=GIB)
    for name, needed, most in said:
        n_bytes = getattr(asked, name).peak_bytes
        assert float(needed.replace(",", "")) == pytest.approx(n_bytes / GIB, rel=1e-3)
        fitting = int(most.replace(",", ""))
        assert estimate(model, fitting, available_bytes=GIB).fits(name)
        assert not estimate(model, fitting + 1, available_bytes=GIB).fits(name)


def test_what_is_kept_of_blocks_is_never_offloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain shortage is said, and not an option that nobody set."""
    model = tiny_model()
    monkeypatch.setattr(Work, "can_offload", True)
    least = estimate(model, 5000, keep="heads", offload=False).streaming.peak_bytes
    with pytest.raises(ValueError, match="does not fit"):
        choose_path(model, 5000, method="streaming", keep="heads", available_bytes=least - 1)
    with pytest.raises(ValueError, match="keep='heads' with offload=True"):
        choose_path(model, 5000, method="streaming", keep="heads", offload=True)


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
    with pytest.raises(ValueError, match=r"n_tokens=\[3, 0\] must be a whole number, 1 or above"):
        estimate(tiny_model(), [3, 0])


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"keep": "most"}, "keep='most' is unknown"),
        ({"objective": "loss"}, "objective='loss' is unknown"),
        ({"layers": [3]}, r"layers=\[3\]: the model has layers 0 to 2"),
        ({"layers": []}, "names no layer; the model has layers 0 to 2"),
    ],
)
def test_options_are_those_of_the_map(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        estimate(tiny_model(), 10, **options)
    with pytest.raises(ValueError, match=match):
        choose_path(tiny_model(), 10, **options)


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_more_tokens_are_said_to_fit_than_the_model_reads(backend: Backend) -> None:
    model = tiny_model("qwen2", backend=backend, **SHAPE)
    told = str(estimate(model, 512, available_bytes=200 * GIB)).splitlines()
    assert "fits (as all of the context of 4,096 tokens would)" in told[2]
    short = str(estimate(model, 512, available_bytes=2**24)).splitlines()
    assert re.search(r"\(up to [\d,]+ tokens would\)", short[1])
