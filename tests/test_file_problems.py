"""Problems of a file, for analyses: fields by name, judgements that came with responses."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from row_forms import OWN, TEXT, WRONG
from tiny import tiny_tokenizer

from analyses.material.problems import SourceSettings, item_trace, read_items
from analyses.running.settings import parse

MODEL = SimpleNamespace(tokenizer=tiny_tokenizer())


def items(tmp_path: Path, rows: list[dict[str, Any]], **options: Any) -> list[bool | None]:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = replace(SourceSettings(data=str(file), n=len(rows)), **options)
    return [item_trace(MODEL, item, settings).meta["is_correct"] for item in read_items(settings)]


def test_judgements_that_came_count_before_ours(tmp_path: Path) -> None:
    rows = [
        OWN,
        {**OWN, "response": WRONG},
        {**OWN, "is_correct": "False"},
        {**OWN, "response": WRONG, "is_correct": 1},
        {**OWN, "is_correct": "perhaps"},
        {**OWN, "gold_answer": None},
        {**OWN, "gold_answer": None, "is_correct": False},
        {**OWN, "response": "<think>So \\boxed{14}? Or"},
    ]
    expected = [True, False, False, True, True, None, False, None]
    assert items(tmp_path, rows) == expected


def test_fields_by_name(tmp_path: Path) -> None:
    rows = [{"asked": OWN["question"], "said": TEXT, "right": 14}]
    assert items(tmp_path, rows, field="question=asked,response=said,gold=right") == [True]
    with pytest.raises(ValueError, match="no question, response or messages"):
        items(tmp_path, rows)
    with pytest.raises(ValueError, match="ROLE is one of"):
        items(tmp_path, rows, field="answer=said")


def test_settings_of_earlier_results_do_not_name_the_fields() -> None:
    assert "field" not in SourceSettings().as_json()
    named = parse(SourceSettings, "--field", "gold=right")
    assert named.as_json()["field"] == "gold=right"
