"""The streaming path against the reference path and against brute force, on every architecture."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import (
    ARCHS,
    BACKEND,
    BACKENDS,
    Arch,
    Backend,
    random_tokens,
    tiny_model,
    tiny_transformers,
)
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM

import step_saliency as ss
from step_saliency.saliency import hooks, padding, streaming
from step_saliency.saliency.kernels.step_attention import chunked
from step_saliency.saliency.layerwise import choice
from step_saliency.saliency.objectives import (
    AnswerLoss,
    Custom,
    LogitDiff,
    LogOdds,
    NextToken,
    Objective,
    SequenceLoss,
)
from step_saliency.saliency.pooling import StepLayout, step_layout, sum_tokens
from step_saliency.saliency.streaming import streaming_maps
from step_saliency.trace import Region, Step, Trace


def make_trace(n_pos: int, *, n_steps: int = 5, seed: int = 0) -> Trace:
    generator = torch.Generator().manual_seed(seed)
    cuts = torch.randperm(n_pos - 1, generator=generator)[: n_steps - 1] + 1 if n_pos > 1 else []
    bounds = sorted({0, n_pos, *(int(cut) for cut in cuts)})
    steps = [Step(a, b, Region.THINKING) for a, b in pairwise(bounds)]
    return Trace(random_tokens(n_pos, seed=seed)[0], tuple(steps))


def reference(
    model: Any,
    trace: Trace,
    objective: Objective,
    layout: StepLayout,
    *,
    layers: Sequence[int] = (0, 1, 2),
    per_head: bool = False,
) -> Tensor:
    def pool(influence: Tensor) -> Tensor:
        totals = sum_tokens(influence, layout)
        return totals if per_head else totals.mean(0)

    maps = hooks.reduce_influence(model, trace.tokens, objective, layers=layers, reduce=pool)
    return torch.stack([maps[layer] for layer in layers])


def stream(
    model: Any,
    trace: Trace,
    objective: Objective | None = None,
    layout: StepLayout | None = None,
    *,
    layers: Sequence[int] = (0, 1, 2),
    **options: Any,
) -> Tensor:
    objective = objective or NextToken()
    layout = layout or step_layout(trace.step_ids, last_row=objective.last_row)
    (maps,) = streaming_maps(
        model, [trace], [objective], layouts=[layout], layers=layers, **options
    )
    return maps


def assert_close(got: Tensor, want: Tensor, tolerance: float = 1e-5) -> None:
    assert got.shape == want.shape
    assert want.max() > 0
    error = float((got - want).abs().max() / want.max())
    assert error < tolerance, f"error of {error:.2g} of the largest entry"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("arch", ARCHS)
def test_equals_the_reference_on_every_architecture(arch: Arch, backend: Backend) -> None:
    model = tiny_model(arch, backend=backend)
    trace = make_trace(63)
    layout = step_layout(trace.step_ids)
    for objective in (NextToken(), SequenceLoss()):
        want = reference(model, trace, objective, layout, per_head=True)
        assert_close(stream(model, trace, objective, layout, per_head=True), want)


@pytest.mark.parametrize("n_pos", [2, 257, 1000])
@pytest.mark.parametrize("arch", ["qwen2", "gpt_oss"])
def test_equals_the_reference_at_odd_lengths(arch: Arch, n_pos: int) -> None:
    model = tiny_model(arch, n_ctx=1024, window=100)
    trace = make_trace(n_pos)
    layout = step_layout(trace.step_ids, rows="target")
    want = reference(model, trace, NextToken(), layout)
    assert_close(stream(model, trace, layout=layout), want)


def test_one_position() -> None:
    model, trace = tiny_model(), make_trace(1)
    objective = LogitDiff(correct=20)
    layout = step_layout(trace.step_ids, last_row=True)
    assert_close(
        stream(model, trace, objective, layout), reference(model, trace, objective, layout)
    )


@pytest.mark.parametrize("arch", ["gemma2", "gpt_oss"])
def test_next_token_is_what_one_backward_pass_per_token_gives(arch: Arch) -> None:
    model = tiny_model(arch, backend="bridge")
    trace = make_trace(17, n_steps=17)
    want = torch.zeros(3, 4, 17, 17)
    for t in range(16):

        def loss_at(logits: Tensor, tokens: Tensor, t: int = t) -> Tensor:
            return torch.nn.functional.cross_entropy(logits[t], tokens[t + 1])

        layout = step_layout(trace.step_ids, last_row=True)
        alone = reference(model, trace, Custom(loss_at), layout, per_head=True)
        want[:, :, t] = alone[:, :, t]
    assert_close(stream(model, trace, per_head=True), want)


def squared_logits(logits: Tensor, tokens: Tensor) -> Tensor:
    return (logits.gather(-1, tokens.unsqueeze(-1)) ** 2).mean()


OBJECTIVES: dict[str, Objective] = {
    "next_token": NextToken(),
    "log_odds": LogOdds(),
    "sequence": SequenceLoss(),
    "answer": AnswerLoss((30, 31, 35)),
    "logit_diff": LogitDiff(correct=20, position=33),
    "callable": Custom(squared_logits),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
def test_equals_the_reference_for_every_objective(objective: Objective, backend: Backend) -> None:
    model, trace = tiny_model("qwen3", backend=backend), make_trace(40)
    layout = step_layout(trace.step_ids, last_row=objective.last_row)
    want = reference(model, trace, objective, layout)
    assert_close(stream(model, trace, objective), want)


@pytest.mark.parametrize("n_steps", [1, 2, 50])
@pytest.mark.parametrize("rows", ["query", "target"])
def test_any_layout_of_steps(n_steps: int, rows: Any) -> None:
    model, trace = tiny_model(), make_trace(50, n_steps=n_steps)
    layout = step_layout(trace.step_ids, rows=rows)
    want = reference(model, trace, NextToken(), layout)
    assert_close(stream(model, trace, layout=layout), want)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("padding_side", ["left", "right"])
@pytest.mark.parametrize("arch", ["llama", "gpt_oss", "gpt2-like"])
def test_a_padded_batch_gives_what_each_trace_gives_alone(
    arch: Arch, padding_side: Any, backend: Backend
) -> None:
    model = tiny_model(arch, backend=backend)
    traces = [make_trace(n, n_steps=s, seed=n) for n, s in ((9, 3), (40, 6), (2, 1))]
    layouts = [step_layout(trace.step_ids) for trace in traces]
    together = streaming_maps(
        model,
        traces,
        [NextToken()] * 3,
        layouts=layouts,
        layers=[0, 1, 2],
        padding_side=padding_side,
    )
    for trace, maps in zip(traces, together, strict=True):
        assert_close(maps, stream(model, trace))


def test_traces_too_long_for_one_batch_are_mapped_one_after_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny_model()
    lengths = [20, 9, 30, 5, 5, 50]
    traces = [make_trace(n, n_steps=3, seed=i) for i, n in enumerate(lengths)]
    layouts = [step_layout(trace.step_ids) for trace in traces]
    monkeypatch.setattr(padding, "BATCH_TOKENS", 40)
    assert [(s.start, s.stop) for s in padding.padded_groups(lengths)] == [
        (0, 2),
        (2, 3),
        (3, 5),
        (5, 6),
    ]
    maps = streaming_maps(
        model, traces, [NextToken()] * len(traces), layouts=layouts, layers=[0, 1, 2]
    )
    for trace, got in zip(traces, maps, strict=True):
        assert_close(got, stream(model, trace))


def test_layers_come_in_the_order_wanted_and_lower_blocks_are_left_alone() -> None:
    model, trace = tiny_model(backend="bridge"), make_trace(30)
    everything = stream(model, trace)
    calls = []
    handle = model.blocks[0].register_forward_hook(lambda *_: calls.append(1))
    some = stream(model, trace, layers=[2, 1])
    handle.remove()
    torch.testing.assert_close(some, everything[[2, 1]])
    # once in the check of the adapter at most, once forward; never again to be differentiated
    assert len(calls) <= 3
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("backend", BACKENDS)
def test_heads_average_to_the_map(backend: Backend) -> None:
    model, trace = tiny_model(backend=backend), make_trace(30)
    per_head = stream(model, trace, per_head=True)
    assert per_head.shape == (3, 4, 5, 5)
    torch.testing.assert_close(per_head.mean(1), stream(model, trace))


def test_offloaded_inputs_change_nothing() -> None:
    model, trace = tiny_model(), make_trace(30)
    assert torch.equal(stream(model, trace, offload=True), stream(model, trace))


@pytest.mark.parametrize("kernel", ["naive", "chunked"])
def test_the_kernel_can_be_chosen(kernel: Any) -> None:
    model, trace = tiny_model(), make_trace(30)
    assert_close(stream(model, trace, kernel=kernel), stream(model, trace), 1e-6)


@pytest.mark.parametrize("arch", ["llama", "gemma3", "gpt_oss"])
def test_plain_transformers_models_give_what_their_bridge_gives(arch: Arch) -> None:
    trace = make_trace(30)
    plain = tiny_transformers(arch)
    for implementation in ("eager", "sdpa"):
        if implementation == "sdpa" and not plain._supports_sdpa:
            continue
        plain.set_attn_implementation(implementation)
        got = stream(plain, trace)
        assert_close(got, stream(tiny_model(arch, backend="bridge"), trace))
        assert plain.config._attn_implementation == implementation


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_model_is_left_as_it_was(backend: Backend) -> None:
    model, trace = tiny_model("gemma2", backend=backend), make_trace(20)
    tokens = trace.tokens.unsqueeze(0)
    model.train()
    frozen = next(iter(model.parameters()))
    frozen.requires_grad_(False)
    logits = model(tokens)
    before = state_of(model)
    random_state = torch.get_rng_state()
    stream(model, trace)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert state_of(model) == before
    assert torch.equal(model(tokens), logits)
    assert all(parameter.grad is None for parameter in model.parameters())


def state_of(model: Any) -> list[Any]:
    modules = list(model.modules())
    return [
        [module.training for module in modules],
        [parameter.requires_grad for parameter in model.parameters()],
        [sorted(vars(module)) for module in modules],
        [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in modules],
        [getattr(getattr(m, "config", None), "_attn_implementation", None) for m in modules],
    ]


def test_an_error_on_the_way_leaves_the_model_as_it_was() -> None:
    model, trace = tiny_model(backend="bridge"), make_trace(20)
    stream(model, trace)
    before = state_of(model)

    def fail(_logits: Tensor, _tokens: Tensor) -> Tensor:
        raise RuntimeError("on the way")

    with pytest.raises(RuntimeError, match="on the way"):
        stream(model, trace, Custom(fail))
    assert state_of(model) == before


def test_gradient_checkpointing_and_training_mode_change_nothing() -> None:
    trace = make_trace(30)
    model = tiny_transformers("llama")
    want = stream(model, trace)
    model.gradient_checkpointing_enable()
    model.train()
    model.config.attention_dropout = 0.5
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    random_state = torch.get_rng_state()
    assert torch.equal(stream(model, trace), want)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert model.training
    assert model.is_gradient_checkpointing


@pytest.mark.parametrize("backend", BACKENDS)
def test_hooks_of_others_at_the_residual_act_as_on_the_reference_path(backend: Backend) -> None:
    model, trace = tiny_model(backend=backend), make_trace(30)
    layout = step_layout(trace.step_ids)
    without = stream(model, trace)

    def double(resid: Tensor, hook: Any) -> Tensor:
        return 2 * resid

    with model.hooks(fwd_hooks=[("blocks.1.hook_resid_post", double)]):
        got = stream(model, trace)
        want = reference(model, trace, NextToken(), layout)
    assert_close(got, want)
    assert (got - without).abs().max() > 1e-3 * without.max()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["hook_attn_scores", "hook_pattern"])
def test_hooks_that_could_not_act_are_refused(name: str, backend: Backend) -> None:
    model, trace = tiny_model(backend=backend), make_trace(30)
    hook = (f"blocks.1.attn.{name}", lambda x, hook: x)
    with (
        model.hooks(fwd_hooks=[hook]),
        pytest.raises(ValueError, match=rf"hook at blocks.1.attn.{name}.*method='hooks'"),
    ):
        stream(model, trace)
    stream(model, trace)


def test_hooks_inside_a_bridge_s_own_attention_are_refused() -> None:
    model, trace = tiny_model(backend="bridge"), make_trace(30)
    for name in ("hook_rot_q", "hook_rot_k"):
        hook = (f"blocks.2.attn.{name}", lambda x, hook: x)
        with model.hooks(fwd_hooks=[hook]), pytest.raises(ValueError, match=f"attn.{name}"):
            stream(model, trace)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["hook_q", "hook_k", "hook_v", "hook_z"])
def test_hooks_at_projections_and_head_outputs_act_as_on_the_reference_path(
    name: str, backend: Backend
) -> None:
    model, trace = tiny_model(backend=backend), make_trace(30)
    layout = step_layout(trace.step_ids)
    without = stream(model, trace)

    def shrink(x: Tensor, hook: Any) -> Tensor:
        return 0.5 * x

    with model.hooks(fwd_hooks=[(f"blocks.1.attn.{name}", shrink)]):
        got = stream(model, trace)
        want = reference(model, trace, NextToken(), layout)
    assert_close(got, want)
    assert (got - without).abs().max() > 1e-3 * without.max()


def in_place(x: Tensor, hook: Any) -> Tensor:
    x[:, 3:9] *= -0.5
    return x


def constant(x: Tensor, hook: Any) -> Tensor:
    return torch.full_like(x, 0.3)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "change", [in_place, constant, lambda x, hook: 0 * x, lambda x, hook: x**2]
)
@pytest.mark.parametrize("name", ["hook_k", "hook_v"])
def test_whatever_hooks_make_of_keys_and_values_is_differentiated(
    name: str, change: Callable[..., Tensor], backend: Backend
) -> None:
    model, trace = tiny_model(backend=backend), make_trace(30)
    with model.hooks(fwd_hooks=[(f"blocks.1.attn.{name}", change)]):
        got = stream(model, trace)
        want = reference(model, trace, NextToken(), step_layout(trace.step_ids))
    assert_close(got, want)


@pytest.mark.parametrize("per_head", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["attn.hook_z", "hook_attn_out", "hook_resid_post"])
def test_a_layer_that_is_cut_off_has_a_map_of_zeros(
    name: str, backend: Backend, per_head: bool
) -> None:
    model, trace = tiny_model(backend=backend), make_trace(30)
    with model.hooks(fwd_hooks=[(f"blocks.1.{name}", lambda x, hook: torch.zeros_like(x))]):
        maps = [
            ss.step_saliency(model, trace, method=method, per_head=per_head).maps
            for method in ("hooks", "streaming")
        ]
    assert_close(*maps)
    lowest = 0 if name == "hook_resid_post" else 1
    assert not maps[1][lowest:2].any()
    assert maps[1][2].any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_hooks_that_would_see_a_few_positions_are_refused(backend: Backend) -> None:
    model, trace = tiny_model(backend=backend), make_trace(30)
    name = next(name for name in model.hook_dict if name.startswith("ln_final"))
    with (
        model.hooks(fwd_hooks=[(name, lambda x, hook: x)]),
        pytest.raises(ValueError, match=rf"hook at {name}.*a few positions at a time"),
    ):
        stream(model, trace)


def test_a_model_whose_attention_the_adapter_does_not_catch_is_refused() -> None:
    model, trace = tiny_transformers("llama"), make_trace(30)
    for layer in model.model.layers:
        original = layer.self_attn.forward

        def twice(*args: Any, original: Callable[..., Any] = original, **kwargs: Any) -> Any:
            output, weights = original(*args, **kwargs)
            # an architecture that does something else when its own attention runs
            own = model.config._attn_implementation == "eager"
            return (2 * output if own else output), weights

        layer.self_attn.forward = twice
    with pytest.raises(ValueError, match=r"last residuals differ by \d"):
        stream(model, trace)


def test_masks_that_the_adapter_cannot_see_are_refused() -> None:
    model, trace = tiny_transformers("llama"), make_trace(30)
    model.config.layer_types = ["chunked_attention"] * 3
    with pytest.raises(ValueError, match=r"type 'chunked_attention'.*method='hooks'"):
        stream(model, trace)
    for layer in model.model.layers:
        layer.self_attn.is_causal = False
    with pytest.raises(ValueError, match="both directions"):
        stream(model, trace)


@pytest.mark.parametrize("arch", ["qwen2", "gpt2-like"])
def test_leading_pad_tokens_are_tokens_where_the_tokenizer_pads_on_the_left(arch: Arch) -> None:
    """With rotated and with learned positions, alone and in a batch."""
    model, trace = tiny_model(arch, backend=BACKEND), make_trace(20)
    trace.tokens[:2] = model.tokenizer.pad_token_id
    layout = step_layout(trace.step_ids)
    model.tokenizer.padding_side = "left"
    want = reference(model, trace, NextToken(), layout)
    assert_close(stream(model, trace, layout=layout), want)


def test_other_things_are_no_models() -> None:
    with pytest.raises(ValueError, match="got Linear"):
        stream(torch.nn.Linear(2, 2), make_trace(5))


@pytest.mark.parametrize("value", [torch.nan, -torch.inf])
def test_logits_that_are_not_finite_are_an_error(
    value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of each position, also if the loss has no part of it, as on the reference path."""
    model, trace = tiny_transformers("llama"), make_trace(30)
    stream(model, trace)
    token = (set(range(20, 60)) - set(trace.tokens.tolist())).pop()
    switch = torch.zeros(model.config.vocab_size)
    switch[token] = value
    project = model.lm_head.forward
    monkeypatch.setattr(model.lm_head, "forward", lambda resid: project(resid) + switch)
    with pytest.raises(ValueError, match="logits are not finite between positions 0 and 28"):
        stream(model, trace)


