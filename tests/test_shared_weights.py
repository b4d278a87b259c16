"""The reference model of a loaded model: on its very weights where none was computed."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import BACKENDS, Arch, Backend, tiny_tokenizer, tiny_transformers
from transformer_lens.model_bridge import TransformerBridge
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import step_saliency as ss
from step_saliency.decoding import loops
from step_saliency.models.reference import (
    check_reference_model,
    load_reference,
    reference_model,
)

QUESTION = "What is 3 and 4?"
TOKENS = (torch.arange(24) * 11 % 80 + 5)[None]
KINDS: tuple[Arch, ...] = ("qwen2", "llama", "qwen3", "gemma2", "neox")
COMPUTED = {("gemma2", "hooked"), ("neox", "hooked")}
"""Norms that count from one, and projections that are split: a HookedTransformer's are others."""


def saved(folder: Path, arch: Arch) -> Path:
    tiny_transformers(arch).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def memory(model: Any) -> set[int]:
    return {weight.data_ptr() for weight in model.parameters()}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("arch", KINDS)
def test_weights_are_there_once(tmp_path: Path, arch: Arch, backend: Backend, dtype: str) -> None:
    """To the bit what the weights give that are read once more."""
    model = ss.load_model(saved(tmp_path, arch), backend=backend, dtype=dtype)
    needs_grad = [weight.requires_grad for weight in model.parameters()]
    shared, (read, _) = reference_model(model), load_reference(model)
    assert read is not None
    assert (memory(shared) <= memory(model)) == ((arch, backend) not in COMPUTED)
    assert memory(read).isdisjoint(memory(model))
    with torch.no_grad():
        assert torch.equal(shared(TOKENS).logits, read(TOKENS).logits)
    buffers = dict(read.named_buffers())
    assert all(torch.equal(own, buffers[name]) for name, own in shared.named_buffers())
    assert [name for name, _ in shared.named_parameters()] == [
        n for n, _ in read.named_parameters()
    ]
    assert not any(weight.requires_grad for weight in shared.parameters())
    assert [weight.requires_grad for weight in model.parameters()] == needs_grad


@pytest.mark.parametrize("backend", BACKENDS)
def test_changes_in_place_are_followed(tmp_path: Path, backend: Backend) -> None:
    """And weights that are replaced are not passed over."""
    model = ss.load_model(saved(tmp_path, "qwen2"), backend=backend)
    reference, tokens = reference_model(model), TOKENS[0].tolist()
    weight = max(model.blocks[1].mlp.parameters(), key=torch.numel)
    with torch.no_grad():
        before = reference(TOKENS).logits
        weight.mul_(1.5)
        assert not torch.equal(reference(TOKENS).logits, before)
    check_reference_model(model, reference, tokens)
    weight.data = weight.data * 1.5
    with pytest.raises(ValueError, match="after weights were changed"):
        check_reference_model(model, reference, tokens)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("way", ["replaced", "in place"])
@pytest.mark.parametrize("arch", ["qwen2", "gemma2"])
def test_the_model_as_it_is_decodes(tmp_path: Path, arch: Arch, way: str, backend: Backend) -> None:
    """Also where only a token changes that the prompt lacks, which no comparison over it shows."""
    model = ss.load_model(saved(tmp_path, arch), backend=backend)
    before = written(model, "fast")
    drawn = next(token for token in before if token not in prompt_of(model))
    embedding = model.embed
    name, weight = next(iter(embedding.named_parameters()))
    with torch.no_grad():
        if way == "in place":
            weight[drawn] *= -3
        else:
            other = weight.detach().clone()
            other[drawn] *= -3
            module, _, own = name.rpartition(".")
            setattr(embedding.get_submodule(module), own, torch.nn.Parameter(other))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "decoding by the model's hooks")
        now = written(model, "auto")
    assert now == written(model, "hooks") != before


def prompt_of(model: Any) -> list[int]:
    (trace,) = ss.generate(model, [QUESTION], max_new_tokens=1, progress=False)
    return trace.tokens.tolist()[:-1]


def written(model: Any, method: Any) -> list[int]:
    options = {"max_new_tokens": 40, "temperature": 0, "stop_tokens": [], "progress": False}
    (trace,) = ss.generate(model, [QUESTION], method=method, **options)
    return trace.tokens.tolist()[-40:]


@pytest.mark.parametrize("arch", ["gpt2-like", "neox"])
def test_processed_weights_of_a_bridge_are_not_passed_over(tmp_path: Path, arch: Arch) -> None:
    """What is inside keeps its joint projection as it was."""
    model = TransformerBridge.boot_transformers(str(saved(tmp_path, arch)), device="cpu")
    model.enable_compatibility_mode(disable_warnings=True)
    with pytest.warns(UserWarning, match="is not what its weights give"):
        assert written(model, "auto") == written(model, "hooks")
    with pytest.raises(ValueError, match="is not what its weights give"):
        written(model, "fast")


def test_a_model_that_attends_in_its_own_way_decodes_so() -> None:
    """Without an edit; none could act in an attention that takes the place of its own."""

    def twice(module: Any, query: Any, *args: Any, **options: Any) -> Any:
        return ALL_ATTENTION_FUNCTIONS["sdpa"](module, 2 * query, *args, **options)

    AttentionInterface.register("twice", twice)
    AttentionMaskInterface.register("twice", sdpa_mask)
    model = tiny_transformers("qwen2")
    model.tokenizer = tiny_tokenizer()
    usual = written(model, "auto")
    model.set_attn_implementation("twice")
    found = written(model, "auto")
    prompt = torch.tensor([prompt_of(model)])
    options = {"attention_mask": torch.ones_like(prompt), "do_sample": False, "eos_token_id": None}
    theirs = model.generate(prompt, max_new_tokens=40, pad_token_id=0, **options)
    assert found == theirs[0, -40:].tolist() != usual
    with pytest.raises(ValueError, match="is not what its weights give"):
        ss.generate(model, [QUESTION], flow=ss.HeadScale(["L0H0"], 0.0), progress=False)
    model.set_attn_implementation("sdpa")
    assert written(model, "auto") == usual
    assert model not in loops._BY_ITSELF


@pytest.mark.parametrize("backend", BACKENDS)
def test_leading_pad_tokens_are_tokens_where_the_tokenizer_pads_on_the_left(
    tmp_path: Path, backend: Backend
) -> None:
    model = ss.load_model(saved(tmp_path, "qwen2"), backend=backend)
    model.tokenizer.padding_side = "left"
    tokens = [model.tokenizer.pad_token_id] * 2 + TOKENS[0].tolist()[:10]
    check_reference_model(model, reference_model(model), tokens)


@pytest.mark.parametrize("backend", BACKENDS)
def test_weights_in_another_type_are_read_again(tmp_path: Path, backend: Backend) -> None:
    model = ss.load_model(saved(tmp_path, "qwen2"), backend=backend).to(torch.float64)
    reference = reference_model(model)
    assert reference.dtype == torch.float64
    assert memory(reference).isdisjoint(memory(model))
