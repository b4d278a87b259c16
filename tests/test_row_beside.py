"""Responses, thinking and system prompts that stand beside each other in a row: none is lost."""

from pathlib import Path
from typing import Any

import pytest
from row_forms import ASKED, OWN, QUESTION, SUMMARY, TEXT, THINKING, WRONG, lines
from segment_tokenizers import byte_level

from step_saliency.runs.inputs import Input, read_input, trace_of_row
from step_saliency.runs.inputs.reading import TWICE

REFERENCE = "3 * 6 - 4 is \\boxed{14}."
SAID = {"role": "assistant", "content": REFERENCE}
SOLVED = {"messages": [ASKED, SAID], "is_correct": False}
OPENED = [ASKED, {"role": "assistant", "content": "<think>\n"}]
UNREAD = "not read, though it may hold a trace: {} (1 row); name the response with --field"


def read(tmp_path: Path, *rows: object, **options: Any) -> Input:
    file = tmp_path / "in.jsonl"
    file.write_text(lines(*rows), encoding="utf-8")
    return read_input(file, **options)


def responses(source: Input) -> list[str]:
    assert [row.error for row in source.rows] == [None] * len(source.rows)
    return [row.says.response for row in source.rows]


THOUGHT = "<|begin_of_thought|>\n18 - 5.\n<|end_of_thought|>\n<|begin_of_solution|>\n13\n"


def test_the_conversation_with_thinking_is_the_one_that_was_judged(tmp_path: Path) -> None:
    asked = {"from": "user", "value": QUESTION}
    row = {
        "problem": QUESTION, "solution": REFERENCE, **SOLVED, "is_correct": None, "correct": False,
        "system": "Think first.",
        "conversations": [asked, {"from": "assistant", "value": THOUGHT}],
    }  # fmt: skip
    source = read(tmp_path, row)
    assert responses(source) == [THOUGHT]
    assert source.summary == "1 row read as OpenThoughts conversations"
    assert source.notes == (UNREAD.format("messages"),)
    (only,) = source.rows
    assert [turn.role for turn in only.says.turns] == ["system", "user", "assistant"]
    assert (only.gold, only.stated_correct) == ("14", False)


@pytest.mark.parametrize(
    ("field", "value", "texts"),
    [
        ("generation", WRONG, [WRONG]),
        ("response", WRONG, [WRONG]),
        ("responses", [WRONG, TEXT], [WRONG, TEXT]),
        ("generated_solution", WRONG, [WRONG]),
        ("output", [{"role": "assistant", "content": WRONG}], [WRONG]),
    ],
)
def test_a_response_with_thinking_is_read_in_place_of_a_reference(
    field: str, value: object, texts: list[str], tmp_path: Path
) -> None:
    source = read(tmp_path, {**SOLVED, field: value})
    assert responses(source) == texts
    assert {row.stated_correct for row in source.rows} == {False}
    assert all([turn.role for turn in r.says.turns] == ["user", "assistant"] for r in source.rows)
    assert source.notes[0] == UNREAD.format("messages")


def test_thinking_beside_a_response_marks_it(tmp_path: Path) -> None:
    source = read(tmp_path, {**SOLVED, "response": SUMMARY, "reasoning_content": THINKING})
    assert responses(source) == [TEXT]


def test_a_conversation_with_thinking_is_read_and_what_is_beside_it_named(tmp_path: Path) -> None:
    turns = [ASKED, {"role": "assistant", "content": TEXT}]
    source = read(tmp_path, {"messages": turns, "response": SUMMARY})
    assert responses(source) == [TEXT]
    assert source.notes == (UNREAD.format("response"),)


