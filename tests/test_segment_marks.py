"""Marks of many formats: which text is thinking, which is summary, and what marks do not do."""

import json
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from segment_tokenizers import byte_level, ids, metaspace, smollm2

import step_saliency as ss
from step_saliency.segment import detect_format, marks, register_format, segment_text
from step_saliency.segment.unread import tag_like_marks
from step_saliency.trace import Trace

QUESTION = "How many legs do two cats have?"
THOUGHTS = "One cat has four legs. Two of them have eight."
SUMMARY = "Together they have eight legs."
TOKENIZERS = [byte_level, smollm2, metaspace]


@pytest.fixture(autouse=True)
def _loud() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


@pytest.fixture
def table() -> Iterator[None]:
    """The table of formats as it was before the test."""
    before = dict(marks._TABLE)
    yield
    marks._TABLE.clear()
    marks._TABLE.update(before)


def texts_of(trace: Trace, region: str) -> str:
    return " ".join(step.text.strip() for step in trace.steps if step.region == region)


def cut(response: str, make=smollm2, prompt: str = "Q: cats?\n", **options) -> Trace:
    return Trace.from_text(make(), prompt=prompt, response=response, **options)


RESPONSES = {
    "openthoughts": f"<|begin_of_thought|>\n\n{THOUGHTS}\n\n<|end_of_thought|>\n\n"
    f"<|begin_of_solution|>\n\n{SUMMARY}\n\n<|end_of_solution|>",
    "mistral": f"[THINK]{THOUGHTS}\n[/THINK]{SUMMARY}",
    "kimi": f"◁think▷{THOUGHTS}\n◁/think▷{SUMMARY}",
    "thought": f"<thought>\n{THOUGHTS}\n</thought>\n{SUMMARY}",
    "seed": f"<seed:think>{THOUGHTS}\n</seed:think>{SUMMARY}",
    "cohere": f"<|START_THINKING|>{THOUGHTS}\n<|END_THINKING|><|START_RESPONSE|>{SUMMARY}\n"
    "<|END_RESPONSE|>",
    "s1": f"<|im_start|>think\n{THOUGHTS}\n<|im_start|>answer\n{SUMMARY}",
    "thinking": f"<thinking>\n{THOUGHTS}\n</thinking>\n\n<answer>{SUMMARY}\n</answer>",
    "reasoning": f"<reasoning>\n{THOUGHTS}\n</reasoning>\n<answer>\n{SUMMARY}\n</answer>\n",
    "think": f"<think>{THOUGHTS}\n</think> <answer>{SUMMARY}\n</answer>",
    "answer": f"{THOUGHTS}\n<answer>{SUMMARY}\n</answer>",
}


@pytest.mark.parametrize("make", [byte_level, smollm2])
@pytest.mark.parametrize("name", RESPONSES)
@pytest.mark.parametrize("named", [True, False])
def test_each_format_is_read_by_its_marks(name: str, make, named: bool) -> None:
    response = RESPONSES[name]
    assert detect_format(prompt="Q: cats?\n", response=response) == name
    trace = cut(response, make, format=name if named else "auto")
    assert texts_of(trace, "thinking") == THOUGHTS
    assert texts_of(trace, "summary") == SUMMARY
    assert trace.response == response


@pytest.mark.parametrize("name", ["mistral", "thought", "seed", "thinking", "reasoning"])
@pytest.mark.parametrize("end", ["without opening", "without closing"])
def test_half_a_pair(name: str, end: str) -> None:
    row = marks.row_of(name)
    response = RESPONSES[name].partition(row.close)[0]
    if end == "without opening":
        response = RESPONSES[name].partition(row.open)[2]
    trace = cut(response)
    assert texts_of(trace, "thinking") == THOUGHTS
    assert texts_of(trace, "summary") == (SUMMARY if end == "without opening" else "")


@pytest.mark.parametrize("name", ["openthoughts", "mistral", "kimi", "thought", "seed", "thinking"])
def test_marks_within_a_line_are_template_as_a_whole(name: str) -> None:
    row = marks.row_of(name)
    trace = cut(f"{row.open}{THOUGHTS}{row.close}{SUMMARY}", byte_level)
    assert texts_of(trace, "thinking") == THOUGHTS
    assert texts_of(trace, "summary") == SUMMARY


@pytest.mark.parametrize("make", TOKENIZERS)
def test_the_words_of_harmony_headers_alone(make) -> None:
    response = f"analysis{THOUGHTS}assistantfinal{SUMMARY}"
    trace = cut(response, make)
    assert texts_of(trace, "thinking") == THOUGHTS
    assert texts_of(trace, "summary") == SUMMARY
    assert detect_format(response="analysis of the question shows nothing") == "plain"
    assert detect_format(response=f"{THOUGHTS}\nassistantfinal\n{SUMMARY}") == "harmony_text"