def test_gradients_that_are_not_finite_are_an_error() -> None:
    model, trace = tiny_transformers("llama"), make_trace(30)
    endless = Custom(lambda logits, _tokens: (logits - logits.detach()).abs().sum().sqrt())
    with pytest.raises(ValueError, match="<lambda> or its gradient is not finite"):
        stream(model, trace, endless)


def test_batches_that_do_not_fit_are_refused() -> None:
    model, trace = tiny_model(), make_trace(30)
    layout = step_layout(trace.step_ids)
    with pytest.raises(ValueError, match="local all or none"):
        streaming_maps(
            model,
            [trace] * 2,
            [NextToken(), SequenceLoss()],
            layouts=[layout] * 2,
            layers=[0],
        )
    with pytest.raises(ValueError, match="2 traces, 2 objectives and 1 layouts"):
        streaming_maps(model, [trace] * 2, [NextToken()] * 2, layouts=[layout], layers=[0])
    with pytest.raises(ValueError, match="layout of 30 positions for a trace of 20"):
        stream(model, make_trace(20), layout=layout)


@pytest.mark.parametrize("backend", BACKENDS)
def test_half_precision_errs_at_most_twice_as_much_as_the_reference(backend: Backend) -> None:
    trace = make_trace(257, n_steps=12)
    layout = step_layout(trace.step_ids)
    half = tiny_model("qwen2", backend=backend, dtype=torch.bfloat16)
    exact = tiny_model("qwen2", backend=backend, dtype=torch.bfloat16).to(torch.float64)
    truth = reference(exact, trace, NextToken(), layout)
    plain = reference(half, trace, NextToken(), layout)
    got = stream(half, trace)
    assert got.dtype == torch.float32
    assert (got - truth).norm() <= 2 * (plain - truth).norm()


