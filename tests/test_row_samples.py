"""Of several responses of a row, and of several filters of a log, none spoils the others."""

from pathlib import Path
from typing import Any

import pytest
from row_forms import ASKED, OWN, QUESTION, SUMMARY, TEXT, WRONG, lines
from tiny import tiny_tokenizer

from step_saliency.runs.inputs import Input, read_input
from step_saliency.runs.labels import labelled
from step_saliency.trace import Trace

SAMPLE: dict[str, Any] = {"doc": {"question": QUESTION, "answer": "#### 14"}, "resps": [[TEXT]]}


def read(tmp_path: Path, *rows: object) -> Input:
    file = tmp_path / "in.jsonl"
    file.write_text(lines(*rows), encoding="utf-8")
    return read_input(file)


def said(text: str | None) -> dict[str, Any]:
    return {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}


def candidate(text: str) -> dict[str, Any]:
    if not text:
        return {"finishReason": "SAFETY"}
    return {"content": {"role": "model", "parts": [{"text": text}]}}


ROWS: dict[str, tuple[dict[str, Any], str]] = {
    "responses": ({"question": QUESTION, "responses": [TEXT, "", WRONG]}, "empty"),
    "null": ({"question": QUESTION, "responses": [TEXT, None, WRONG]}, "null"),
    "objects": (
        {"question": QUESTION, "outputs": [{"text": TEXT}, {"text": None}, {"text": WRONG}]},
        "null",
    ),
    "generations": ({"problem": QUESTION, "generations": [TEXT, " ", WRONG]}, "empty"),
    "verl": ({"prompt": [ASKED], "responses": [TEXT, "", WRONG]}, "empty"),
    "choices": ({"messages": [ASKED], "choices": [said(TEXT), said(""), said(WRONG)]}, "empty"),
    "null choice": ({"messages": [ASKED], "choices": [said(TEXT), None, said(WRONG)]}, "null"),
    "texts": (
        {"object": "text_completion", "prompt": "Q: 3 * 6 - 4?\nA: ",
         "choices": [{"text": TEXT}, {"text": ""}, {"text": WRONG}]},
        "empty",
    ),
    "candidates": (
        {"request": {"contents": [{"parts": [{"text": QUESTION}]}]},
         "response": {"candidates": [candidate(TEXT), candidate(""), candidate(WRONG)]}},
        "null",
    ),
    "resps": ({**SAMPLE, "resps": [[TEXT, "", WRONG]]}, "empty"),
    "lighteval": (
        {"doc": {"query": QUESTION}, "model_response": {"text": [TEXT, "", WRONG]}}, "empty",
    ),
    "code": ({"question": QUESTION, "gt": "14", "code": [TEXT, None, WRONG]}, "null"),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_an_empty_response_leaves_the_others_and_their_numbers(name: str, tmp_path: Path) -> None:
    row, what = ROWS[name]
    source = read(tmp_path, {"id": "a", **row}, {**OWN, "id": "a"})
    assert [r.error for r in source.rows] == [None] * 3
    assert [(r.id, r.says.response) for r in source.rows] == [
        ("a#0", TEXT),
        ("a#2", WRONG),
        ("a#3", TEXT),
    ]
    (note,) = [note for note in source.notes if note.startswith("not read: ")]
    assert note.endswith(f" that are {what} (1 row)")


def test_the_only_response_of_several_keeps_its_number(tmp_path: Path) -> None:
    rows = [{"id": name, "question": QUESTION, "responses": ["", TEXT]} for name in "ab"]
    source = read(tmp_path, *rows, {**OWN, "id": "b"}, {**OWN, "id": "c"})
    assert [row.id for row in source.rows] == ["a#1", "b#1", "b#2", "c"]


def test_empty_and_null_are_both_named(tmp_path: Path) -> None:
    judged = {"question": QUESTION, "responses": [None, "", TEXT], "correct": [True, True, False]}
    source = read(tmp_path, judged)
    assert source.notes[0] == "not read: responses that are empty or null (1 row)"
    assert [row.stated_correct for row in source.rows] == [False]


@pytest.mark.parametrize("texts", [["", ""], [None, None], [""]])
def test_nothing_but_empty_responses_is_an_error(texts: list[Any], tmp_path: Path) -> None:
    for row in (
        {"question": QUESTION, "responses": texts},
        {"messages": [ASKED], "choices": [said(text) for text in texts]},
        {**SAMPLE, "resps": [texts]},
    ):
        assert read(tmp_path, row).rows[0].error


def filtered(name: str, score: float, **fields: Any) -> dict[str, Any]:
    return {**SAMPLE, "doc_id": 3, "filter": name, "exact_match": score, **fields}


DIFFER = "not read: the judgement of lm-eval, which differs from filter to filter (1 row)"


@pytest.mark.parametrize("scores", [(0.0, 1.0), (1.0, 0.0), (0.0, 0.0, 1.0)])
def test_where_filters_disagree_our_own_grade_counts(
    scores: tuple[float, ...], tmp_path: Path
) -> None:
    source = read(tmp_path, *(filtered(f"f{i}", score) for i, score in enumerate(scores)))
    (row,) = source.rows
    assert row.stated_correct is None
    assert DIFFER in source.notes
    trace = Trace.from_text(tiny_tokenizer(), question=QUESTION, response=TEXT)
    meta = labelled(trace, row, "r").meta
    assert (meta["stated_correct"], meta["is_correct"]) == (None, True)
    alone = read(tmp_path, filtered("f0", scores[0])).rows[0]
    assert alone.digest != row.digest


def test_where_filters_agree_their_judgement_counts(tmp_path: Path) -> None:
    source = read(tmp_path, filtered("f0", 0.0), filtered("f1", 0.0))
    assert [row.stated_correct for row in source.rows] == [False]
    assert DIFFER not in source.notes
    other = filtered("f1", 1.0, resps=[[SUMMARY]])
    both = read(tmp_path, filtered("f0", 0.0), other)
    assert [row.stated_correct for row in both.rows] == [False, True]
