"""Grading: against gold answers as published, and judgements made elsewhere."""

import json
from itertools import pairwise
from pathlib import Path

import pytest

from step_saliency.tasks.answers import final_answer, gold_answer, is_correct


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_judgements_of_real_traces(shared_data: Path) -> None:
    """The judgements that came with the traces, by whoever graded them."""
    rows = read(shared_data / "r1_traces.jsonl")
    found = [is_correct(row["response"], row["gold_answer"]) for row in rows]
    assert found == [row["is_correct"] for row in rows]
    assert {True, False} == set(found)


@pytest.mark.parametrize("name", ["gsm8k_test", "math500", "aime24", "amc23"])
def test_gold_answers_equal_themselves_alone(shared_data: Path, name: str) -> None:
    rows = read(shared_data / f"{name}.jsonl")[:150]
    gold = [str(row["answer"]) for row in rows]
    for answer in gold:
        assert is_correct(f"So we get \\boxed{{{gold_answer(answer)}}}.", answer)
    wrong = [
        is_correct(f"So we get \\boxed{{{gold_answer(other)}}}.", answer)
        for answer, other in pairwise(gold)
        if gold_answer(answer) != gold_answer(other)
    ]
    assert sum(wrong) <= 0.02 * len(wrong), "equal values may be written in two ways"


@pytest.mark.parametrize(
    ("response", "gold", "expected"),
    [
        ("The answer is 18 dollars.", "work <<9*2=18>>18\n#### 18", True),
        ("#### 1,234", "1234", True),
        ("first 5, then \\boxed{0.5}", "\\frac{1}{2}", True),
        ("r is \\boxed{6.17\\%}", "6.17", True),
        ("<think>\\boxed{7}</think>\n\\boxed{8}", "7", False),
        ("<think>so \\boxed{7}", "7", True),
        ("The answer is -70.", "70", False),
        ("I cannot say.", "70", False),
    ],
)
def test_by_hand(response: str, gold: str, expected: bool) -> None:
    assert is_correct(response, gold) is expected


def test_no_answer() -> None:
    assert final_answer("I cannot say.") is None
    assert final_answer("so \\boxed{12}") == "12"
    with pytest.raises(ValueError, match="no number or expression"):
        is_correct("12", "#### ")
