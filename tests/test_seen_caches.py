"""What a session counts as read: its own passes and caches, copies of these, nothing else."""

import copy
import pickle
from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest
import torch
from edit_passes import a_trace, load
from tiny import BACKENDS, Backend
from transformers import DynamicCache, Qwen2Config, StaticCache

from step_saliency.intervene import HeadScale
from step_saliency.intervene.seen_caches import SeenCaches

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


CONFIG = Qwen2Config(
    num_hidden_layers=2, hidden_size=16, num_attention_heads=2, num_key_value_heads=2
)


class Tagged(DynamicCache):  # type: ignore[misc]
    """Made anew by a function and arguments of its own."""

    def __init__(self, tag: str = "") -> None:
        super().__init__()
        self.tag = tag

    def __reduce__(self) -> Any:
        return tagged, (self.tag,), self.__dict__


def tagged(tag: str) -> Tagged:
    return Tagged(tag)


class Copying(DynamicCache):  # type: ignore[misc]
    def __deepcopy__(self, memo: dict[int, Any]) -> "Copying":
        other = type(self)()
        other.layers = copy.deepcopy(self.layers, memo)
        return other


class AllEqual(DynamicCache):  # type: ignore[misc]
    def __eq__(self, other: object) -> bool:
        return isinstance(other, AllEqual)


class Slotted:
    __slots__ = ("__weakref__", "layers")

    def __init__(self) -> None:
        self.layers: list[Any] = []

    def reorder_cache(self, rows: Any) -> None:
        pass


class Registered(DynamicCache):  # type: ignore[misc]
    def __init_subclass__(cls, *, name: str) -> None:
        pass


MADE: dict[str, Callable[[], Any]] = {
    "dynamic": lambda: DynamicCache(config=CONFIG),
    "static": lambda: StaticCache(config=CONFIG, max_cache_len=8),
    "reduce": lambda: Tagged("mine"),
    "deepcopy": Copying,
    "unhashable": AllEqual,
    "slots": Slotted,
}
COPIES: dict[str, Callable[[Any], Any]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    **{
        f"pickle {protocol}": lambda cache, p=protocol: pickle.loads(pickle.dumps(cache, p))
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
    },
}


class Heard:
    def __init__(self) -> None:
        self.rows: list[list[int]] = []

    def keep(self, rows: torch.Tensor) -> None:
        self.rows.append(rows.tolist())


def filled(make: Callable[[], Any]) -> Any:
    cache = make()
    for layer in range(2) if hasattr(cache, "update") else ():
        cache.update(torch.randn(3, 2, 4, 8), torch.randn(3, 2, 4, 8), layer)
    return cache


@pytest.mark.parametrize("kind", MADE)
@pytest.mark.parametrize("way", COPIES)
def test_caches_that_are_followed_are_of_their_kind(way: str, kind: str) -> None:
    """Also their copies and pickles, which can be followed in their turn, and tell once."""
    if kind == "slots" and way in ("pickle 0", "pickle 1"):
        return  # Python itself cannot
    cache, listener = filled(MADE[kind]), Heard()
    own = type(cache)
    seen = SeenCaches(listener)
    seen.see(cache, None)
    assert isinstance(cache, own)
    assert type(cache).__name__ == own.__name__
    other = COPIES[way](cache)
    assert type(other) is own
    assert getattr(other, "tag", "mine") == "mine"
    pairs = zip(other.layers, cache.layers, strict=True)
    assert all(layer.keys.equal(copied.keys) for layer, copied in pairs)
    order = torch.tensor([2, 0, 1])
    other.reorder_cache(order)
    assert listener.rows == []
    seen.see(other, torch.zeros(3, 4, dtype=torch.long))
    for followed in (cache, other):
        followed.reorder_cache(order)
    assert listener.rows == [[2, 0, 1]] * 2
    seen.close()
    assert type(cache) is type(other) is own
    cache.reorder_cache(order)
    assert len(listener.rows) == 2


def test_two_sessions_hear_of_one_cache() -> None:
    cache, one, two = filled(MADE["dynamic"]), Heard(), Heard()
    first, second = SeenCaches(one), SeenCaches(two)
    first.see(cache, None)
    second.see(cache, None)
    cache.reorder_cache(torch.tensor([1, 0, 2]))
    first.close()
    cache.reorder_cache(torch.tensor([0, 1, 2]))
    second.close()
    assert (len(one.rows), len(two.rows), type(cache)) == (1, 2, DynamicCache)


def test_a_cache_that_cannot_be_followed_is_refused() -> None:
    listener = Heard()
    with pytest.raises(ValueError, match=r"class Registered cannot be followed.*name"):
        SeenCaches(listener).see(filled(Registered), None)
