"""The bundled reasoner: an ordinary checkpoint folder that solves the task as its card says."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import step_saliency as ss
from step_saliency.tasks import Family, make_problems
from tests.tiny import BACKENDS
from training.evaluate import evaluate, respond

FOLDER = Path(ss.__file__).parent / "models" / "bundled" / "reasoner"
MOST_BYTES = 12 * 2**20


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def checkpoint():
    return AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32).eval()


def test_the_folder_is_small_and_an_ordinary_qwen2(checkpoint):
    files = {file.name: file.stat().st_size for file in FOLDER.iterdir()}
    assert sum(files.values()) <= MOST_BYTES
    assert {"config.json", "model.safetensors", "tokenizer.json", "MODEL_CARD.md"} <= set(files)
    config = checkpoint.config
    assert config.model_type == "qwen2"
    assert config.num_hidden_layers >= 8
    assert config.num_attention_heads == 2 * config.num_key_value_heads
    assert config.max_position_embeddings >= 1024
    assert config.eos_token_id == checkpoint.generation_config.eos_token_id


@pytest.mark.parametrize("backend", BACKENDS)
def test_transformer_lens_gives_the_checkpoint_s_logits(backend, checkpoint, tokenizer):
    model = ss.load_model("reasoner", backend=backend)
    trace = make_problems(n=1)[0].trace(tokenizer)
    tokens = trace.tokens[None]
    with torch.no_grad():
        expected = checkpoint(tokens).logits
        found = model(tokens.to(model.cfg.device or "cpu"), return_type="logits").cpu()
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("family", ["symbols", "words"])
def test_greedy_accuracy_by_level_is_in_its_range(family: Family, checkpoint, tokenizer):
    """Three standard errors of 60 problems beyond the ranges that the levels are set to."""
    ranges = {"easy": (0.87, 1.0), "medium": (0.52, 0.99), "hard": (0.12, 0.88)}
    found = {}
    for level, (lower, upper) in ranges.items():
        table = evaluate(checkpoint, tokenizer, level=level, family=family, n=60, seed=77)
        found[level] = table.is_correct.mean()
        assert lower <= found[level] <= upper, found
    assert found["easy"] > found["medium"] > found["hard"]


def test_what_it_writes_is_cut_into_one_step_a_line(checkpoint, tokenizer):
    problems = make_problems(n=20, level="easy")
    responses = respond(checkpoint, tokenizer, [p.prompt(tokenizer) for p in problems])
    for problem, response in zip(problems, responses, strict=True):
        trace = problem.trace(tokenizer, response, split_question=True)
        assert problem.edges(trace).candidate.any()
        thinking = [step for step in trace.steps if step.region == ss.Region.THINKING]
        assert len(thinking) == len(problem.graph_of(trace).steps)


def test_sampling_depends_on_the_seed_alone(checkpoint, tokenizer):
    prompts = [p.prompt(tokenizer) for p in make_problems(n=3)]
    torch.manual_seed(1)
    first = respond(checkpoint, tokenizer, prompts, temperature=1.0, seed=4)
    state = torch.get_rng_state()
    assert respond(checkpoint, tokenizer, prompts, temperature=1.0, seed=4) == first
    assert torch.equal(torch.get_rng_state(), state)
