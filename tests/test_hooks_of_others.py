"""Hooks of the user's that are on a model while it is mapped: they act as in the model, or are
refused."""

from typing import Any

import pytest
import torch
from brute import one_backward_per_token
from test_streaming import assert_close, make_trace, stream
from tiny import BACKENDS, Arch, Backend, random_tokens, tiny_model
from torch import Tensor

import step_saliency as ss
from step_saliency.models.hooking import module_hook
from step_saliency.options import QUANTITIES
from step_saliency.saliency.layerwise import mismatch, refusal
from step_saliency.saliency.objectives import NextToken
from step_saliency.saliency.pooling import step_layout, sum_tokens

JOINT: dict[Arch, tuple[str, ...]] = {
    "gpt2-like": ("hook_q", "hook_k", "hook_v", "hook_z", "o.hook_out", "qkv.hook_out"),
    "neox": ("hook_q", "hook_k", "hook_v", "qkv.hook_out"),
    "qwen3": ("q_norm.hook_out", "k_norm.hook_out"),
}
"""Points that a bridge's attention has and the transformers attention inside it has not, or in
another shape."""


def stretch(x: Tensor, hook: Any) -> Tensor:
    x = x.clone()
    x[:, 2:4] = x[:, 2:4] * 1.7 + 0.1
    return x


def truth(model: Any, trace: ss.Trace) -> Tensor:
    """Totals of steps by head, from one backward pass per token."""
    influence = one_backward_per_token(model, trace.tokens, NextToken())
    return sum_tokens(influence, step_layout(trace.step_ids))


def totals(model: Any, trace: ss.Trace, method: Any) -> Tensor:
    return ss.step_saliency(model, trace, method=method, pool="sum", per_head=True).maps


@pytest.mark.parametrize(
    ("arch", "point"), [(arch, point) for arch, points in JOINT.items() for point in points]
)
def test_points_that_step_attention_goes_past_are_refused(arch: Arch, point: str) -> None:
    """On a model that was mapped before, and whose comparison is not made again."""
    model, trace = tiny_model(arch, backend="bridge"), make_trace(20)
    stream(model, trace)
    with model.hooks(fwd_hooks=[(f"blocks.1.attn.{point}", stretch)]):
        with pytest.raises(ValueError, match=r"hook at blocks\.1\.attn\..*method='hooks'"):
            stream(model, trace)
        assert_close(totals(model, trace, "hooks"), truth(model, trace))
    stream(model, trace)


@pytest.mark.parametrize("arch", ["gpt2-like", "neox", "qwen3"])
def test_auto_takes_hooks_for_them(arch: Arch) -> None:
    model, trace = tiny_model(arch, backend="bridge"), make_trace(300)
    clean = ss.step_saliency(model, trace)
    point = JOINT[arch][0]
    with (
        model.hooks(fwd_hooks=[(f"blocks.1.attn.{point}", stretch)]),
        pytest.warns(UserWarning, match="mapped by hooks, slower"),
    ):
        edited = ss.step_saliency(model, trace)
    assert (clean.method, edited.method) == ("streaming", "hooks")
    assert not torch.allclose(edited.maps, clean.maps, rtol=1e-3)


@pytest.mark.parametrize("arch", ["gpt2-like", "neox", "qwen3", "gemma3"])
@pytest.mark.parametrize(
    "point", ["attn.hook_in", "attn.hook_out", "hook_resid_pre", "mlp.hook_out", "attn.hook_z"]
)
def test_points_that_it_calls_alike_still_stream(arch: Arch, point: str) -> None:
    if (arch, point) == ("gpt2-like", "attn.hook_z"):
        return
    model, trace = tiny_model(arch, backend="bridge"), make_trace(20)
    with model.hooks(fwd_hooks=[(f"blocks.1.{point}", stretch)]):
        assert_close(totals(model, trace, "streaming"), truth(model, trace))


def triple(_module: Any, _args: Any, output: Any) -> Any:
    output = output.clone()
    output[:, 8:12] = 3 * output[:, 8:12] + 1
    return output


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("place", ["root", "ln_final", "unembed"])
def test_torch_hooks_after_the_blocks_or_around_them_are_refused(
    place: str, backend: Backend
) -> None:
    model, trace = tiny_model(backend=backend), make_trace(20)
    clean = stream(model, trace)
    module = model if place == "root" else getattr(model, place)
    with module_hook(module.register_forward_hook, triple):
        with pytest.raises(ValueError, match=r"hook at \w+.*a few positions at a time"):
            stream(model, trace)
        assert_close(totals(model, trace, "hooks"), truth(model, trace))
    assert torch.equal(stream(model, trace), clean)


