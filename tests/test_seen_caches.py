"""What a session counts as read: its own passes and caches, copies of these, nothing else."""

import copy
from importlib import import_module
from typing import Any

import pytest
import torch
from edit_passes import a_trace, load
from tiny import BACKENDS, Backend
from transformers import DynamicCache

from step_saliency.intervene import HeadScale

HEADS = HeadScale(["L0H1", "L1H2"], 0.0, regions=["thinking"])


def go_on(model: Any, tokens: torch.Tensor, cache: Any) -> torch.Tensor:
    """Logits of a pass over a cache of the library that the model is of."""
    is_bridge = hasattr(model, "original_model")
    name = "past_key_values" if is_bridge else "past_kv_cache"
    options = {"use_cache": True} if is_bridge else {}
    return model(tokens, return_type="logits", **{name: cache}, **options)


def empty_cache(model: Any) -> Any:
    if hasattr(model, "original_model"):
        return DynamicCache(config=model.original_model.config)
    kind = import_module("transformer_lens.cache.key_value_cache").TransformerLensKeyValueCache
    return kind.init_cache(model.cfg, torch.device("cpu"), 1)


@torch.no_grad()
@pytest.mark.parametrize("backend", BACKENDS)
def test_caches_of_another_history_are_refused(backend: Backend) -> None:
    """Whatever was read here before, what such a cache holds is not that."""
    model, edit = load("qwen2", backend), HEADS
    read, other = (a_trace(seed=seed).tokens[None] for seed in (1, 2))
    begun = other.shape[1] - 6
    with edit.attached(model, n_prompt=3):
        whole = model(other, return_type="logits")
    outside = HeadScale(["L0H1", "L1H2"], 0.0)  # what was read alike, but edited otherwise
    for tokens in (other, read):
        cache, mine = empty_cache(model), empty_cache(model)
        with outside.attached(model):
            go_on(model, tokens[:, :begun], cache)
        with edit.attached(model, n_prompt=3):
            go_on(model, read, mine)
            with pytest.raises(ValueError, match=f"{begun} positions.*not read.*resume"):
                go_on(model, tokens[:, begun:], cache)
    cache = empty_cache(model)
    with edit.attached(model, n_prompt=3):
        go_on(model, other[:, :begun], cache)
    with edit.attached(model, n_prompt=3) as session:
        model(read)
        session.resume(other[:, :begun])
        found = go_on(model, other[:, begun:], cache)
    assert (found - whole[:, begun:]).abs().max() < 1e-5 * whole.abs().max()


@torch.no_grad()
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("arch", ["qwen2", "gemma3"])
def test_copies_of_a_cache_go_on_from_what_was_read(arch: str, backend: Backend) -> None:
    """As a prompt that is read once for several answers."""
    model, edit = load(arch, backend), HEADS
    traces = [a_trace(seed=seed).tokens[None] for seed in (1, 2)]
    prompt, begun = traces[0][:, :5], 5
    answers = [tokens[:, begun:] for tokens in traces]
    whole = []
    for answer in answers:
        with edit.attached(model, n_prompt=3):
            whole.append(model(torch.cat([prompt, answer], 1), return_type="logits")[:, begun:])
    cache = empty_cache(model)
    with edit.attached(model, n_prompt=3):
        go_on(model, prompt, cache)
        copies = [copy.deepcopy(cache) for _ in answers]
        found = [go_on(model, *of) for of in zip(answers, copies, strict=True)]
        found.append(go_on(model, answers[1], cache))
    for logits, expected in zip(found, [*whole, whole[1]], strict=True):
        assert (logits - expected).abs().max() < 1e-5 * expected.abs().max()
    assert not torch.allclose(*whole)


@torch.no_grad()
def test_caches_that_a_pass_makes_are_its_own() -> None:
    model, edit, tokens = load("qwen2", "bridge"), HEADS, a_trace().tokens[None]
    with edit.attached(model, n_prompt=3):
        whole = model(tokens, return_type="logits")
        first = model.original_model(tokens[:, :9], use_cache=True)
        rest = model.original_model(tokens[:, 9:], past_key_values=first.past_key_values)
        assert (rest.logits - whole[:, 9:]).abs().max() < 1e-5 * whole.abs().max()
    cache = model.original_model(a_trace(seed=2).tokens[None, :9]).past_key_values
    with edit.attached(model, n_prompt=3):
        model(tokens)
        with pytest.raises(ValueError, match="9 positions that were not read here"):
            model.original_model(tokens[:, 9:], past_key_values=cache)


@torch.no_grad()
@pytest.mark.parametrize("backend", BACKENDS)
def test_labels_are_those_of_their_pass_alone(backend: Backend) -> None:
    model, tokens = load("gpt2-like", backend), a_trace().tokens[None]
    resid = torch.randn(*tokens.shape, model.cfg.d_model)
    with HEADS.attached(model) as session:
        model(tokens)
        assert session.labels is not None
        with pytest.raises(ValueError, match="did not pass the first layer"):
            model.blocks[1](resid)
        if backend == "hooked":
            with pytest.raises(ValueError, match="did not pass the first layer"):
                model(resid, start_at_layer=1)
        model(tokens)
