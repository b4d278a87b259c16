"""Reading the input of the command line."""

import json
from pathlib import Path

import pytest

from step_saliency.runs.inputs import read_rows


def write(path: Path, *rows: object) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_kinds(tmp_path: Path) -> None:
    rows = read_rows(
        write(
            tmp_path / "in.jsonl",
            {"tokens": [1], "steps": []},
            {"messages": []},
            {"question": "q", "response": "r", "answer": "its own", "gold_answer": "7"},
            {"problem": "p", "answer": "8"},
            "",
            {"question": "q", "answer": "worked #### 9", "id": "x/y z", "problem_id": 4},
        )
    )
    assert [row.kind for row in rows] == ["trace", "messages", "response", "problem", "problem"]
    assert [row.gold for row in rows] == [None, None, "7", "8", "worked #### 9"]
    assert [row.line for row in rows] == [1, 2, 3, 4, 6]
    assert rows[0].id == "in-00001"
    assert rows[4].problem == "4"
    assert rows[2].problem == rows[2].problem != rows[3].problem


def test_file_names_are_safe_and_distinct(tmp_path: Path) -> None:
    names = ["a/b", "a_b", "a b", "../a", "ü", "x" * 300, "x" * 301]
    rows = read_rows(write(tmp_path / "in.jsonl", *({"id": n, "question": "q"} for n in names)))
    files = [row.file_name for row in rows]
    assert len(set(files)) == len(names)
    assert all("/" not in file and not file.startswith(".") for file in files)
    assert all(len(file) < 200 for file in files)
    assert files[1] == "a_b"


def test_one_bad_row_spoils_no_other(tmp_path: Path) -> None:
    rows = read_rows(
        write(
            tmp_path / "in.jsonl",
            {"id": "a", "question": "q"},
            "{cut sho",
            "[1, 2]",
            {"id": "a", "question": "again"},
            {"answer": "7"},
        )
    )
    assert [row.error is None for row in rows] == [True, False, False, False, False]
    for row, message in zip(rows[1:], ["no JSON", "a list", "repeats", "no question"], strict=True):
        assert message in str(row.error)


def test_limit(tmp_path: Path) -> None:
    path = write(tmp_path / "in.jsonl", *({"question": str(i)} for i in range(5)))
    assert len(read_rows(path, limit=2)) == 2


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no file"):
        read_rows(tmp_path / "absent.jsonl")
    with pytest.raises(ValueError, match="no rows"):
        read_rows(write(tmp_path / "in.jsonl", "", " "))
