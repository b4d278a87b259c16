"""The bundled models: ordinary checkpoint folders, small, that TransformerLens reads rightly."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import step_saliency as ss
from step_saliency.tasks import make_problems
from tests.tiny import BACKENDS

BUNDLED = Path(ss.__file__).parent / "models" / "bundled"
MOST_BYTES = 12 * 2**20
MODELS = {"reasoner": (8, 1024, {}), "reporter": (12, 2048, {"level": "hard", "family": "report"})}
"""Of each: layers and context at least, and what it solves."""


@pytest.fixture(scope="module", params=MODELS)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def checkpoint(name):
    return AutoModelForCausalLM.from_pretrained(BUNDLED / name, dtype=torch.float32).eval()


def test_the_folder_is_small_and_an_ordinary_qwen2(name, checkpoint):
    n_layers, n_ctx, _ = MODELS[name]
    files = {file.name: file.stat().st_size for file in (BUNDLED / name).iterdir()}
    assert sum(files.values()) <= MOST_BYTES
    assert {"config.json", "model.safetensors", "tokenizer.json", "MODEL_CARD.md"} <= set(files)
    config = checkpoint.config
    assert config.model_type == "qwen2"
    assert config.num_hidden_layers >= n_layers
    assert config.num_attention_heads == 2 * config.num_key_value_heads
    assert config.max_position_embeddings >= n_ctx
    assert config.eos_token_id == checkpoint.generation_config.eos_token_id


@pytest.mark.parametrize("backend", BACKENDS)
def test_transformer_lens_gives_the_checkpoint_s_logits(name, backend, checkpoint):
    model = ss.load_model(name, backend=backend)
    trace = make_problems(n=1, **MODELS[name][2])[0].trace(model.tokenizer)
    tokens = trace.tokens[None]
    with torch.no_grad():
        expected = checkpoint(tokens).logits
        found = model(tokens.to(model.cfg.device or "cpu"), return_type="logits").cpu()
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=1e-3)
