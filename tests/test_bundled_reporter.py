"""The bundled reporter: an ordinary checkpoint folder that goes wrong where its card says."""

import re
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import step_saliency as ss
from step_saliency.tasks import REPORT_LEVELS, make_problems
from training.evaluate import evaluate, greedy_responses, respond

FOLDER = Path(ss.__file__).parent / "models" / "bundled" / "reporter"


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def checkpoint():
    return AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32).eval()


def test_greedy_accuracy_by_level_is_in_its_range(checkpoint, tokenizer):
    """Three standard errors of 40 problems beyond what the card states."""
    found = {}
    for level, stated in card_accuracies().items():
        table = evaluate(checkpoint, tokenizer, level=level, family="report", n=40, seed=77)
        found[level] = table.is_correct.mean()
        assert abs(found[level] - stated) <= 3 * (stated * (1 - stated) / 40) ** 0.5, found


def card_rows(level: str, temperature: str) -> list[list[float]]:
    """Numbers of the card's table rows about a level at a temperature, table after table."""
    card = (FOLDER / "MODEL_CARD.md").read_text(encoding="utf-8")
    rows = re.findall(rf"^\| {level} \| {temperature} \| (.*) \|$", card, re.MULTILINE)
    return [[float(cell) for cell in row.split(" | ")] for row in rows]


def card_accuracies() -> dict[str, float]:
    """Greedy accuracy of each level by the model card."""
    return {level: card_rows(level, "0.000")[0][0] for level in REPORT_LEVELS}


def test_the_card_keeps_what_the_model_is_for():
    accuracies = card_accuracies()
    assert accuracies["easy"] > accuracies["medium"] > accuracies["hard"]
    assert 0.4 <= accuracies["hard"] <= 0.9
    greedy, regions = card_rows("hard", "0.000")
    sampled, _ = card_rows("hard", "0.600")
    assert greedy[3] == sampled[3] == 1000
    assert greedy[0] - sampled[0] < 0.05
    in_summary, _, recall = regions[1:4]
    assert in_summary >= 0.1
    assert recall > 0


def test_the_readme_says_what_the_card_says():
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    (row,) = re.findall(r"^\| `reporter` \| .*$", readme, re.MULTILINE)
    right, in_summary = map(float, re.findall(r"([\d.]+)% (?:right|of wrong)", row))
    greedy, regions = card_rows("hard", "0.000")
    assert right == pytest.approx(100 * greedy[0])
    assert in_summary == pytest.approx(100 * regions[1], abs=0.5)


def test_one_pass_tells_which_greedy_answers_are_canonical(checkpoint, tokenizer):
    problems = make_problems(n=16, level="medium", seed=7, family="report")
    prompts = [problem.prompt(tokenizer) for problem in problems]
    decoded = respond(checkpoint, tokenizer, prompts, max_new_tokens=500)
    found = greedy_responses(checkpoint, tokenizer, problems, max_new_tokens=500)
    assert found == decoded
    exact = sum(r == p.solution for r, p in zip(found, problems, strict=True))
    assert 0 < exact < len(problems)


def test_what_it_writes_has_a_gold_graph_step_by_step(checkpoint, tokenizer):
    problems = make_problems(n=12, level="medium", seed=3, family="report")
    responses = greedy_responses(checkpoint, tokenizer, problems, max_new_tokens=500)
    for problem, response in zip(problems, responses, strict=True):
        trace = problem.trace(tokenizer, response, split_question=True)
        edges = problem.edges(trace)
        for row in trace.region_steps(ss.Region.SUMMARY):
            assert edges.candidate[row].any()
        assert len(trace.region_steps(ss.Region.SUMMARY)) == len(problem.graph_of(trace).sentences)