@pytest.mark.parametrize(
    ("one", "other"), [(REFERENCE, "It is 13."), (TEXT, WRONG)], ids=["no marks", "both marked"]
)
def test_which_of_several_responses_was_judged_is_not_guessed(
    one: str, other: str, tmp_path: Path
) -> None:
    row = {"messages": [ASKED, {"role": "assistant", "content": one}], "response": other}
    (refused,) = read(tmp_path, row).rows
    assert "several fields may hold the response: response (" in str(refused.error)
    assert "--field messages=messages,response=NAME" in str(refused.error)
    both = {"messages": "messages", "response": "response"}
    assert responses(read(tmp_path, row, fields=both)) == [other]
    assert responses(read(tmp_path, row, fields={"messages": "messages"})) == [one]


def test_a_response_that_stands_twice_is_read_once(tmp_path: Path) -> None:
    turns = [ASKED, {"role": "assistant", "content": TEXT}]
    source = read(tmp_path, {"messages": turns, "response": f"{TEXT}\n"})
    assert (responses(source), source.notes) == ([TEXT], ())
    several = read(tmp_path, {"messages": turns, "responses": [TEXT, WRONG]})
    assert responses(several) == [TEXT, WRONG]
    assert not [note for note in several.notes if "not read" in note]


def test_of_responses_to_an_open_conversation_the_first_is_read(tmp_path: Path) -> None:
    source = read(tmp_path, {"messages": [ASKED], "response": SUMMARY, "completion": "13"})
    assert responses(source) == [SUMMARY]
    assert source.notes == (UNREAD.format("completion"),)
    source = read(tmp_path, {"messages": [ASKED], "response": SUMMARY, "completion": TEXT})
    assert responses(source) == [TEXT]
    assert source.notes == (UNREAD.format("response"),)


def test_of_plain_responses_and_thinking_what_was_not_used_is_named(tmp_path: Path) -> None:
    source = read(tmp_path, {**OWN, "responses": [WRONG], "cot": "Hm."})
    assert responses(source) == [TEXT]
    assert source.notes[0] == UNREAD.format("responses")
    assert source.notes[1] == f"not read: {TWICE} (1 row)"


def test_no_turns_beside_a_response_are_no_question(tmp_path: Path) -> None:
    (row,) = read(tmp_path, {"messages": [], "response": TEXT}).rows
    assert "got role none (0 messages)" in str(row.error)


REST = TEXT.removeprefix("<think>\n")


@pytest.mark.parametrize(
    "completion", [REST, THINKING, TEXT, [REST], [{"role": "assistant", "content": REST}]]
)
@pytest.mark.parametrize("name", ["messages", "prompt"])
def test_a_turn_that_opens_the_thinking_is_gone_on_with(
    name: str, completion: Any, tmp_path: Path
) -> None:
    source = read(tmp_path, {name: OPENED, "completion": completion})
    text = f"<think>\n{THINKING}" if completion == THINKING else TEXT
    assert responses(source) == [text]
    assert source.rows[0].question == QUESTION
    assert source.notes == ()


def test_a_mark_that_is_spoken_of_is_no_thinking(tmp_path: Path) -> None:
    content = f"Use the tag `</think>` to close.\n```\n</think>\n\n8\n```\n{SUMMARY}"
    said = {"role": "assistant", "content": content, "reasoning_content": THINKING}
    for row in (
        {"messages": [ASKED, said]},
        {"question": QUESTION, "response": content, "reasoning_content": THINKING},
    ):
        source = read(tmp_path, row)
        assert responses(source) == [f"<think>\n{THINKING}\n</think>\n\n{content}"]
        assert source.notes == ()
        tokenizer = byte_level()
        tokenizer.chat_template = "{# [THINK][/THINK] #}user: {{ messages[0].content }}\n"
        trace = trace_of_row(source.rows[0], tokenizer, format="auto", splitter="sentence")
        assert trace.response == f"[THINK]\n{THINKING}\n[/THINK]\n\n{content}"


