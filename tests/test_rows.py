"""Rows in the forms that people bring: what is read, what is said, what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from row_forms import FORMS, OWN, QUESTION, SUMMARY, TEXT, THINKING, WRONG, lines
from tiny import tiny_tokenizer

from step_saliency.runs.inputs import Input, Row, read_input, read_rows
from step_saliency.runs.inputs.reading import Reading
from step_saliency.runs.labels import labelled
from step_saliency.tasks.verdicts import verdict
from step_saliency.trace import Trace


def write(path: Path, *rows: object) -> Path:
    path.write_text(lines(*rows), encoding="utf-8")
    return path


def read(tmp_path: Path, *rows: object, **options: Any) -> Input:
    return read_input(write(tmp_path / "in.jsonl", *rows), **options)


def one(tmp_path: Path, row: object, **options: Any) -> Row:
    (only,) = read(tmp_path, row, **options).rows
    return only


def test_kinds(tmp_path: Path) -> None:
    rows = read_rows(
        write(
            tmp_path / "in.jsonl",
            {"tokens": [1], "steps": [{"start": 0, "region": "question"}]},
            {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "r"}]},
            {"question": "q", "response": "r", "answer": "its own", "gold_answer": "7"},
            {"problem": "p", "answer": "8"},
            "",
            {"question": "q", "answer": "worked #### 9", "id": "x/y z", "problem_id": 4},
        )
    )
    assert [row.error for row in rows] == [None] * 5
    assert [row.kind for row in rows] == ["trace", "messages", "response", "problem", "problem"]
    assert [row.gold for row in rows] == [None, None, "7", "8", "worked #### 9"]
    assert [row.line for row in rows] == [1, 2, 3, 4, 6]
    assert rows[0].id == "in-00001"
    assert rows[4].problem == "4"
    assert rows[2].problem == rows[2].problem != rows[3].problem


@pytest.mark.parametrize("name", FORMS)
def test_each_form_is_read_as_our_own(name: str, tmp_path: Path) -> None:
    row, form = FORMS[name]
    source = read(tmp_path, row)
    assert source.summary == f"1 row read as {form}"
    assert not [note for note in source.notes if "not read" in note]
    (only,) = source.rows
    assert only.error is None
    assert only.question == QUESTION
    assert only.says.response == TEXT
    if name != "conversations":
        assert only.gold == "14"
    assert only.stated_correct in (None, True)


def test_one_line_says_what_was_read(tmp_path: Path) -> None:
    generations = {"problem": QUESTION, "generations": [TEXT, WRONG], "answer": "14"}
    source = read(tmp_path, *[generations] * 1000, {"messages": 3}, OWN)
    assert source.summary == (
        "1,000 rows read as OpenR1 generations (2,000 responses); "
        "1 row read as questions and responses; 1 row not read (failures.parquet)"
    )


def test_several_responses_are_samples_of_one_problem(tmp_path: Path) -> None:
    generations = {
        "id": "g",
        "problem": QUESTION,
        "generations": [TEXT, WRONG],
        "correctness_math_verify": [True, False],
    }
    same = [{**OWN, "id": "s"}, {**OWN, "id": "s", "response": WRONG}]
    source = read(tmp_path, generations, *same)
    assert [row.id for row in source.rows] == ["g#0", "g#1", "s#0", "s#1"]
    assert len({row.problem for row in source.rows}) == 1
    assert [row.stated_correct for row in source.rows] == [True, False, None, None]
    assert [row.says.response for row in source.rows] == [TEXT, WRONG] * 2
    assert len({row.file_name for row in source.rows}) == 4
    assert any("4 responses of 2 ids are samples" in note for note in source.notes)


def turns(*texts: str) -> dict[str, Any]:
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[i % 2], "content": t} for i, t in enumerate(texts)]}


def test_problems_are_told_apart_by_all_that_was_asked(tmp_path: Path) -> None:
    rows = [
        turns("2 + 2?", "4", "Are you sure?", "Yes"),
        turns("9 * 9?", "80", "Are you sure?", "No"),
        turns("9 * 9?", "80", "Are you sure?", "Yes"),
        turns("9 * 9?", "81"),
        {"question": "9 * 9?", "response": TEXT},
    ]
    first, second, again, single, plain = (row.problem for row in read(tmp_path, *rows).rows)
    assert first != second == again != single
    assert single == plain == "421bc58e4958"


def test_a_saved_trace_keeps_its_problem_and_rows_without_question_are_apart(
    tmp_path: Path,
) -> None:
    saved = {"tokens": [1], "starts": [0], "regions": ["thinking"]}
    rows = read(
        tmp_path,
        {**saved, "meta": {"problem": "p7"}},
        {**saved, "meta": {"problem": ""}},
        {**saved, "tokens": [2]},
        {**OWN, "problem_id": ""},
        OWN,
    ).rows
    assert [row.error for row in rows] == [None] * 5
    assert rows[0].problem == "p7"
    assert len({row.problem for row in rows[:4]}) == 4
    assert rows[3].problem == rows[4].problem
    trace = Trace.from_dict(rows[0].says.trace)
    assert labelled(trace, rows[0], "a").meta["problem"] == "p7"


def test_thinking_that_the_prompt_opened_is_not_graded_as_an_answer() -> None:
    prompt = f"{QUESTION}\n<think>\n"
    cut_off = "Three trays hold 18.\nSo the answer is 14.\nBut let me see what"
    row = {"question": QUESTION, "response": cut_off, "answer": "14"}

    def graded(kind: str, data: dict[str, Any]) -> bool | None:
        trace = Trace.from_text(
            tiny_tokenizer(), question=QUESTION, prompt=prompt, response=data["response"]
        )
        reading = Reading(kind=kind, question=QUESTION, prompt=data.get("prompt"))  # type: ignore[arg-type]
        return labelled(trace, Row("r", 1, data, reading=reading), "r").meta["graded_correct"]

    assert graded("problem", row) is None
    assert graded("response", {**row, "prompt": prompt}) is None
    assert graded("response", row) is True, "the prompt is ours, not the one it was written under"
    assert graded("problem", {**row, "response": f"{THINKING}\n</think>\n{SUMMARY}"}) is True


def test_a_null_among_the_generations_leaves_the_others(tmp_path: Path) -> None:
    row = {
        "problem": QUESTION,
        "generations": [None, TEXT],
        "correctness_math_verify": [None, None],
        "correctness_llama": [False, True],
    }
    source = read(tmp_path, row)
    (only,) = source.rows
    assert (only.error, only.says.response, only.stated_correct) == (None, TEXT, True)
    assert "not read: generations that are null (1 row)" in source.notes
    assert read(tmp_path, {**row, "generations": [None, None]}).rows[0].error


def test_each_of_several_responses_has_its_judgement(tmp_path: Path) -> None:
    row = {"question": QUESTION, "responses": [TEXT, WRONG], "correct": [True, False]}
    assert [r.stated_correct for r in read(tmp_path, row).rows] == [True, False]


def test_a_sample_of_lm_eval_is_read_once_for_all_filters(tmp_path: Path) -> None:
    sample = FORMS["lm-eval"][0]
    strict, flexible = {**sample, "filter": "strict"}, {**sample, "filter": "flexible"}
    again = {**strict, "resps": [[WRONG]]}
    source = read(tmp_path, strict, flexible, {**flexible, "exact_match": 0.0}, again)
    assert [row.line for row in source.rows] == [1, 4]
    (note,) = [note for note in source.notes if "filters" in note]
    assert note.endswith("(2 rows)")


def test_no_name_is_that_of_another_rows_sample(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "question": "x"},
        {"id": "a#0", "question": "y"},
        {"id": "a-0", "question": "z"},
    ]
    source = read(tmp_path, *rows)
    assert [row.id for row in source.rows] == ["a", "a#0 (line 2)", "a-0"]
    assert any("a#0" in note for note in source.notes)


def test_file_names_are_safe_and_distinct(tmp_path: Path) -> None:
    names = ["a/b", "a_b", "a b", "../a", "ü", "x" * 300, "x" * 301, "字" * 100, "𝐀" * 120]
    rows = read_rows(write(tmp_path / "in.jsonl", *({"id": n, "question": "q"} for n in names)))
    files = [row.file_name for row in rows]
    assert len(set(files)) == len(names)
    assert all("/" not in file and not file.startswith(".") for file in files)
    assert all(len(file.encode()) < 200 for file in files)
    assert files[1] == "a_b"


def test_an_empty_id_is_none(tmp_path: Path) -> None:
    rows = read(tmp_path, {"id": "", "question": "q"}, {"id": "  ", "question": "r"}).rows
    assert [row.id for row in rows] == ["in-00001", "in-00002"]


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({"question": "q", "my_model_output": "First we add."}, "my_model_output"),
        ({"question": "q", "texts": [{"said": f"<think>{'a' * 20}</think>b"}]}, "texts"),
        ({"question": "q", "notes": "We add 3 and 4 to get 7. " * 10}, "notes"),
        ({"question": "q", "ground_truth": "7", "rollouts": ["We add."]}, "rollouts"),
    ],
)
def test_the_model_never_answers_in_place_of_a_response(
    row: dict[str, Any], field: str, tmp_path: Path
) -> None:
    refused = one(tmp_path, row)
    assert refused.error is not None
    assert field in refused.error
    assert "--answer" in refused.error
    assert "--field" in refused.error
    asked = read(tmp_path, row, answer=True)
    assert asked.rows[0].error is None
    assert asked.rows[0].kind == "problem"
    assert any("the model answers" in note for note in asked.notes)
    assert any(field in note for note in asked.notes)


def test_a_question_alone_is_answered_and_that_is_said(tmp_path: Path) -> None:
    plain = {"problem": "p", "solution": "s" * 300, "answer": "8", "level": 3, "subject": "Algebra"}
    source = read(tmp_path, plain, {"prompt": [{"role": "user", "content": "q"}], "answer": "9"})
    assert [row.kind for row in source.rows] == ["problem", "problem"]
    assert [row.question for row in source.rows] == ["p", "q"]
    assert "2 rows hold no response: the model answers" in source.notes


def test_thinking_beside_an_answer_is_not_guessed_at(tmp_path: Path) -> None:
    row = {"question": "q", "reasoning": "We add.", "answer": "7"}
    assert "--field" in str(one(tmp_path, row).error)
    fields = {"thinking": "reasoning", "response": "answer"}
    assert one(tmp_path, row, fields=fields).says.response == "<think>\nWe add.\n</think>\n\n7"
    beside = {"messages": [{"role": "user", "content": "q"}], "reasoning": "We add.", "answer": "7"}
    hint = "messages=messages,thinking=reasoning,response=answer"
    assert hint in str(one(tmp_path, beside).error)
    named = one(tmp_path, beside, fields=dict(part.split("=") for part in hint.split(",")))
    assert named.says.response == "<think>\nWe add.\n</think>\n\n7"
    assert one(tmp_path, beside, answer=True).kind == "problem"
    fields = {"response": "reasoning"}
    assert one(tmp_path, row, fields=fields).says.response == "We add."


@pytest.mark.parametrize("name", ["answer", "Answer", "final_answer"])
def test_a_field_that_is_named_as_the_response_is_not_its_gold_answer(
    name: str, tmp_path: Path
) -> None:
    row = {"question": "q", name: "It is 8."}
    assert one(tmp_path, row, fields={"response": name}).gold is None
    assert one(tmp_path, {**row, "gold": "7"}, fields={"response": name}).gold == "7"
    turns = {"messages": [{"role": "user", "content": "q"}], "reasoning": "We add.", name: "8"}
    fields = {"messages": "messages", "thinking": "reasoning", "response": name}
    assert one(tmp_path, turns, fields=fields).gold is None


def test_fields_by_name(tmp_path: Path) -> None:
    row = {"id": 5, "asked": {"text": "q"}, "outs": [{"t": TEXT}], "right": "14", "answer": "no"}
    fields = {"question": "asked.text", "response": "outs.0.t", "gold": "right"}
    named = one(tmp_path, row, fields=fields)
    assert (named.id, named.question, named.says.response, named.gold) == ("5", "q", TEXT, "14")
    absent = one(tmp_path, row, fields={"response": "output"})
    assert "the row has no output (id, asked, outs" in str(absent.error)
    several = read(tmp_path, {**row, "outs": [TEXT, WRONG]}, fields={**fields, "response": "outs"})
    assert [r.says.response for r in several.rows] == [TEXT, WRONG]
    assert one(tmp_path, {**OWN, "m": {"id": "x"}}, fields={"id": "m.id"}).id == "x"
    gold = one(tmp_path, {**OWN, "right": "15"}, fields={"gold": "right"})
    assert gold.gold == "15"


@pytest.mark.parametrize(
    ("stated", "correct"),
    [(True, True), (False, False), ("true", True), ("False", False), (0, False), (1, True),
     (1.0, True), ("yes", None), ([], None), (2, None), ({"a": 1}, None), ("", None), (0.5, None),
     ("1.0", True), (" 0.0", False), ("1.5", None)],
)  # fmt: skip
def test_judgements_are_read_strictly(stated: object, correct: bool | None, tmp_path: Path) -> None:
    assert verdict(stated) is correct
    source = read(tmp_path, {**OWN, "is_correct": stated})
    assert source.rows[0].stated_correct is correct
    assert any("neither true nor false" in note for note in source.notes) is (correct is None)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**OWN, "response": None}, "response must be text, got null"),
        ({**OWN, "response": [TEXT]}, "response must be text, got a list of 1"),
        ({**OWN, "response": {"content": "x"}}, "must be text, got an object with content"),
        ({**OWN, "response": 7}, "response must be text, got the number 7"),
        ({**OWN, "response": "half \ud800"}, "half a character"),
        ({**OWN, "question": ["q"]}, "question must be text, got a list of 1"),
        ({**OWN, "prompt": 3}, "prompt must be text, got the number 3"),
        ({**OWN, "id": ["a"]}, "id must be text or a number"),
        ({**OWN, "id": True}, "id must be text or a number, got true"),
        ({**OWN, "problem_id": "\ud800"}, "problem_id holds half a character"),
        ({"response": TEXT}, "no question"),
        ({"messages": 3}, "messages must be a list of messages, got the number 3"),
        ({"messages": None}, "no question, response or messages"),
        ({"messages": [{"role": "user"}, 3]}, "messages.1 must be a message"),
        ({"messages": [{"content": "a"}]}, "messages.0.role is missing"),
        ({"messages": [{"role": 1, "content": "a"}]}, "messages.0.role must be text"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content must be text, null"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "image_url"),
        ({"problem": "p", "generations": [3]}, "generations.0 must be text, got the number 3"),
        ({"problem": "p", "generations": "g"}, "generations must be a list"),
        ({"object": "chat.completion", "choices": []}, "choices must be a list of answers"),
        ({"custom_id": "c", "response": None, "error": {"code": 5}}, "the request failed"),
        ({"doc": {"question": "q"}, "resps": [[[-1.5, False]]]}, "likelihood"),
        ({"tokens": ["a"], "starts": [0], "regions": ["question"]}, "tokens.0 must be a whole"),
        ({"tokens": [10**30], "starts": [0], "regions": ["question"]}, "token ids"),
        ({"tokens": [1], "steps": 4}, "steps must be a list"),
        ({"tokens": [1, 2], "steps": [{"start": 0, "stop": 1, "region": "question"}]}, "tile"),
        ('{"id": 1' + "0" * 5000 + "}", "no JSON: Exceeds the limit"),
        ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
        ('{"question": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deeply"),
        ("[1, 2]", "a list, not an object"),
        ("{cut sho", "no JSON"),
        ({"answer": "7"}, "no question"),
    ],
)  # fmt: skip
def test_one_bad_row_spoils_no_other(row: object, message: str, tmp_path: Path) -> None:
    source = read(tmp_path, {**OWN, "id": "before"}, row, {**OWN, "id": "after"})
    assert [r.error is None for r in source.rows] == [True, False, True]
    assert message in str(source.rows[1].error)
    assert "line 2" in str(source.rows[1].error)


def test_marks_in_the_content_are_not_doubled(tmp_path: Path) -> None:
    said = {"role": "assistant", "content": TEXT, "reasoning_content": THINKING}
    row = one(tmp_path, {"messages": [{"role": "user", "content": "q"}, said]})
    assert row.says.response == TEXT
    assert not row.says.composed


def test_tool_turns_are_context(tmp_path: Path) -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "sum"}}]}
    turns = [
        {"role": "user", "content": "q"},
        call,
        {"role": "tool", "content": "14"},
        {"role": "assistant", "content": SUMMARY},
    ]
    says = one(tmp_path, {"messages": turns}).says
    assert [(turn.role, turn.content) for turn in says.turns] == [
        ("user", "q"),
        ("assistant", ""),
        ("tool", "14"),
        ("assistant", SUMMARY),
    ]
    assert says.question == "q"


def test_completion_without_question_says_so(tmp_path: Path) -> None:
    message = {"role": "assistant", "content": SUMMARY, "reasoning_content": THINKING}
    source = read(tmp_path, {"object": "chat.completion", "choices": [{"message": message}]})
    assert source.rows[0].says.response == TEXT
    assert source.rows[0].says.prompt == ""
    assert any("read without one" in note for note in source.notes)


def test_an_empty_prompt_is_none(tmp_path: Path) -> None:
    row = one(tmp_path, {**OWN, "prompt": ""})
    assert (row.says.prompt, row.question) == (None, QUESTION)
    assert one(tmp_path, {"prompt": "", "response": TEXT}).error


def test_choices_of_a_question_are_no_completion(tmp_path: Path) -> None:
    row = one(tmp_path, {"question": "q", "choices": ["a", "b"], "response": "b", "answer": "b"})
    assert (row.error, row.kind, row.gold) == (None, "response", "b")


def test_two_traces_of_s1k(tmp_path: Path) -> None:
    row = {
        "question": QUESTION,
        "gemini_thinking_trajectory": "Wrong way.",
        "gemini_attempt": "It is 3.",
        "gemini_grade": "No",
        "deepseek_thinking_trajectory": THINKING,
        "deepseek_attempt": SUMMARY,
        "deepseek_grade": "Yes",
    }
    rows = read(tmp_path, row).rows
    assert [(r.says.source, r.stated_correct) for r in rows] == [
        ("gemini", False),
        ("deepseek", True),
    ]


def test_what_was_not_read_is_named(tmp_path: Path) -> None:
    source = read(tmp_path, {**OWN, "other_generation": WRONG, "difficulty": "hard"})
    assert source.rows[0].says.response == TEXT
    (note,) = source.notes
    assert "other_generation (1 row)" in note
    assert "difficulty" not in note


def test_the_digest_changes_with_the_row_and_with_how_it_is_read(tmp_path: Path) -> None:
    row = {"question": "q", "response": "a b", "other": "c d"}
    first = one(tmp_path, row)
    assert one(tmp_path, row).digest == first.digest
    assert one(tmp_path, {**row, "other": "e"}).digest != first.digest
    assert one(tmp_path, row, fields={"response": "other"}).digest != first.digest


def test_limit(tmp_path: Path) -> None:
    path = write(tmp_path / "in.jsonl", *({"question": str(i)} for i in range(5)))
    assert len(read_rows(path, limit=2)) == 2
    with pytest.raises(ValueError, match="limit=0"):
        read_rows(path, limit=0)


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no file"):
        read_rows(tmp_path / "absent.jsonl")
    with pytest.raises(ValueError, match="no rows"):
        read_rows(write(tmp_path / "in.jsonl", "", " "))


def test_public_cases(shared_data: Path, tmp_path: Path) -> None:
    """Inputs in public forms: each is read with its thinking, or refused where it should be."""
    refused = {"response-null", "response-list", "response-dict"}
    n_rows = 0
    for text in (shared_data / "public_cases.jsonl").read_text(encoding="utf-8").splitlines():
        case = json.loads(text)
        rows = case["input"] if isinstance(case["input"], list) else [case["input"]]
        if case["id"][0] not in "AD" or not isinstance(rows[0], dict):
            continue
        file = tmp_path / f"{case['id']}.jsonl"
        raw = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
        file.write_text(raw, encoding="utf-8-sig" if "bom" in case["id"] else "utf-8")
        for row in read_input(file).rows:
            n_rows += 1
            assert (row.error is not None) == (row.line in _lines_of(rows, refused)), row
            assert row.error or row.kind != "problem"
            assert row.error or "</think>" in row.says.response or "_thought|>" in row.says.response
    assert n_rows > 25


def _lines_of(rows: list[dict[str, Any]], ids: set[str]) -> set[int]:
    return {line for line, row in enumerate(rows, start=1) if row.get("id") in ids}