def test_torch_hooks_inside_of_a_bridge_s_attention_are_refused_where_they_would_not_act() -> None:
    trace = make_trace(20)
    for arch, is_called in (("gpt2-like", False), ("neox", False), ("qwen2", True)):
        model = tiny_model(arch, backend="bridge")
        with module_hook(model.blocks[1].attn.v.register_forward_hook, triple):
            if is_called:
                assert_close(totals(model, trace, "streaming"), truth(model, trace))
            else:
                with pytest.raises(ValueError, match=r"hook at blocks\.1\.\S*\.v, a point"):
                    stream(model, trace)


def triple_first(_module: Any, args: Any, output: Any) -> Any:
    if isinstance(output, tuple):
        return triple(None, args, output[0]), *output[1:]
    return triple(None, args, output)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("place", ["", "mlp", "attn"])
def test_torch_hooks_in_the_blocks_act(place: str, backend: Backend) -> None:
    """Once: also those on the last block itself, which is passed by where logits are made."""
    model, trace = tiny_model(backend=backend), make_trace(20)
    module = model.blocks[2].get_submodule(place)
    with module_hook(module.register_forward_hook, triple_first):
        assert_close(totals(model, trace, "streaming"), truth(model, trace))


def steer_late(resid: Tensor, hook: Any) -> Tensor:
    resid = resid.clone()
    resid[:, 60] += 1.0
    return resid


@pytest.mark.parametrize("backend", BACKENDS)
def test_hooks_made_for_long_traces_act_on_a_fresh_model(backend: Backend) -> None:
    """The model is compared in 16 tokens, which such a hook could not take."""
    trace = make_trace(80)
    model, other = (tiny_model(backend=backend) for _ in range(2))
    stream(other, trace)
    hook = ("blocks.1.hook_resid_post", steer_late)
    with model.hooks(fwd_hooks=[hook]), other.hooks(fwd_hooks=[hook]):
        got = totals(model, trace, "streaming")
        assert torch.equal(got, totals(other, trace, "streaming"))
        assert_close(got, totals(model, trace, "hooks"))


def double_values(model: Any) -> None:
    with torch.no_grad():
        model.blocks[1].attn.v.weight.mul_(2.0)


def process(model: Any) -> None:
    model.enable_compatibility_mode(disable_warnings=True)


@pytest.mark.parametrize(("arch", "alter"), [("neox", double_values), ("gpt2-like", process)])
def test_a_model_that_changed_is_compared_again(arch: Arch, alter: Any) -> None:
    """A bridge splits joint projections, and the attention inside of it keeps the joint ones."""
    trace, model = make_trace(300), tiny_model(arch, backend="bridge")
    assert ss.step_saliency(model, trace).method == "streaming"
    alter(model)
    with pytest.raises(ValueError, match=r"last residuals differ by \d.*method='hooks'"):
        ss.step_saliency(model, trace, method="streaming")
    with pytest.warns(UserWarning, match="mapped by hooks, slower .* differ by") as said:
        mapped = ss.step_saliency(model, trace)
    assert len(said) == 1
    assert mapped.method == "hooks"
    assert torch.equal(mapped.maps, ss.step_saliency(model, trace, method="hooks").maps)


