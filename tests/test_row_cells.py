"""Turns, lists and objects that stand as text in the cells of tables; choices by number."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from row_forms import ASKED, QUESTION, TEXT, WRONG

from step_saliency.runs.inputs import Input, Row, read_input
from step_saliency.runs.inputs.written import from_text
from step_saliency.tasks.answers import is_correct

SYSTEM = {"role": "system", "content": 'It\'s "6" {rolls} a\ntray.'}
GRADED = {"style": "rule", "ground_truth": "14"}
VERL = {"prompt": [SYSTEM, ASKED], "response": TEXT, "reward_model": GRADED}


def read(tmp_path: Path, row: dict[str, Any]) -> Input:
    (tmp_path / "in.jsonl").write_text(json.dumps(row), encoding="utf-8")
    return read_input(tmp_path / "in.jsonl")


def check(source: Input) -> None:
    (row,) = source.rows
    assert source.summary == "1 row read as verl prompts and responses"
    assert [(turn.role, turn.content) for turn in row.says.turns] == [
        ("system", SYSTEM["content"]),
        ("user", QUESTION),
        ("assistant", TEXT),
    ]
    assert row.gold == "14"
    assert source.notes == ()


@pytest.mark.parametrize("write", [json.dumps, repr, str])
def test_a_prompt_that_is_written_as_text(write: Any, tmp_path: Path) -> None:
    check(read(tmp_path, {**VERL, "prompt": write(VERL["prompt"]), "reward_model": write(GRADED)}))


def test_tables_that_pandas_wrote(tmp_path: Path) -> None:
    pd.DataFrame([VERL]).to_csv(tmp_path / "in.csv", index=False)
    check(read_input(tmp_path / "in.csv"))
    pd.DataFrame([VERL]).to_parquet(tmp_path / "in.parquet")
    of_numpy = pd.read_parquet(tmp_path / "in.parquet")
    assert isinstance(of_numpy["prompt"][0], np.ndarray)
    of_numpy.to_csv(tmp_path / "in.csv", index=False)
    assert "}\n {" in (tmp_path / "in.csv").read_text()
    check(read_input(tmp_path / "in.csv"))


def test_turns_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    for name in ("prompt", "messages"):
        row = {name: repr(VERL["prompt"])[:-3], "response": TEXT}
        error = read(tmp_path, row).rows[0].error
        assert f"{name} must be a list of messages, got the text" in str(error)
    torn = read(tmp_path, {**VERL, "reward_model": "{'ground_truth': array(['14'])}"})
    note = "not read: the gold answer in reward_model.ground_truth, which is no single text or"
    assert torn.rows[0].gold is None
    assert torn.notes == (f"{note} number (1 row)",)


def test_a_prompt_that_only_begins_like_turns_is_text(tmp_path: Path) -> None:
    for prompt in ('[{"a": 1}] has how many keys?', "[1, 2] has which sum?", "['a', 'b']?"):
        (row,) = read(tmp_path, {"prompt": prompt, "response": TEXT}).rows
        assert (row.kind, row.says.prompt) == ("response", prompt)


def test_pairs_that_are_written_as_text(tmp_path: Path) -> None:
    pair = {
        name: repr([{"role": "assistant", "content": text}])
        for name, text in (("chosen", TEXT), ("rejected", WRONG))
    }
    rows = read(tmp_path, {"prompt": json.dumps([ASKED]), **pair}).rows
    assert [row.says.response for row in rows] == [TEXT, WRONG]
    assert {row.question for row in rows} == {QUESTION}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("['a' 'b']", ["a", "b"]),
        ("['a'\n 'it\\'s']", ["a", "it's"]),
        ("{'a': [1, 2], 'b': None}", {"a": [1, 2], "b": None}),
        ("[\"a 'b' 'c'\"]", ["a 'b' 'c'"]),
        ("{'a', 'b'}", "{'a', 'b'}"),
        ("['a', f(1)]", "['a', f(1)]"),
        ("['\\d' ", "['\\d' "),
        ("['" + "[" * 5000, "['" + "[" * 5000),
        ("{'" + "a" * 10 + "\ud800", "{'" + "a" * 10 + "\ud800"),
    ],
)
def test_lists_and_objects_as_python_and_numpy_write_them(text: str, value: object) -> None:
    assert from_text(text) == value


def choice(tmp_path: Path, **fields: Any) -> Row:
    return read(tmp_path, {"question": QUESTION, "response": TEXT, **fields}).rows[0]


@pytest.mark.parametrize(
    ("choices", "answer", "gold"),
    [
        (["6", "8", "1"], 1, "(B) 8"),
        (["6", "8", "1"], 0, "(A) 6"),
        (["6", "8", "1"], "1", "1"),
        (["6", "8", "1"], "2", "(C) 1"),
        ("['6' '8']", "1", "(B) 8"),
        (json.dumps(["6", "8"]), 1, "(B) 8"),
        (["6", "8"], "B", "B"),
        (["6", "8"], "8", "8"),
        (["6", "8"], 8, "8"),
        (["6", "8"], -1, "-1"),
        ([6, 8], 1, "1"),
        (None, 1, "1"),
    ],
)
def test_a_choice_by_its_number(choices: Any, answer: Any, gold: str, tmp_path: Path) -> None:
    assert choice(tmp_path, choices=choices, answer=answer).gold == gold


@pytest.mark.parametrize(
    ("said", "correct"), [("B", True), ("8", True), ("(B)", True), ("C", False), ("6", False)]
)
def test_letter_and_text_of_a_choice_are_right(said: str, correct: bool, tmp_path: Path) -> None:
    gold = choice(tmp_path, choices=["6", "8", "1"], answer=1).gold
    assert is_correct(f"The answer is \\boxed{{{said}}}.", str(gold)) is correct