HARMONY = (
    f"<|channel|>analysis<|message|>{THOUGHTS}\n<|end|><|start|>assistant"
    f"<|channel|>final<|message|>{SUMMARY}\n<|return|>"
)


@pytest.mark.parametrize(
    "response",
    [HARMONY, f"<|start|>assistant{HARMONY}", *list(RESPONSES.values())[:-1]],
)
def test_own_marks_win_over_the_template_of_the_reader(response: str) -> None:
    trace = Trace.from_text(byte_level(), question=QUESTION, response=response)
    assert texts_of(trace, "thinking") == THOUGHTS
    assert texts_of(trace, "summary") == SUMMARY


def test_under_an_opened_thinking_other_marks_are_talk() -> None:
    response = f"I may write <thinking> tags, or <answer> tags. {THOUGHTS}\n</think>\n{SUMMARY}"
    trace = Trace.from_text(byte_level(), question=QUESTION, response=response)
    assert texts_of(trace, "summary") == SUMMARY


@pytest.mark.parametrize(
    "quoted",
    [
        "I close it with `</think>` later.",
        "I close it with ``</think>`` later.",
        'The tag "</think>" comes last.',
        'The tag is:"</think>" as text.',
        "The tag '</think>' comes last.",
        "The tag “</think>” comes last.",
        'In code it is x = "a </think> b" as text.',
        "Like this:\n```xml\n<think>\nhm\n</think>\n```\nThat was it.",
    ],
)
@pytest.mark.parametrize("make", [byte_level, smollm2])
def test_a_quoted_mark_ends_nothing(quoted: str, make) -> None:
    response = f"<think>\n{quoted}\nIt's done, say 5\" more.\n</think>\n{SUMMARY}"
    trace = cut(response, make)
    assert texts_of(trace, "summary") == SUMMARY
    assert detect_format(response=f"We answer. {quoted}") == "plain"
    other = response.replace("think>", "reasoning>")
    assert texts_of(cut(other, make), "summary") == SUMMARY


@pytest.mark.parametrize(
    "before",
    ['He said "yes."', "It is 5'", "a `b` c", "don't", "```\nx = 1\n```", 'open " here\n',
     "It is 'cause of two.", 'He wins "gold.'],
)  # fmt: skip
def test_a_mark_after_a_quotation_counts(before: str) -> None:
    trace = cut(
        f"<think>\n{before}</think>\n{SUMMARY}"
        if before[-1] != "`"
        else f"<think>\n{before}\n</think>\n{SUMMARY}"
    )
    assert texts_of(trace, "summary") == SUMMARY


@pytest.mark.parametrize("mark", ["<|im_end|>", "<|eot_id|>", "<|end|>", "</s>", "<|endoftext|>"])
@pytest.mark.parametrize("make", [byte_level, smollm2, metaspace])
@pytest.mark.parametrize("form", ["think", "plain", "reasoning"])
def test_end_marks_of_another_tokenizer_are_template(mark: str, make, form: str) -> None:
    body = RESPONSES.get(form, f"{THOUGHTS} The answer is eight legs.")
    trace = cut(body + mark, make)
    bare = cut(body, make)
    assert trace.steps[-1].region == "template"
    rest = texts_of(trace, "summary").removeprefix(texts_of(bare, "summary"))
    assert rest in ("", "<", "</"), "what a tokenizer spells before the mark can be told"
    assert texts_of(trace, "thinking") == texts_of(bare, "thinking")


@pytest.mark.parametrize("body", ["We count.\n#### 8", "So it is $\\boxed{8}$", "It is 8 (legs)"])
def test_an_end_mark_after_a_number_or_a_bracket(body: str) -> None:
    trace = cut(f"{body}<|eot_id|>", smollm2)
    assert trace.steps[-1].region == "template"
    assert "eot" not in texts_of(trace, "summary") + texts_of(trace, "thinking")


def test_text_struck_through_is_no_end_mark() -> None:
    trace = cut("It is <s>seven</s> eight legs in all.")
    assert {step.region for step in trace.steps} == {"question", "thinking"}


