"""Several judgements of one response, and responses of which a part is missing: nothing is taken
without a word."""

from pathlib import Path
from typing import Any

import pytest
from row_forms import ASKED, QUESTION, SUMMARY, TEXT, THINKING, WRONG, lines
from tiny import tiny_tokenizer

from step_saliency.runs.inputs import Input, read_input
from step_saliency.runs.labels import labelled
from step_saliency.trace import Trace

LM_EVAL: dict[str, Any] = {
    "doc_id": 3, "doc": {"question": QUESTION, "answer": "#### 14"}, "resps": [[TEXT]],
}  # fmt: skip
SCORED: dict[str, Any] = {
    "id": 4, "epoch": 1, "input": QUESTION, "target": "14",
    "output": {"choices": [{"message": {"role": "assistant", "content": TEXT}}]},
}  # fmt: skip
DETAILS: dict[str, Any] = {
    "doc": {"query": QUESTION, "choices": ["14"], "gold_index": 0},
    "model_response": {"text": [TEXT]},
}
OWN: dict[str, Any] = {"question": QUESTION, "response": TEXT, "gold_answer": "14"}


def read(tmp_path: Path, *rows: object, **options: Any) -> Input:
    file = tmp_path / "in.jsonl"
    file.write_text(lines(*rows), encoding="utf-8")
    return read_input(file, **options)


def differ(names: str) -> str:
    return f"not read: the judgements of {names}, where they differ (1 row)"


JUDGED: dict[str, tuple[dict[str, Any], str]] = {
    "lm-eval": ({**LM_EVAL, "exact_match": 0.0, "math_verify": 1.0}, "exact_match and math_verify"),
    "order": ({**LM_EVAL, "exact_match": 1.0, "math_verify": 0}, "exact_match and math_verify"),
    "metric of one's own": (
        {**LM_EVAL, "metrics": ["exact_match", "mine", "bleu"], "exact_match": 0.0, "mine": True,
         "bleu": 31.2},
        "exact_match and mine",
    ),
    "neither": ({**LM_EVAL, "exact_match": 0.5, "math_verify": 1.0}, "exact_match and math_verify"),
    "inspect": ({**SCORED, "scores": {"match": {"value": "I"}, "model": {"value": "C"}}},
                "match and model"),
    "lighteval": ({**DETAILS, "metric": {"em": 0, "sympy": 1, "bleu": 3.5}}, "em and sympy"),
    "OpenR1": (
        {"problem": QUESTION, "answer": "14", "generations": [TEXT],
         "correctness_math_verify": [False], "correctness_llama": [True]},
        "correctness_math_verify and correctness_llama",
    ),
    "our own form": ({**OWN, "is_correct": True, "correct": False}, "is_correct and correct"),
}  # fmt: skip


@pytest.mark.parametrize("name", JUDGED)
def test_where_judgements_differ_none_counts_and_a_note_says_so(name: str, tmp_path: Path) -> None:
    row, names = JUDGED[name]
    source = read(tmp_path, row)
    (only,) = source.rows
    assert (only.error, only.stated, only.stated_correct) == (None, None, None)
    assert source.notes == (differ(names),)
    trace = Trace.from_text(tiny_tokenizer(), question=QUESTION, response=TEXT)
    meta = labelled(trace, only, "r").meta
    assert (meta["stated_correct"], meta["graded_correct"], meta["is_correct"]) == (
        None, True, True,
    )  # fmt: skip


@pytest.mark.parametrize(
    "row",
    [
        {**LM_EVAL, "exact_match": 0.0, "math_verify": 0},
        {**LM_EVAL, "exact_match": 0.0, "math_verify": None, "acc": float("nan")},
        {**LM_EVAL, "metrics": ["exact_match", "bleu"], "exact_match": 0.0, "bleu": 31.2},
        {**SCORED, "scores": {"match": {"value": "I"}, "model": {"value": 0}}},
        {**DETAILS, "metric": {"em": 0, "bleu": 3.5}},
        {**OWN, "is_correct": "0", "correct": False},
    ],
)
def test_where_they_agree_what_they_say_counts(row: dict[str, Any], tmp_path: Path) -> None:
    source = read(tmp_path, row)
    assert [r.stated_correct for r in source.rows] == [False]
    assert source.notes == ()


def test_one_judgement_of_several_responses_is_none_of_each(tmp_path: Path) -> None:
    for row, name in (
        ({**LM_EVAL, "resps": [[TEXT, WRONG]], "exact_match": 1.0}, "lm-eval's metrics"),
        ({**DETAILS, "model_response": {"text": [TEXT, WRONG]}, "metric": {"em": 1}}, "metric"),
    ):
        source = read(tmp_path, row)
        assert [r.stated_correct for r in source.rows] == [None, None]
        note = f"not read: the judgement in {name}, which is one for several responses (1 row)"
        assert note in source.notes


