"""Thinking in a field of its own is written with the marks of the model's format."""

import pytest
from segment_tokenizers import byte_level, metaspace

from step_saliency.segment.marks import rows
from step_saliency.trace import Trace

QUESTION = "What is three plus four?"
THOUGHTS = "We add three and four. That makes seven in total."
SUMMARY = "The sum of both is seven."
SPOKEN = [
    ("question", QUESTION),
    ("thinking", "We add three and four."),
    ("thinking", "That makes seven in total."),
    ("summary", SUMMARY),
]
ASKED = {"role": "user", "content": QUESTION}
SAID = {"role": "assistant", "thinking": THOUGHTS, "content": SUMMARY}
PLAIN = "user: {{ messages[0].content }}\n"
HARMONY = (
    "{% for m in messages %}<|start|>{{ m.role }}{% if m.role == 'assistant' %}<|channel|>final"
    "{% endif %}<|message|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
CHANNELS = (
    f"<|channel|>analysis<|message|>{THOUGHTS}<|end|>"
    f"<|start|>assistant<|channel|>final<|message|>{SUMMARY}"
)
OPENED = [row.name for row in rows() if row.open]


def trace_of(said: dict[str, str] = SAID, **options) -> Trace:
    return Trace.from_messages(byte_level(), [ASKED, said], **options)


def spoken(trace: Trace) -> list[tuple[str, str]]:
    steps = [(str(step.region), step.text.strip()) for step in trace.steps]
    return [(region, text) for region, text in steps if region != "template"]


@pytest.mark.parametrize("format_name", OPENED)
@pytest.mark.parametrize("told_by", ["the caller", "the template", "the prompt"])
def test_the_marks_are_those_of_the_format(format_name: str, told_by: str) -> None:
    row = next(row for row in rows() if row.name == format_name)
    template = {
        "the caller": PLAIN,
        "the template": f"{{# {row.open} and {row.close} #}}{PLAIN}",
        "the prompt": f"{PLAIN}{row.open}\n",
    }[told_by]
    given = format_name if told_by == "the caller" else "auto"
    trace = trace_of(chat_template=template, format=given)
    assert trace.response.startswith(f"{row.open}\n{THOUGHTS}\n{row.close}\n\n")
    assert spoken(trace) == SPOKEN
    text = "".join(step.text for step in trace.steps)
    assert (text.count(row.open), text.count(row.close)) == (1, 1)
    bare = trace_of(
        {**SAID, "thinking": f"{row.open}{THOUGHTS}{row.close}"},
        chat_template=template,
        format=given,
    )
    assert bare.response == trace.response


@pytest.mark.parametrize("options", [{}, {"format": "harmony"}])
def test_the_channels_of_harmony(options: dict[str, str]) -> None:
    trace = trace_of(chat_template=HARMONY, **options)
    assert trace.response == CHANNELS
    assert spoken(trace) == SPOKEN
    assert trace.steps[-2].text == "<|end|><|start|>assistant<|channel|>final<|message|>"
    told = trace_of(chat_template=f"{{# <|channel|> #}}{PLAIN}", **options)
    assert told.response == CHANNELS


def test_headers_of_harmony_without_special_tokens() -> None:
    trace = trace_of(chat_template=PLAIN, format="harmony_text")
    assert trace.response == f"analysis{THOUGHTS}assistantfinal{SUMMARY}"
    assert spoken(trace) == SPOKEN


def test_an_answer_that_models_wrap_is_wrapped_once() -> None:
    marked = f"<|START_RESPONSE|>\n{SUMMARY}\n<|END_RESPONSE|>"
    plain = trace_of(chat_template=PLAIN, format="cohere")
    assert plain.response.endswith(f"<|END_THINKING|>\n\n{marked}")
    wrapped = trace_of({**SAID, "content": marked}, chat_template=PLAIN, format="cohere")
    assert wrapped.response == plain.response


def test_marks_of_the_answer_are_no_thinking() -> None:
    trace = trace_of({**SAID, "content": f"<answer>{SUMMARY}</answer>"})
    assert spoken(trace) == SPOKEN


@pytest.mark.parametrize("format_name", ["plain", "answer"])
def test_a_format_that_opens_no_thinking_is_refused(format_name: str) -> None:
    with pytest.raises(ValueError, match=f"format='{format_name}' has no marks that open"):
        trace_of(format=format_name)
    assert trace_of({**SAID, "thinking": " "}, format=format_name).response == SUMMARY


def test_without_a_template_the_marks_are_think() -> None:
    trace = Trace.from_messages(metaspace(), [ASKED, SAID])
    assert trace.response == f"<think>\n{THOUGHTS}\n</think>\n\n{SUMMARY}"


@pytest.mark.parametrize("format_name", OPENED)
@pytest.mark.parametrize("between", ["", "\n"])
def test_a_mark_that_the_prompt_has_is_not_read_twice(format_name: str, between: str) -> None:
    row = next(row for row in rows() if row.name == format_name)
    asked = f"user: {QUESTION}\n{row.open}{between}"
    rest = f"{THOUGHTS}\n{row.close}\n{SUMMARY}"
    once = Trace.from_text(byte_level(), prompt=asked, response=rest)
    twice = Trace.from_text(byte_level(), prompt=asked, response=f"{row.open}{between}{rest}")
    assert twice.tokens.tolist() == once.tokens.tolist()
