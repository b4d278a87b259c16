"""Torch hooks of the user's on blocks and on plain transformers models: a map honours them, or
refuses."""

from typing import Any

import pytest
import torch
from brute import one_backward_per_token, with_transformers
from test_streaming import assert_close, make_trace, stream
from tiny import BACKENDS, Arch, Backend, tiny_model, tiny_transformers
from torch import Tensor

from step_saliency.models.hooking import module_hook
from step_saliency.saliency import streaming
from step_saliency.saliency.layerwise import refusal
from step_saliency.saliency.objectives import NextToken
from step_saliency.saliency.pooling import step_layout, sum_tokens

KEEPS = ("inputs", "heads", "activations")
ARCHS: tuple[Arch, ...] = ("llama", "gpt2-like", "gemma2")
BLOCKS = {"llama": "model.layers", "gemma2": "model.layers", "gpt2-like": "transformer.h"}
LATE = {
    "llama": ("", "model", "model.norm", "lm_head"),
    "gpt2-like": ("", "transformer", "transformer.ln_f", "lm_head"),
}


def stretched(x: Tensor) -> Tensor:
    x = x.clone()
    x[:, 8:12] = 3 * x[:, 8:12] + 1
    return x


def stretch(_module: Any, _args: Any, output: Any) -> Any:
    if isinstance(output, tuple):
        return stretched(output[0]), *output[1:]
    return stretched(output)


def stretch_input(_module: Any, args: Any, kwargs: Any) -> Any:
    if args:
        return (stretched(args[0]), *args[1:]), kwargs
    return args, {**kwargs, "hidden_states": stretched(kwargs["hidden_states"])}


def stretch_input_in_place(_module: Any, args: Any, kwargs: Any) -> None:
    x = args[0] if args else kwargs["hidden_states"]
    x[:, 8:12] = 0.5 * x[:, 8:12] + 1


def hooked(module: Any, hook: Any) -> Any:
    if hook is stretch:
        return module_hook(module.register_forward_hook, hook)
    return module_hook(module.register_forward_pre_hook, hook, with_kwargs=True)


def check_maps(model: Any, influence: Tensor, trace: Any) -> None:
    want = sum_tokens(influence, step_layout(trace.step_ids))
    for keep in KEEPS:
        assert_close(stream(model, trace, per_head=True, keep=keep), want)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("hook", [stretch_input, stretch_input_in_place])
def test_hooks_before_a_block_act_once(hook: Any, layer: int, backend: Backend) -> None:
    """Also where the block runs again for its gradient."""
    model, trace = tiny_model("qwen2", backend=backend), make_trace(20)
    with hooked(model.blocks[layer], hook):
        check_maps(model, one_backward_per_token(model, trace.tokens, NextToken()), trace)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("hook", [stretch, stretch_input, stretch_input_in_place])
@pytest.mark.parametrize("place", ["0", "2", "1.mlp", "1.{attention}"])
def test_hooks_on_and_in_blocks_of_a_plain_model_act(place: str, hook: Any, arch: Arch) -> None:
    model, trace = tiny_transformers(arch), make_trace(20)
    attention = "attn" if arch == "gpt2-like" else "self_attn"
    module = model.get_submodule(f"{BLOCKS[arch]}.{place.format(attention=attention)}")
    with hooked(module, hook):
        check_maps(model, with_transformers(model, trace.tokens, NextToken()), trace)


@pytest.mark.parametrize("arch", ARCHS)
def test_hooks_before_the_blocks_of_a_plain_model_act(
    arch: Arch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as on the embedding; also a hook that a few positions would be too few for."""
    model, trace = tiny_transformers(arch), make_trace(20)
    monkeypatch.setitem(streaming.LOGIT_BYTES, "cpu", 1)
    modules = [model.get_input_embeddings()]
    modules += [model.transformer.drop] if arch == "gpt2-like" else []
    for module in modules:
        with hooked(module, stretch):
            check_maps(model, with_transformers(model, trace.tokens, NextToken()), trace)


@pytest.mark.parametrize(("arch", "place"), [(a, p) for a, places in LATE.items() for p in places])
@pytest.mark.parametrize("hook", [stretch, stretch_input])
def test_hooks_after_or_around_the_blocks_of_a_plain_model_are_refused(
    hook: Any, place: str, arch: Arch
) -> None:
    model, trace = tiny_transformers(arch), make_trace(20)
    clean = stream(model, trace)
    name = place or type(model).__name__
    with hooked(model.get_submodule(place), hook):
        with pytest.raises(ValueError, match=rf"hook at {name}, .*a few positions at a time"):
            stream(model, trace)
        assert name in str(refusal(model))
    assert torch.equal(stream(model, trace), clean)
    assert refusal(model) is None