@pytest.mark.parametrize(("name", "right"), [("exact_match", False), ("math_verify", True)])
def test_a_judgement_that_was_named_counts(name: str, right: bool, tmp_path: Path) -> None:
    row = {**LM_EVAL, "exact_match": 0.0, "math_verify": 1.0}
    source = read(tmp_path, row, fields={"correct": name})
    assert [r.stated_correct for r in source.rows] == [right]
    assert source.notes == ()


def test_a_row_without_its_judgement_is_another_one(tmp_path: Path) -> None:
    """So that a results folder in which it counted judges it anew."""
    form = {**OWN, "is_correct": True}
    (agreed,) = read(tmp_path, form).rows
    (unjudged,) = read(tmp_path, {**form, "correct": False}).rows
    assert agreed.form == ""
    assert "differ" in unjudged.form


GEMINI = {
    "gemini_thinking_trajectory": "Wrong way.",
    "gemini_attempt": "It is 3.",
    "gemini_grade": "No",
}
DEEPSEEK = {
    "deepseek_thinking_trajectory": THINKING,
    "deepseek_attempt": SUMMARY,
    "deepseek_grade": "Yes",
}
S1K: dict[str, Any] = {"question": QUESTION, "solution": "14", **GEMINI, **DEEPSEEK}
HALF = "not read, though it may hold a trace: {} (1 row); name the response with --field"


@pytest.mark.parametrize(("missing", "what"), [(None, "null"), ("", "empty"), (" \n", "empty")])
@pytest.mark.parametrize("source", ["gemini", "deepseek"])
def test_a_response_without_its_thinking_or_answer_is_left_out(
    source: str, missing: str | None, what: str, tmp_path: Path
) -> None:
    thinking, answer = f"{source}_thinking_trajectory", f"{source}_attempt"
    (other,) = {"gemini", "deepseek"} - {source}
    for gone, left in ((thinking, answer), (answer, thinking)):
        read_in = read(tmp_path, {**S1K, gone: missing}, S1K)
        assert read_in.summary == "2 rows read as s1K trajectories and attempts (3 responses)"
        assert [row.says.source for row in read_in.rows] == [other, "gemini", "deepseek"]
        assert read_in.notes[:2] == (HALF.format(left), f"not read: {gone} that is {what} (1 row)")
    read_in = read(tmp_path, {**S1K, thinking: missing, answer: missing})
    assert read_in.summary == "1 row read as s1K trajectories and attempts"
    assert [(row.error, row.says.source) for row in read_in.rows] == [(None, other)]
    assert read_in.notes == tuple(
        f"not read: {n} that is {what} (1 row)" for n in (thinking, answer)
    )


@pytest.mark.parametrize("missing", [None, ""])
def test_without_a_whole_response_no_model_answers_unasked(
    missing: str | None, tmp_path: Path
) -> None:
    thoughts = ("gemini_thinking_trajectory", "deepseek_thinking_trajectory")
    for gone in (thoughts, (*GEMINI, *DEEPSEEK)):
        row = {**S1K, **dict.fromkeys(gone, missing)}
        source = read(tmp_path, row)
        assert source.summary == "1 row not read (failures.parquet)"
        error = str(source.rows[0].error)
        assert "gemini_attempt" in error or "gemini_thinking_trajectory" in error
    assert read(tmp_path, {**S1K, "thinking_trajectories": None, **dict.fromkeys(GEMINI),
                           **dict.fromkeys(DEEPSEEK)}).rows[0].error  # fmt: skip


def said(text: str) -> list[dict[str, str]]:
    return [ASKED, {"role": "assistant", "content": text}]


@pytest.mark.parametrize(
    ("messages", "is_read"),
    [(said(WRONG), True), (said(f"{TEXT}\n"), True), ([ASKED], True), (said("Other. 15"), False)],
)
def test_messages_beside_generations_are_read_where_they_say_the_same(
    messages: list[dict[str, str]], is_read: bool, tmp_path: Path
) -> None:
    row = {"problem": QUESTION, "answer": "14", "generations": [TEXT, WRONG], "messages": messages}
    source = read(tmp_path, row)
    assert [r.says.response for r in source.rows] == [TEXT, WRONG]
    assert source.summary == "1 row read as OpenR1 generations (2 responses)"
    assert (HALF.format("messages") in source.notes) is not is_read
