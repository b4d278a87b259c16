"""Thinking that a row has in a field of its own gets the marks of the model that reads it."""

import json
from pathlib import Path

import pytest
from row_forms import ASKED, QUESTION, SUMMARY, THINKING
from segment_tokenizers import byte_level

from step_saliency.runs.inputs import read_input, trace_of_row
from step_saliency.segment.marks import rows
from step_saliency.trace import Trace

SAID = {"role": "assistant", "content": SUMMARY, "reasoning_content": THINKING}
ROWS = {
    "messages": {"messages": [ASKED, SAID]},
    "response": {"question": QUESTION, "reasoning": THINKING, "response": SUMMARY},
}
PLAIN = "user: {{ messages[0].content }}\n"
THINK = f"<think>\n{THINKING}\n</think>\n\n{SUMMARY}"
CHANNELS = (
    f"<|channel|>analysis<|message|>{THINKING}<|end|>"
    f"<|start|>assistant<|channel|>final<|message|>{SUMMARY}"
)
TEMPLATES = {row.name: f"{{# {row.open}{row.close} #}}{PLAIN}" for row in rows() if row.open}
TEMPLATES["harmony"] = f"{{# <|channel|> #}}{PLAIN}"


def trace_by(template: str | None, row: dict, folder: Path, format_name: str = "auto") -> Trace:
    file = folder / "in.jsonl"
    file.write_text(json.dumps(row), encoding="utf-8")
    (read,) = read_input(file).rows
    tokenizer = byte_level()
    tokenizer.chat_template = template
    return trace_of_row(read, tokenizer, format=format_name, splitter="sentence")


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_marks_are_those_of_the_chat_template(name: str, kind: str, tmp_path: Path) -> None:
    trace = trace_by(TEMPLATES[name], ROWS[kind], tmp_path)
    row = next((row for row in rows() if row.name == name), None)
    if row is None:
        assert trace.response == CHANNELS
    else:
        assert trace.response.startswith(f"{row.open}\n{THINKING}\n{row.close}\n\n")
    by_hand = Trace.from_messages(
        byte_level(), [ASKED, SAID], chat_template=TEMPLATES[name], splitter="sentence"
    )
    assert trace.tokens.tolist() == by_hand.tokens.tolist()
    assert trace.steps == by_hand.steps


@pytest.mark.parametrize("kind", ROWS)
def test_a_model_that_speaks_of_no_marks_gets_those_of_think(kind: str, tmp_path: Path) -> None:
    for template in (PLAIN, None):
        for format_name in ("auto", "plain", "think"):
            trace = trace_by(template, ROWS[kind], tmp_path, format_name)
            assert trace.response == THINK
            assert "thinking" in {str(step.region) for step in trace.steps}


@pytest.mark.parametrize("kind", ROWS)
def test_a_format_that_is_named_decides(kind: str, tmp_path: Path) -> None:
    assert trace_by(TEMPLATES["think"], ROWS[kind], tmp_path, "harmony").response == CHANNELS
    with pytest.raises(ValueError, match="format='answer' has no marks that open the thinking"):
        trace_by(PLAIN, ROWS[kind], tmp_path, "answer")
