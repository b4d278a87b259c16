"""The adapter into transformers' attention: it bites, in every layer, and leaves nothing behind."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from tiny import BACKENDS, Arch, random_tokens, tiny_model, tiny_transformers
from torch import Tensor
from transformers import (
    AttentionInterface,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedModel,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from step_saliency.models.adapter import UNMASKED, adapted_attention, decoder_layers


class Recorder:
    """SDPA, or head outputs of zero, which keeps the layers and masks of its calls."""

    def __init__(self, *, zero: bool = False) -> None:
        self.zero = zero
        self.layers: list[int] = []
        self.masks: list[Tensor | None] = []

    def __call__(
        self, module: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, **options: Any
    ) -> tuple[Tensor, None]:
        self.layers.append(module.layer_idx)
        self.masks.append(mask)
        z = sdpa_attention_forward(module, q, k, v, mask, **options)[0]
        return (torch.zeros_like(z) if self.zero else z), None


def tiny_composite() -> PreTrainedModel:
    """A model that reads images and text, whose attention is named in two configs."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    config = LlavaConfig(
        text_config=LlamaConfig(**sizes, num_hidden_layers=3, vocab_size=40),
        vision_config=CLIPVisionConfig(**sizes, num_hidden_layers=2, image_size=8, patch_size=4),
        image_token_index=39,
    )
    model = LlavaForConditionalGeneration(config)
    model.set_attn_implementation("eager")
    return model.eval()


def implementations(model: PreTrainedModel) -> list[str]:
    configs = [getattr(module, "config", None) for module in model.modules()]
    return [config._attn_implementation for config in configs if config is not None]


def logits_of(model: PreTrainedModel, n_pos: int = 7) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(random_tokens(n_pos) % 39, use_cache=False).logits
    return logits


@contextmanager
def left_as_it_was(model: PreTrainedModel) -> Iterator[None]:
    names, logits = implementations(model), logits_of(model)
    methods = [sorted(vars(module)) for module in model.modules()]
    yield
    assert implementations(model) == names
    assert [sorted(vars(module)) for module in model.modules()] == methods
    assert torch.equal(logits_of(model), logits)


@pytest.mark.parametrize("arch", ["llama", "gemma3", "gpt2-like", "neox"])
def test_one_function_is_the_attention_of_every_layer(arch: Arch) -> None:
    model, zeros = tiny_transformers(arch), Recorder(zero=True)
    with left_as_it_was(model):
        own = logits_of(model)
        with adapted_attention(model, zeros):
            edited = logits_of(model)
    assert zeros.layers == list(range(len(decoder_layers(model))))
    # the first position sees one key, so that only later ones would tell a mask apart
    assert not torch.allclose(edited[:, 0], own[:, 0])


@pytest.mark.parametrize("masked", [False, True])
def test_sdpa_by_way_of_the_adapter_is_sdpa(masked: bool) -> None:
    model = tiny_transformers("qwen2")
    model.set_attn_implementation("sdpa")
    with left_as_it_was(model):
        own, recorder = logits_of(model), Recorder()
        with adapted_attention(model, recorder, masked=masked):
            assert torch.equal(logits_of(model), own)


def test_masks_come_where_they_are_asked_for() -> None:
    model = tiny_transformers("llama")
    padded = {"attention_mask": torch.tensor([[0, 0, 1, 1, 1]]), "use_cache": False}
    for masked in (False, True):
        recorder = Recorder()
        with adapted_attention(model, recorder, masked=masked), torch.no_grad():
            model(random_tokens(5), **padded)
        assert [mask is not None for mask in recorder.masks] == [masked] * 3


def test_a_text_model_inside_another_is_adapted_and_the_rest_is_left_alone() -> None:
    model, zeros = tiny_composite(), Recorder(zero=True)
    with left_as_it_was(model):
        own = logits_of(model)
        with adapted_attention(model, zeros):
            assert model.config.text_config._attn_implementation == UNMASKED
            assert model.config.vision_config._attn_implementation == "eager"
            edited = logits_of(model)
    assert zeros.layers == [0, 1, 2]
    assert not torch.allclose(edited, own)


def test_configs_that_differ_are_each_restored() -> None:
    model = tiny_composite()
    model.set_attn_implementation({"": "eager", "text_config": "sdpa", "vision_config": "eager"})
    with left_as_it_was(model), adapted_attention(model, Recorder()):
        logits_of(model)
    assert model.config.text_config._attn_implementation == "sdpa"


def test_an_error_leaves_nothing_behind() -> None:
    model = tiny_transformers("llama")

    def fail(*_args: Any, **_options: Any) -> tuple[Tensor, None]:
        raise RuntimeError("on the way")

    with left_as_it_was(model):
        with pytest.raises(RuntimeError, match="on the way"), adapted_attention(model, fail):
            logits_of(model)
        recorder = Recorder()
        with adapted_attention(model, recorder):
            logits_of(model)
        assert recorder.layers == [0, 1, 2]


def test_the_inner_context_holds_and_then_the_outer_one() -> None:
    model, outer, inner = tiny_transformers("llama"), Recorder(), Recorder()
    with left_as_it_was(model), adapted_attention(model, outer, masked=True):
        with adapted_attention(model, inner):
            logits_of(model)
        assert (outer.layers, inner.layers) == ([], [0, 1, 2])
        logits_of(model)
        assert (outer.layers, inner.layers) == ([0, 1, 2], [0, 1, 2])


@pytest.mark.skipif("bridge" not in BACKENDS, reason="no TransformerBridge")
def test_a_bridge_hands_over_to_the_attention_inside_it() -> None:
    bridge: Any = tiny_model("llama", backend="bridge")
    tokens, recorder = random_tokens(7), Recorder()
    own = bridge(tokens)
    with adapted_attention(bridge.original_model, recorder, bridge=bridge), torch.no_grad():
        torch.testing.assert_close(bridge(tokens), own, atol=1e-5, rtol=1e-4)
    assert recorder.layers == [0, 1, 2]
    assert torch.equal(bridge(tokens), own)
    assert len(recorder.layers) == 3


def test_models_with_their_attention_from_elsewhere_are_refused() -> None:
    model = tiny_transformers("llama")
    model._supports_attention_backend = False
    with (
        pytest.raises(ValueError, match="does not take its attention from transformers' registry"),
        adapted_attention(model, Recorder()),
    ):
        pytest.fail("was adapted")


def test_a_layer_that_keeps_a_config_to_itself_is_refused() -> None:
    model = tiny_transformers("llama")
    model.model.layers[1].self_attn.config = LlamaConfig(attn_implementation="eager")
    with (
        left_as_it_was(model),
        pytest.raises(ValueError, match="method='hooks'"),
        adapted_attention(model, Recorder()),
    ):
        pytest.fail("was adapted")


def test_names_of_others_stay_in_the_registry() -> None:
    before = set(AttentionInterface().valid_keys())
    with adapted_attention(tiny_transformers("llama"), Recorder()):
        pass
    assert set(AttentionInterface().valid_keys()) - before <= {UNMASKED}