@pytest.mark.parametrize("placement", ["cpu", "disk"])
def test_models_that_accelerate_spreads_give_the_same(placement: str, tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate")
    trace = make_trace(30)
    model = tiny_transformers("llama")
    want = stream(model, trace)
    device_map: dict[str, Any] = {
        "model.embed_tokens": "cpu",
        "model.rotary_emb": "cpu",
        "model.norm": "cpu",
        "lm_head": "cpu",
        "model.layers.0": "cpu",
        "model.layers.1": placement,
        "model.layers.2": placement,
    }
    spread = accelerate.dispatch_model(
        tiny_transformers("llama"),
        device_map,
        main_device="cpu",
        offload_dir=str(tmp_path),
        force_hooks=True,
    )
    if placement == "disk":
        assert spread.model.layers[1].mlp.up_proj.weight.is_meta
    assert torch.equal(stream(spread, trace), want)


class LargestTensor(TorchDispatchMode):
    """Largest storage, in bytes, that any operation returned while this was active."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(x, Tensor):
                self.bytes = max(self.bytes, x.untyped_storage().nbytes())
        return out


@contextmanager
def largest_tensor() -> Iterator[LargestTensor]:
    with LargestTensor() as meter:
        yield meter


def long_context_model(n_pos: int, vocab: int) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=n_pos,
    )
    return LlamaForCausalLM(config).eval()


@pytest.mark.parametrize("objective", [NextToken(), SequenceLoss()], ids=lambda o: o.name)
def test_nothing_of_size_pos_by_pos_or_pos_by_vocabulary_is_held(objective: Objective) -> None:
    n_pos, vocab = 4096, 6000
    model, trace = long_context_model(n_pos, vocab), make_trace(n_pos, n_steps=60)
    with largest_tensor() as meter:
        stream(model, trace, objective, layers=[0, 1])
    # four bytes an entry, even if only of one head; the vocabulary is larger still
    assert meter.bytes < 4 * n_pos * n_pos
    assert meter.bytes < 4 * n_pos * vocab


def test_the_meter_sees_what_the_reference_path_holds() -> None:
    n_pos, vocab = 256, 6000
    trace = make_trace(n_pos)
    model = tiny_model("llama", backend=BACKEND)
    with largest_tensor() as meter:
        reference(model, trace, NextToken(), step_layout(trace.step_ids))
    assert meter.bytes >= 4 * 4 * n_pos * n_pos
    plain = long_context_model(n_pos, vocab)
    with largest_tensor() as meter:
        plain(trace.tokens.unsqueeze(0))
    assert meter.bytes >= 4 * n_pos * vocab


def test_the_check_of_the_adapter_runs_once_per_model(monkeypatch: pytest.MonkeyPatch) -> None:
    model, trace = tiny_model(), make_trace(30)
    runs = []
    own = choice._last_resid
    monkeypatch.setattr(choice, "_last_resid", lambda *a: runs.append(1) or own(*a))
    stream(model, trace)
    stream(model, trace)
    assert len(runs) == 2


def test_chunks_of_logits_do_not_change_the_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    model, trace = tiny_model(), make_trace(63)
    want = stream(model, trace)
    monkeypatch.setitem(streaming.LOGIT_BYTES, "cpu", 4 * 320 * 5)
    assert_close(stream(model, trace), want, 1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("arch", ["llama", "gpt_oss", "gemma2"])
def test_what_is_kept_of_a_block_makes_no_difference(arch: Arch, backend: Backend) -> None:
    """Also in a padded batch, and with the lowest blocks left alone."""
    model = tiny_model(arch, backend=backend)
    traces = [make_trace(n, seed=n) for n in (30, 63)]
    layouts = [step_layout(trace.step_ids) for trace in traces]
    runs = {}
    for keep in ("inputs", "heads", "activations"):
        options: dict[str, Any] = {"layouts": layouts, "layers": [2, 1], "keep": keep}
        runs[keep] = streaming_maps(model, traces, [NextToken()] * 2, **options)
    for other in ("heads", "activations"):
        assert all(map(torch.equal, runs[other], runs["inputs"]))


@pytest.mark.parametrize(
    ("keep", "n_forward", "n_attention"), [("inputs", 2, 2), ("heads", 2, 1), ("activations", 1, 1)]
)
def test_what_is_kept_is_not_computed_twice(
    monkeypatch: pytest.MonkeyPatch, keep: Any, n_forward: int, n_attention: int
) -> None:
    model, trace = tiny_model(), make_trace(30)
    stream(model, trace)
    attentions, forwards = [], []
    attention = chunked.attention

    def counted(*args: Any, **options: Any) -> Any:
        attentions.append(1)
        return attention(*args, **options)

    monkeypatch.setattr(chunked, "attention", counted)
    handle = model.blocks[1].mlp.register_forward_hook(lambda *_: forwards.append(1))
    stream(model, trace, keep=keep)
    handle.remove()
    assert (len(forwards), len(attentions)) == (n_forward, 3 * n_attention)


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradient_at_the_logits_is_that_of_the_terms(
    objective: Objective, dtype: torch.dtype
) -> None:
    """The short form that maps take, against autograd through the terms in float64."""
    if isinstance(objective, Custom):
        return
    trace, generator = make_trace(40), torch.Generator().manual_seed(0)
    queries = objective.queries(40)
    logits = 5 * torch.randn(len(queries), 512, generator=generator, dtype=torch.float64)
    logits[0, trace.tokens[queries[0] + 1]] = 60.0  # sure
    wide = logits.to(dtype).double().requires_grad_()
    total = objective.position_losses(wide, trace.tokens, queries).sum()
    (exact,) = torch.autograd.grad(total, wide)
    got, gradient = objective.gradient(logits.to(dtype), trace.tokens, queries)
    tolerance = 1e-12 if dtype == torch.float64 else 2e-6
    torch.testing.assert_close(got, total.detach(), rtol=tolerance, atol=tolerance)
    assert gradient.dtype == dtype
    torch.testing.assert_close(gradient.double(), exact, rtol=5 * tolerance, atol=0)
