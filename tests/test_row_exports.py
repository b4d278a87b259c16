"""Conversations as chat sites export them."""

import json
from pathlib import Path
from typing import Any

import pytest

from step_saliency.runs.inputs import Row, read_input

ASKED = "A baker packs 4 trays of 6 rolls. How many rolls?"
THOUGHT = "There are 4 trays. Each has 6 rolls. So 4 * 6 = 24."
SAID = "There are 24 rolls."
WHOLE = f"<think>\n{THOUGHT}\n</think>\n\n{SAID}"


def rows(tmp_path: Path, *conversations: Any) -> tuple[Row, ...]:
    """The rows of an export: one array."""
    file = tmp_path / "conversations.json"
    file.write_text(json.dumps(conversations))
    return tuple(read_input(file).rows)


def chatgpt(role: str, content: Any, **metadata: Any) -> dict[str, Any]:
    """A message of ChatGPT."""
    held = content if isinstance(content, dict) else {"content_type": "text", "parts": [content]}
    return {"author": {"role": role}, "content": held, "metadata": metadata}


def deepseek(**parts: str) -> dict[str, Any]:
    """A message of DeepSeek."""
    fragments = [{"type": kind, "content": text} for kind, text in parts.items()]
    return {"files": [], "model": "deepseek-reasoner", "fragments": fragments}


def tree(*messages: Any, **more: Any) -> dict[str, Any]:
    """A conversation of messages that follow one another."""
    names = ["root", *map(str, range(len(messages)))]
    nodes = {
        name: {"id": name, "parent": before, "children": [after] if after else [], "message": said}
        for name, before, after, said in zip(
            names, [None, *names], [*names[1:], None], [None, *messages], strict=False
        )
    }
    return {"title": "rolls", "mapping": nodes, **more}


THOUGHTS = {"content_type": "thoughts", "thoughts": [{"summary": "Count", "content": THOUGHT}]}
CHATGPT = tree(
    chatgpt("system", "", is_visually_hidden_from_conversation=True),
    chatgpt("user", {"content_type": "user_editable_context", "user_profile": "a baker"}),
    chatgpt("user", ASKED),
    chatgpt("assistant", THOUGHTS),
    chatgpt("assistant", {"content_type": "reasoning_recap", "content": "Thought for 3 seconds"}),
    chatgpt("assistant", SAID),
    current_node="5",
)
DEEPSEEK = tree(deepseek(REQUEST=ASKED), deepseek(THINK=THOUGHT, RESPONSE=SAID))
CLAUDE = {
    "uuid": "x",
    "name": "rolls",
    "chat_messages": [
        {"sender": "human", "text": ASKED, "content": [{"type": "text", "text": ASKED}]},
        {
            "sender": "assistant",
            "text": SAID,
            "content": [{"type": "thinking", "thinking": THOUGHT}, {"type": "text", "text": SAID}],
        },
    ],
}


@pytest.mark.parametrize("conversation", [CHATGPT, DEEPSEEK, CLAUDE])
def test_thinking_and_answer_are_read(tmp_path: Path, conversation: Any) -> None:
    (row,) = rows(tmp_path, conversation)
    assert row.error is None
    assert (row.question, row.says.response) == (ASKED, WHOLE)
    assert row.says.composed
    assert row.says.notes == ()


def test_text_alone_is_read(tmp_path: Path) -> None:
    plain = {
        "chat_messages": [{"sender": "human", "text": ASKED}, {"sender": "assistant", "text": SAID}]
    }
    (row,) = rows(tmp_path, plain)
    assert (row.question, row.says.response) == (ASKED, SAID)


def test_the_branch_that_was_shown_last_is_read(tmp_path: Path) -> None:
    asked = tree(deepseek(REQUEST=ASKED), deepseek(RESPONSE="24, I think."))
    asked["mapping"]["0"]["children"].append("again")
    again = deepseek(THINK=THOUGHT, RESPONSE=SAID)
    asked["mapping"]["again"] = {"id": "again", "parent": "0", "children": [], "message": again}
    newest, chosen = rows(tmp_path, asked, {**asked, "current_node": "1"})
    assert newest.says.response == WHOLE
    assert chosen.says.response == "24, I think."
    assert newest.says.notes == chosen.says.notes == ("branches that were not shown last",)


def test_a_later_question_follows_what_was_said(tmp_path: Path) -> None:
    (row,) = rows(tmp_path, tree(*[chatgpt(*said) for said in (
        ("user", ASKED), ("assistant", SAID), ("user", "And 5 trays?"), ("assistant", "30 rolls."),
    )]))  # fmt: skip
    assert [turn.role for turn in row.says.turns] == ["user", "assistant", "user", "assistant"]
    assert (row.question, row.says.response) == ("And 5 trays?", "30 rolls.")


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    picture = {"content_type": "multimodal_text", "parts": [{"asset_pointer": "x"}, ASKED]}
    searched = {"content_type": "tether_quote", "text": "found"}
    shown = tree(
        chatgpt("user", picture),
        chatgpt("tool", "4 * 6"),
        chatgpt("assistant", searched),
        chatgpt("assistant", SAID),
    )
    other = tree(deepseek(REQUEST=ASKED), deepseek(SEARCH="rolls", RESPONSE=SAID))
    first, second = rows(tmp_path, shown, other)
    assert (first.question, first.says.response) == (ASKED, SAID)
    assert first.says.notes == (
        "content of type 'tether_quote' in mapping",
        "messages of tools in mapping",
        "parts that are no text in mapping",
    )
    assert second.says.notes == ("fragments of type 'SEARCH' in mapping",)


def test_what_cannot_be_read_says_why(tmp_path: Path) -> None:
    circle = tree(deepseek(REQUEST=ASKED), deepseek(RESPONSE=SAID), current_node="1")
    circle["mapping"]["0"]["parent"] = "1"
    bare = tree({"content": "4 * 6 = 24"})
    open_ = tree(deepseek(REQUEST=ASKED))
    strange = tree({"author": 3, "content": {}, "metadata": []}, current_node=["0"])
    strange["mapping"]["0"] |= {"children": [[1]], "parent": {}}
    found = [row.error or "" for row in rows(tmp_path, circle, bare, open_, strange)]
    assert found[3]
    assert "go in a circle" in found[0]
    assert "must have a content and an author with a role, or fragments" in found[1]
    assert "the last message must be the assistant's response, got role 'user'" in found[2]