def test_thinking_that_is_left_out_is_named(tmp_path: Path) -> None:
    said = {"role": "assistant", "content": TEXT, "reasoning_content": "Another thought."}
    note = f"not read: {TWICE} (1 row)"
    for row in ({"messages": [ASKED, said]}, {**OWN, "reasoning": "Another thought."}):
        source = read(tmp_path, row)
        assert (responses(source), source.notes) == ([TEXT], (note,))
    same = read(tmp_path, {"messages": [ASKED, {**said, "reasoning_content": THINKING}]})
    assert (responses(same), same.notes) == ([TEXT], ())


ANSWER = {"role": "assistant", "content": [{"type": "text", "text": SUMMARY}]}
REQUESTS: dict[str, dict[str, Any]] = {
    "Anthropic": {
        "custom_id": "r", "params": {"system": "Be brief.", "messages": [ASKED]},
        "result": {"type": "succeeded", "message": ANSWER},
    },
    "Anthropic, in parts": {
        "custom_id": "r",
        "params": {"system": [{"type": "text", "text": "Be brief."}], "messages": [ASKED]},
        "result": {"type": "succeeded", "message": ANSWER},
    },
    "Responses": {
        "object": "response", "instructions": "Be brief.", "input": QUESTION,
        "output": [{"type": "message", "content": SUMMARY}],
    },
    "batch of Responses": {
        "custom_id": "r", "body": {"input": QUESTION, "instructions": "Be brief."},
        "response": {"body": {
            "object": "response", "instructions": "Be brief.",
            "output": [{"type": "message", "content": SUMMARY}]}},
    },
    "Gemini": {
        "request": {"systemInstruction": {"parts": [{"text": "Be brief."}]},
                    "contents": [{"parts": [{"text": QUESTION}]}]},
        "response": {"candidates": [{"content": {"parts": [{"text": SUMMARY}]}}]},
    },
}  # fmt: skip


@pytest.mark.parametrize("name", REQUESTS)
def test_the_system_prompt_of_a_request_is_its_first_turn(name: str, tmp_path: Path) -> None:
    source = read(tmp_path, REQUESTS[name])
    assert (responses(source), source.notes) == ([SUMMARY], ())
    turns = [(turn.role, turn.content) for turn in source.rows[0].says.turns]
    assert turns[:2] == [("system", "Be brief."), ("user", QUESTION)]


def test_a_second_system_prompt_is_named(tmp_path: Path) -> None:
    turns = [{"role": "system", "content": "Think."}, ASKED, SAID]
    source = read(tmp_path, {"messages": turns, "system": "Be brief."})
    assert source.rows[0].says.turns[0].content == "Think."
    note = "the system prompt in system, since a system turn says another"
    assert source.notes == (f"not read: {note} (1 row)",)
    assert read(tmp_path, {"messages": turns, "system": "Think."}).notes == ()


def test_results_of_tools_are_no_question(tmp_path: Path) -> None:
    result = {"type": "tool_result", "tool_use_id": "t", "content": "14"}
    call = {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "sum"}]}
    turns = [ASKED, call, {"role": "user", "content": [result]}, SAID]
    (row,) = read(tmp_path, {"messages": turns}).rows
    assert [turn.role for turn in row.says.turns] == ["user", "assistant", "tool", "assistant"]
    assert row.question == QUESTION


def test_thinking_of_medical_o1(tmp_path: Path) -> None:
    row = {"Question": QUESTION, "Complex_CoT": THINKING, "Response": SUMMARY}
    assert responses(read(tmp_path, row)) == [TEXT]


def test_a_solution_that_may_be_a_trace_is_named(tmp_path: Path) -> None:
    row = {"question": QUESTION, "solution": "We add. " * 600, "answer": "14"}
    source = read(tmp_path, row)
    assert [r.kind for r in source.rows] == ["problem"]
    assert any("--field response=solution" in note for note in source.notes)
    short = read(tmp_path, {**row, "solution": "We add. " * 60})
    assert short.notes == ("1 row holds no response: the model answers",)