def test_a_format_of_the_user(table: None) -> None:
    response = f"<scratchpad>{THOUGHTS}\n</scratchpad>\n<result>{SUMMARY}\n</result>"
    with pytest.warns(UserWarning, match="<scratchpad>, </scratchpad>, <result>"):
        assert texts_of(cut(response), "summary") == ""
    name = ss.segment.register_format(
        "<scratchpad>", "</scratchpad>", answer=["<result>", "</result>"]
    )
    assert name == "scratchpad"
    for form in ("auto", name):
        trace = cut(response, format=form)
        assert texts_of(trace, "thinking") == THOUGHTS
        assert texts_of(trace, "summary") == SUMMARY
    assert name == register_format(
        "<scratchpad>", "</scratchpad>", answer=["<result>", "</result>"]
    )
    tracker = ss.segment.StepTracker(smollm2(), format=name)
    events = [tracker.push(token) for token in ids(smollm2(), response)]
    assert events[-6].region == "summary"


def test_marks_that_are_words_of_a_line(table: None) -> None:
    register_format("### Thoughts:", "### Reply:", name="headings")
    trace = cut(f"### Thoughts:\n{THOUGHTS}\n### Reply:\n{SUMMARY}")
    assert texts_of(trace, "thinking") == THOUGHTS
    assert texts_of(trace, "summary") == SUMMARY


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("<a>", "<a>"), {}, "must differ"),
        (("<plan>", ""), {}, "'' is no mark"),
        (("plan", "</plan>"), {}, "'plan' is no mark"),
        (("<plan>", "</plan> "), {}, "white space"),
        (("<think>", "</plan>"), {"name": "mine"}, "marks of the format 'think' already"),
        (("<plan>", "</plan>"), {"name": "think"}, "'think' is known already"),
        (("<plan>", "</plan>"), {"name": "auto"}, "'auto' is known already"),
        (("<plan>", "</plan>"), {"answer": "<end>"}, "must be a list"),
        (("<|im_start|>", "<|im_end|>"), {}, "an end mark"),
    ],
)
def test_what_is_no_format_is_refused(arguments, options, message: str, table: None) -> None:
    before = dict(marks._TABLE)
    with pytest.raises(ValueError, match=message):
        register_format(*arguments, **options)
    assert before == marks._TABLE


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<plan>go</plan> on", ["<plan>", "</plan>"]),
        ("go</plan> on", ["</plan>"]),
        ("[PLAN]go[/PLAN]", ["[PLAN]", "[/PLAN]"]),
        ("<|plan|>go", ["<|plan|>"]),
        ("◁plan▷go", ["◁plan▷"]),
        ("a <b>bold</b> word, x < y > z, List<int>, [A] and [QED]", []),
        ("code `<plan></plan>` and\n```\n<plan></plan>\n```", []),
    ],
)
def test_tag_like_marks(text: str, expected: list[str]) -> None:
    assert tag_like_marks(text) == expected


def test_one_warning_names_what_was_not_read() -> None:
    response = f"<plan>{THOUGHTS}</plan>{SUMMARY}"
    with pytest.warns(UserWarning, match=r"read as 'plain'.*<plan>, </plan>\. Name") as caught:
        segment_text(byte_level(), question=QUESTION, response=response, chat_template=False)
    assert len(caught) == 1
    with pytest.warns(UserWarning, match="read as 'think'"):
        Trace.from_text(byte_level(), question=QUESTION, response=response)
    Trace.from_text(byte_level(), question=QUESTION, response=response, format="plain")


def public_cases(shared_data: Path) -> dict[str, list[dict]]:
    lines = (shared_data / "public_cases.jsonl").read_text(encoding="utf-8").splitlines()
    cases = {case["id"]: case["input"] for case in map(json.loads, lines)}
    return {
        name: rows if isinstance(rows, list) else [rows]
        for name, rows in cases.items()
        if name.startswith("B")
    }


SAID = {
    "B1-harmony-tool": "The change is 8 coins.",
    "B2-harmony-think-reader": "The change is 8 coins.",
    "B3-harmony-stripped": "The change is 8 coins.",
    "B4-openthoughts-text": "Four pens cost 12 coins, so Sam gets the rest back. "
    "\\[ \\boxed{8} \\]",
    "B6-kimi-exaone-seed": "The change is 8 coins.",
    "B7-grpo-tags": "8",
    "B9-qwq-no-open": "The change is **8** coins.",
    "B10-never-closed": "",
    "B13-chinese": "四支笔共12元，所以应找零8元。 **答案：8**",
    "B15-crlf": "The change is 8.",
}


@pytest.mark.parametrize("name", SAID)
@pytest.mark.parametrize("make", [byte_level, smollm2])
def test_public_cases(shared_data: Path, name: str, make) -> None:
    for row in public_cases(shared_data)[name]:
        given = {key: row[key] for key in ("prompt", "question", "response") if key in row}
        trace = Trace.from_text(make(), **given)
        summary = texts_of(trace, "summary").removesuffix("<").removesuffix("</").strip()
        assert summary == SAID[name], row["id"]
        assert "think" not in texts_of(trace, "thinking").lower().replace("i think", "")
