"""Problems of a file, for analyses: fields by name, judgements that came with responses."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from edit_passes import load
from row_forms import OWN, TEXT, WRONG
from tiny import tiny_tokenizer

import step_saliency as ss
from analyses.ablation import AblationSettings, doses
from analyses.material.conditions import conditions
from analyses.material.flows import reference_traces
from analyses.material.problems import (
    SourceSettings,
    file_items,
    item_trace,
    opened,
    read_items,
    solution_traces,
)
from analyses.running.settings import parse
from step_saliency.intervene import OddsEqualBridge, StepFlow
from step_saliency.intervene.matching import effects_on

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


CHATTY = (
    "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}A:{% endif %}"
)


def test_responses_begin_with_the_opening() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHATTY
    asked = [{"role": "user", "content": "Why?"}]
    opening = opened(tokenizer, "<think>\\n")
    told = opening.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    assert told == "Why?A:<think>\n"
    assert opening.apply_chat_template(asked, tokenize=False) == "Why?"
    assert tokenizer.chat_template == CHATTY
    assert opened(tokenizer, "") is None
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match="no one chat template"):
        opened(tokenizer, "<think>")


def test_written_answers_are_cut_as_read_ones_are() -> None:
    settings = AblationSettings(format="plain", splitter="line")
    assert settings.decoding.format == "plain"
    assert settings.decoding.splitter == "line"


def test_own_answers_as_references(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    rows = [{"question": f"What is {i} and {i}?", "answer": str(2 * i)} for i in range(6)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = load("qwen2", n_layers=4)
    settings = AblationSettings(
        data=str(file),
        n=3,
        references="own",
        instruction="Say it.",
        system="Be brief.",
        max_new_tokens=12,
        depth=4,
    )
    traces = reference_traces(model, settings)
    assert [trace.meta["problem"] for trace in traces] == [
        item.id for item in file_items(str(file))[3:]
    ]
    written = ss.generate(
        model,
        [f"{row['question']}\nSay it." for row in rows[3:]],
        system="Be brief.",
        temperature=0.0,
        max_new_tokens=12,
        progress=False,
    )
    assert [trace.tokens.tolist() for trace in traces] == [
        trace.tokens.tolist() for trace in written
    ]
    gold = reference_traces(model, replace(settings, references="gold"))
    assert [trace.response for trace in gold] == [str(row["answer"]) for row in rows[3:]]
    table = doses(model, read_items(settings), conditions(4, "oeb"), settings)
    own = effects_on(
        model,
        StepFlow(oeb=OddsEqualBridge([0])),
        solution_traces(model, read_items(settings), settings),
    )
    assert table["rows_seen"].tolist() == own.doses()["rows_seen"].tolist()
    assert table["kl"].tolist() == own.doses()["kl"].tolist()
