"""The reference model of a loaded model: on its very weights where none was computed."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import BACKENDS, Arch, Backend, tiny_tokenizer, tiny_transformers

import step_saliency as ss
from step_saliency.models.reference import (
    check_reference_model,
    load_reference,
    reference_model,
)

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