@pytest.mark.parametrize("backend", BACKENDS)
def test_weights_that_change_in_both_ways_of_running_still_stream(backend: Backend) -> None:
    trace, model = make_trace(20), tiny_model(backend=backend)
    before = stream(model, trace)
    with torch.no_grad():
        for parameter in model.blocks[1].parameters():
            parameter.mul_(1.5)
    assert_close(totals(model, trace, "streaming"), truth(model, trace))
    assert not torch.allclose(stream(model, trace), before, rtol=1e-3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_parameters_of_hooks_get_no_gradient(backend: Backend) -> None:
    """A steering vector that is being trained keeps the gradient that it has."""
    model, trace = tiny_model(backend=backend), make_trace(20)
    vector = torch.nn.Parameter(torch.zeros(32))
    scores = torch.nn.Parameter(torch.zeros(()))
    added = [
        ("blocks.1.hook_resid_post", lambda resid, hook: resid + vector),
        ("blocks.1.attn.hook_attn_scores", lambda x, hook: x + scores),
    ]
    for keep in ("inputs", "heads", "activations"):
        with model.hooks(fwd_hooks=added[:1]):
            stream(model, trace, keep=keep)
    with model.hooks(fwd_hooks=added):
        totals(model, trace, "hooks")
    assert vector.grad is scores.grad is None


def uniform(x: Tensor, hook: Any) -> Tensor:
    seen = torch.ones_like(x).tril()
    return seen / seen.sum(-1, keepdim=True)


def patched_truth(model: Any, trace: ss.Trace, layer: int) -> Tensor:
    """Totals of one layer from one backward pass per token, its pattern being a leaf."""
    patterns: list[Tensor] = []

    def keep_leaf(pattern: Tensor, hook: Any) -> Tensor:
        patterns[:] = [pattern.detach().clone().requires_grad_()]
        return patterns[0]

    rows = []
    for t in range(len(trace.tokens) - 1):
        with model.hooks(fwd_hooks=[(f"blocks.{layer}.attn.hook_pattern", keep_leaf)]):
            logits = model(trace.tokens[None], return_type="logits")[0]
        loss = torch.nn.functional.cross_entropy(logits[t], trace.tokens[t + 1])
        (gradient,) = torch.autograd.grad(loss, patterns[0])
        rows.append((patterns[0] * gradient).abs()[0, :, t].detach())
    influence = torch.stack([*rows, torch.zeros_like(rows[0])], dim=1)
    return sum_tokens(influence, step_layout(trace.step_ids))


PATCHED = ("attn.hook_pattern", "attn.hook_attn_scores", "hook_resid_pre")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("point", PATCHED)
def test_what_replaces_activations_is_differentiated_too(point: str, backend: Backend) -> None:
    """Activation patching: the pattern has no history, and is an activation all the same."""
    model, trace = tiny_model(backend=backend, dtype=torch.float64), make_trace(20)
    name = f"blocks.1.{point}"
    _, cache = model.run_with_cache(random_tokens(20, seed=9))
    cached = cache[name].detach().clone()
    with model.hooks(fwd_hooks=[(name, lambda x, hook: cached)]):
        want = patched_truth(model, trace, 1)
        assert_close(totals(model, trace, "hooks")[1], want, 1e-10)
        if point == "hook_resid_pre":
            for keep in ("inputs", "heads", "activations"):
                assert_close(stream(model, trace, per_head=True, keep=keep)[1], want, 1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_uniform_pattern_in_every_layer_is_differentiated(backend: Backend) -> None:
    model, trace = tiny_model(backend=backend, dtype=torch.float64), make_trace(20)
    names = [f"blocks.{layer}.attn.hook_pattern" for layer in range(3)]
    with model.hooks(fwd_hooks=[(name, uniform) for name in names]):
        got = totals(model, trace, "hooks")
        for layer in range(3):
            assert_close(got[layer], patched_truth(model, trace, layer), 1e-10)


def zero_in_place(x: Tensor, hook: Any) -> Tensor:
    x[:, 1] = 0
    return x


def zero_copy(x: Tensor, hook: Any) -> Tensor:
    return zero_in_place(x.clone(), hook)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("point", ["hook_resid_pre", "attn.hook_z", "attn.hook_pattern"])
def test_edits_in_place_act_as_edits_of_a_copy(point: str, layer: int, backend: Backend) -> None:
    model, trace = tiny_model(backend=backend, dtype=torch.float64), make_trace(20)
    methods = ("hooks",) if point == "attn.hook_pattern" else ("hooks", "streaming")
    for method in methods:
        maps = []
        for edit in (zero_in_place, zero_copy):
            with model.hooks(fwd_hooks=[(f"blocks.{layer}.{point}", edit)]):
                maps.append(totals(model, trace, method))
        assert_close(*maps, 1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("arch", ["gemma2", "mistral"])
def test_no_quantity_counts_keys_that_the_window_hides(arch: Arch, backend: Backend) -> None:
    model, trace = tiny_model(arch, backend=backend, window=6), make_trace(20)
    hidden = torch.ones(20, 20).tril(-6).bool()
    for quantity in QUANTITIES:
        influence = ss.token_map(model, trace, layer=0, quantity=quantity)
        assert not influence[hidden].any()
        assert influence[~hidden].any()
        full = ss.token_map(model, trace, layer=1, quantity=quantity)
        assert bool(full[hidden].any()) == (arch == "gemma2")


def steer_late_by_torch(_module: Any, _args: Any, output: Tensor) -> Tensor:
    return steer_late(output, None)


@pytest.mark.parametrize("backend", BACKENDS)
def test_torch_hooks_made_for_long_traces_are_left_out_of_short_passes(backend: Backend) -> None:
    model, trace = tiny_model(backend=backend), make_trace(80)
    with module_hook(model.blocks[1].mlp.register_forward_hook, steer_late_by_torch):
        assert refusal(model) is None
        assert mismatch(model, trace.tokens) is None
