"""Rows of more data sets and logs, and files that hold them in other ways than one a line."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from row_forms import ASKED, OWN, QUESTION, SUMMARY, TEXT, THINKING, WRONG, lines
from tiny import tiny_tokenizer

from step_saliency.runs.inputs import Input, Row, read_input
from step_saliency.runs.labels import labelled
from step_saliency.tasks.verdicts import verdict
from step_saliency.trace import Trace

ROWS = [{**OWN, "id": "a"}, {**OWN, "id": "b", "response": WRONG}]


def read(tmp_path: Path, *rows: object) -> Input:
    file = tmp_path / "in.jsonl"
    file.write_text(lines(*rows), encoding="utf-8")
    return read_input(file)


def one(tmp_path: Path, row: object) -> Row:
    (only,) = read(tmp_path, row).rows
    assert only.error is None
    return only


def check(source: Input) -> None:
    assert [row.id for row in source.rows] == ["a", "b"]
    assert [row.says.response for row in source.rows] == [TEXT, WRONG]
    assert {row.gold for row in source.rows} == {"14"}


def frame_bytes(write: str, **options: Any) -> bytes:
    place = io.BytesIO()
    getattr(pd.DataFrame(ROWS), write)(place, **options)
    return place.getvalue()


FRAME = pd.DataFrame(ROWS)
FILES: dict[str, tuple[str, bytes | str]] = {
    "csv": ("in.csv", FRAME.to_csv(index=False)),
    "csv with index and mark": ("in.csv", FRAME.to_csv().encode("utf-8-sig")),
    "csv of other countries": ("in.csv", FRAME.to_csv(index=False, sep=";")),
    "csv in gzip": ("in.csv.gz", frame_bytes("to_csv", index=False, compression="gzip")),
    "tsv": ("in.tsv", FRAME.to_csv(index=False, sep="\t")),
    "arrow": ("in.arrow", frame_bytes("to_feather")),
    "top key": ("in.json", json.dumps({"version": 2, "data": ROWS})),
    "top key, indented": ("in.json", json.dumps({"results": ROWS, "n": 2}, indent=1)),
    "server of data sets": (
        "in.json", json.dumps({"rows": [{"row_idx": i, "row": row} for i, row in enumerate(ROWS)]}),
    ),
    "by name": (
        "in.json", json.dumps({row["id"]: {**row, "id": row["id"]} for row in ROWS}, indent=1),
    ),
    "columns": ("in.json", FRAME.to_json()),
    "columns of lists": ("in.json", json.dumps(FRAME.to_dict("list"))),
    "split": ("in.json", FRAME.to_json(orient="split")),
    "table": ("in.json", FRAME.to_json(orient="table", index=False)),
    "one after the other": ("in.jsonl", "\n".join(json.dumps(row, indent=2) for row in ROWS)),
    "a comma behind": ("in.jsonl", "".join(json.dumps(row) + ",\n" for row in ROWS)),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_rows_in_files_of_other_kinds(name: str, tmp_path: Path) -> None:
    file, data = FILES[name]
    (tmp_path / file).write_bytes(data.encode() if isinstance(data, str) else data)
    check(read_input(tmp_path / file))


def test_tables_in_a_folder_are_read_where_nothing_else_is(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text(FRAME.to_csv(index=False))
    check(read_input(tmp_path))
    (tmp_path / "in.csv").write_text("metric,value\nacc,0.5\n")
    (tmp_path / "rows.json").write_text(json.dumps({"data": ROWS}))
    check(read_input(tmp_path))


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("in.csv", 'question,response\n"cut', "no whole CSV"),
        ("in.csv", "just text\nof two lines", "names of its columns"),
        ("in.csv", "question,question\na,b", "more than one column 'question'"),
        ("in.csv", b"question,answer\n\xe9,1", "save it as UTF-8"),
        ("in.txt", "Some text.\nMore of it.", "no line begins an object; the first is 'Some"),
        ("in.yaml", "- question: a\n  answer: 1", "no line begins an object"),
        ("in.arrow", b"ARROW1" + bytes(90), "no whole parquet or Arrow"),
        ("in.parquet", "version https://git-lfs.github.com/spec/v1", "no parquet file: .*'version"),
    ],
)
def test_other_files_are_one_refusal(
    name: str, data: str | bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(data.encode() if isinstance(data, str) else data)
    with pytest.raises(ValueError, match=message):
        read_input(tmp_path / name)


def test_a_short_line_of_a_csv_fails_alone(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text(f"question,answer,response\nq,1\nq,14,{THINKING}\n")
    bad, good = read_input(tmp_path / "in.csv").rows
    assert "line 2 has 2 cells under 3 columns" in str(bad.error)
    assert (good.error, good.gold) == (None, "14")


def test_zeros_in_a_line_are_that_lines_fault(tmp_path: Path) -> None:
    text = json.dumps({"question": "a", **OWN}).replace('"a"', '"\0"') + "\n" + json.dumps(ROWS[0])
    (tmp_path / "in.jsonl").write_text(text.replace("tray", "tr\0ay", 1))
    bad, good = read_input(tmp_path / "in.jsonl").rows
    assert "NUL bytes" in str(bad.error)
    assert good.error is None


def test_a_row_with_parts_is_no_file_of_rows(tmp_path: Path) -> None:
    source = read(tmp_path, {"foo": 1, "texts": [{"bar": TEXT}]})
    assert "no question, response or messages: foo, texts" in str(source.rows[0].error)
    parts = {"data": [{"steps": 1}], "note": "x"}
    assert "data, note" in str(read(tmp_path, parts).rows[0].error)


def test_thinking_is_taken_from_the_field_that_has_some(tmp_path: Path) -> None:
    said = {"role": "assistant", "content": SUMMARY, "reasoning_content": "", "reasoning": THINKING}
    assert one(tmp_path, {"messages": [ASKED, said]}).says.response == TEXT


@pytest.mark.parametrize("switch", ["on", "off", "high", True, False])
def test_a_switch_is_no_thinking(switch: object, tmp_path: Path) -> None:
    plain = one(tmp_path, {**OWN, "response": SUMMARY, "reasoning": switch})
    assert plain.says.response == SUMMARY
    turns = {"input": [ASKED], "output": SUMMARY, "reasoning": switch, "system_prompt": "Think."}
    says = one(tmp_path, turns).says
    assert (says.response, says.turns[0].content) == (SUMMARY, "Think.")
    asked = read(tmp_path, {"question": "q", "reasoning": switch, "solution_is_valid": "Yes"})
    assert [row.kind for row in asked.rows] == ["problem"]


def test_parts_that_say_nothing(tmp_path: Path) -> None:
    parts = [
        {"type": "redacted_thinking", "data": "x"},
        {"type": "thinking", "thinking": THINKING},
        {"type": "text", "text": SUMMARY},
    ]
    answer = {"type": "message", "role": "assistant", "content": parts}
    assert one(tmp_path, answer).says.response == TEXT
    hidden = {"type": "reasoning", "reasoning": "gAAA", "redacted": True, "summary": THINKING}
    sample = {
        "input": QUESTION, "target": ["14"], "epoch": 1,
        "messages": [ASKED, {"role": "assistant", "content": [hidden, parts[2]]}],
        "scores": {"a": {"value": {"f1": 0.5}}, "b": {"value": "C"}},
    }  # fmt: skip
    row = one(tmp_path, sample)
    assert (row.says.response, row.gold, row.stated_correct) == (TEXT, "14", True)


def test_bedrock_and_answers_beside_a_question(tmp_path: Path) -> None:
    thought = {"reasoningContent": {"reasoningText": {"text": THINKING, "signature": "s"}}}
    message = {"role": "assistant", "content": [thought, {"text": SUMMARY}]}
    assert one(tmp_path, {"output": {"message": message}, "stopReason": "x"}).says.response == TEXT
    choice = {"message": {"role": "assistant", "content": SUMMARY, "reasoning": THINKING}}
    row = one(tmp_path, {"question": QUESTION, "answer": "14", "response": {"choices": [choice]}})
    assert (row.says.response, row.question, row.gold) == (TEXT, QUESTION, "14")


def test_texts_complete_their_prompt(tmp_path: Path) -> None:
    prompt = f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n<think>\n"
    text = TEXT.removeprefix("<think>\n")
    completed = {"object": "text_completion", "prompt": prompt, "choices": [{"text": text}]}
    for row in (completed, {"input": prompt, "output": text}):
        says = one(tmp_path, row).says
        assert (says.kind, says.prompt, says.question, says.response) == (
            "response",
            prompt,
            "",
            text,
        )


def test_results_of_a_batch_have_the_names_of_their_requests(tmp_path: Path) -> None:
    body = {"object": "response", "output": [{"type": "message", "content": SUMMARY}]}
    row = {"id": "batch_req_7", "custom_id": "r-1", "response": {"body": body}}
    failed = {"custom_id": "r-2", "result": {"type": "expired"}}
    rows = read(tmp_path, row, failed).rows
    assert [row.id for row in rows] == ["r-1", "r-2"]
    assert "the request failed: the text 'expired'" in str(rows[1].error)


DOLPHIN = {
    "messages": [{"role": "system", "content": "Think first."}, ASKED],
    "reasoning": f"{THINKING}\n",
    "answer": SUMMARY,
    "model": "deepseek-reasoner",
}


def test_what_a_named_model_thought_and_answered_is_read_without_field(tmp_path: Path) -> None:
    source = read(tmp_path, DOLPHIN)
    assert source.summary == "1 row read as Dolphin-R1 reasoning and answers"
    assert not source.notes
    (row,) = source.rows
    assert [turn.role for turn in row.says.turns] == ["system", "user", "assistant"]
    assert (row.question, row.says.response, row.says.composed) == (QUESTION, TEXT, True)
    assert row.gold is None, "the answer is the response's own"
    assert one(tmp_path, {**DOLPHIN, "expected_answer": 14}).gold == "14"
    as_text = one(tmp_path, {**DOLPHIN, "messages": json.dumps(DOLPHIN["messages"])})
    assert as_text.says.turns == row.says.turns
    assert one(tmp_path, {**DOLPHIN, "reasoning": ""}).says.response == SUMMARY


def test_an_answer_that_may_be_the_gold_answer_is_not_the_response(tmp_path: Path) -> None:
    said = {**DOLPHIN, "messages": [ASKED, {"role": "assistant", "content": WRONG}]}
    row = one(tmp_path, {**said, "answer": "14"})
    assert (row.says.response, row.gold) == (WRONG, "14")
    beside = one(tmp_path, {**DOLPHIN, "response": WRONG, "answer": "14"})
    assert (beside.says.response, beside.gold) == (WRONG, "14")
    unnamed = {name: value for name, value in DOLPHIN.items() if name != "model"}
    assert "--field" in str(read(tmp_path, unnamed).rows[0].error)
    open_row = one(tmp_path, {**DOLPHIN, "reasoning": "on", "answer": "14"})
    assert (open_row.kind, open_row.gold) == ("problem", "14")


def test_a_pair_is_two_samples(tmp_path: Path) -> None:
    for row in (
        {"prompt": QUESTION, "chosen": TEXT, "rejected": WRONG},
        {"conversations": [{"from": "human", "value": QUESTION}],
         "chosen": {"from": "gpt", "value": TEXT}, "rejected": {"from": "gpt", "value": WRONG}},
        {"prompt": QUESTION, "chosen": [ASKED, {"role": "assistant", "content": TEXT}],
         "rejected": [ASKED, {"role": "assistant", "content": WRONG}]},
    ):  # fmt: skip
        rows = read(tmp_path, row).rows
        assert [(r.says.source, r.says.response) for r in rows] == [
            ("chosen", TEXT),
            ("rejected", WRONG),
        ]
        assert {r.question for r in rows} == {QUESTION}
        assert len({r.problem for r in rows}) == 1


def test_a_text_that_has_the_name_of_a_conversation(tmp_path: Path) -> None:
    row = one(tmp_path, {**OWN, "contents": "A page.", "conversation": "c7"})
    assert row.says.response == TEXT
    turns = [{"role": "user", "parts": [{"text": QUESTION}]},
             {"role": "model", "parts": [{"text": TEXT}]}]  # fmt: skip
    assert one(tmp_path, {"id": 1, "contents": turns}).says.response == TEXT


def test_a_system_prompt_that_is_left_out_is_named(tmp_path: Path) -> None:
    source = read(tmp_path, {**OWN, "system_prompt": "Be brief."}, {**OWN, "system": ""})
    assert source.notes == (
        "not read: the system prompt in system_prompt; store turns as messages (1 row)",
    )


def test_judged_steps(tmp_path: Path) -> None:
    bench = {"problem": QUESTION, "steps": ["3 * 6 = 18.", "So 14."], "label": -1}
    row = one(tmp_path, {**bench, "final_answer_correct": True})
    assert (row.says.response, row.stated_correct) == ("3 * 6 = 18.\n\nSo 14.", True)
    asked = {"problem": QUESTION, "ground_truth_answer": "14"}
    steps = [
        {"completions": [{"text": "18."}, {"text": "15."}], "chosen_completion": 0},
        {"completions": [{"text": "No."}], "human_completion": {"text": "14."}},
    ]
    prm = one(tmp_path, {"question": asked, "generation": 3, "label": {"steps": steps}})
    assert (prm.says.response, prm.gold, prm.question) == ("18.\n\n14.", "14", QUESTION)


def test_rollouts_have_no_gold_answer_of_their_own(tmp_path: Path) -> None:
    prompt = f"Solve this. {QUESTION}\n<think>\n"
    text = WRONG.removeprefix("<think>\n")
    row = one(
        tmp_path,
        {"prompt": prompt, "solution": text, "full_cot": prompt + text, "answer": "11",
         "is_correct": False},
    )  # fmt: skip
    assert (row.says.prompt, row.says.response) == (prompt, text)
    assert (row.gold, row.stated_correct) == (None, False)
    trace = Trace.from_text(tiny_tokenizer(), prompt=prompt, response=text)
    assert labelled(trace, row, "r").meta["graded_correct"] is None


def test_outputs_of_programs_are_judged_one_by_one(tmp_path: Path) -> None:
    row = {"question_content": "Sum?", "output_list": [TEXT, WRONG], "graded_list": [True, False]}
    assert [r.stated_correct for r in read(tmp_path, row).rows] == [True, False]


def test_a_field_of_any_name_with_marks_is_the_response_and_that_is_said(tmp_path: Path) -> None:
    source = read(tmp_path, {"problem": QUESTION, "reannotated_assistant_content": TEXT})
    assert source.rows[0].error, "its name says nothing"
    source = read(tmp_path, {"problem": QUESTION, "solution": TEXT, "answer": "14"})
    assert source.rows[0].says.response == TEXT
    assert (
        "the response is read from solution, where its thinking is marked (1 row)" in source.notes
    )
    two = read(tmp_path, {"problem": QUESTION, "my_output": TEXT, "solution": TEXT})
    assert two.rows[0].error


def test_gold_answers_in_lists_and_text(tmp_path: Path) -> None:
    listed = {**OWN, "gold_answer": None, "reward_model": {"ground_truth": '["14"]'}}
    assert one(tmp_path, listed).gold == "14"
    several = read(tmp_path, {**OWN, "gold_answer": ["14", "14.0"]})
    assert several.rows[0].gold is None
    assert any("the gold answer in gold_answer" in note for note in several.notes)
    assert one(tmp_path, {**OWN, "correct": "False"}).stated_correct is False


@pytest.mark.parametrize(
    ("stated", "correct"),
    [(np.bool_(True), True), (np.int64(0), False), (np.float32(1), True), (np.float64("nan"), None),
     (torch.tensor(False), False), (np.array([True]), None), (np.str_("true"), True)],
)  # fmt: skip
def test_judgements_of_numpy_and_torch(stated: Any, correct: bool | None) -> None:
    assert verdict(stated) is correct
