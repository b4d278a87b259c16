"""The bundled reasoner: an ordinary checkpoint folder that solves the task as its card says."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import step_saliency as ss
from step_saliency.tasks import Family, make_problems
from training.evaluate import evaluate, respond

FOLDER = Path(ss.__file__).parent / "models" / "bundled" / "reasoner"


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def checkpoint():
    return AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32).eval()


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
