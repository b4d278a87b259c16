"""Text, messages and generated tokens to traces: prompts, formats, bad input."""

import copy

import pytest
import torch
from segment_tokenizers import MARKS, Slow, byte_level, ids, metaspace, smollm2, word_piece
from tokenizers import normalizers
from tokenizers.processors import TemplateProcessing

from step_saliency.segment import StepTracker
from step_saliency.segment.build import prompt_tokens
from step_saliency.trace import Region, Trace

QUESTION = "What is three plus four?"
THOUGHTS = "We add three and four. That makes seven in total."
SUMMARY = "The sum of both is seven."


def regions_and_texts(trace: Trace) -> list[tuple[str, str]]:
    return [(str(step.region), step.text.strip()) for step in trace.steps]


def spoken(trace: Trace) -> list[tuple[str, str]]:
    return [(region, text) for region, text in regions_and_texts(trace) if region != "template"]


EXPECTED = [
    ("question", QUESTION),
    ("thinking", "We add three and four."),
    ("thinking", "That makes seven in total."),
    ("summary", SUMMARY),
]


@pytest.mark.parametrize("opening", ["", "<think>\n", "<think>", "\n<think>\n"])
def test_think_with_and_without_the_opening_mark(opening: str):
    response = f"{opening}{THOUGHTS}\n</think>\n\n{SUMMARY}<eos>"
    trace = Trace.from_text(byte_level(), question=QUESTION, response=response)
    assert spoken(trace) == EXPECTED
    assert "".join(step.text for step in trace.steps).count("<think>") == 1
    assert trace.steps[-1].region == "template"
    assert trace.response == response


@pytest.mark.parametrize("opening", ["", "<think>\n"])
def test_think_where_the_prompt_has_no_mark(opening: str):
    response = f"{opening}{THOUGHTS}\n</think>\n\n{SUMMARY}"
    trace = Trace.from_text(smollm2(), question=QUESTION, response=response)
    assert spoken(trace) == EXPECTED
    marks = [text for region, text in regions_and_texts(trace) if region == "template"]
    assert "</think>" in marks


def test_a_mark_inside_a_line_ends_the_thinking():
    trace = Trace.from_text(smollm2(), question=QUESTION, response=f"{THOUGHTS}</think>{SUMMARY}")
    assert spoken(trace)[-1] == ("summary", SUMMARY)


def test_an_empty_thinking_of_the_prompt_leaves_a_summary():
    prompt = f"<|start|>user {QUESTION}<|start|>assistant<think>\n\n</think>\n\n"
    trace = Trace.from_text(byte_level(), prompt=prompt, question=QUESTION, response=SUMMARY)
    assert spoken(trace) == [("question", QUESTION), ("summary", SUMMARY)]


@pytest.mark.parametrize("make", [byte_level, smollm2])
def test_harmony_channels(make):
    response = (
        f"<|channel|>analysis<|message|>{THOUGHTS}\n<|end|>"
        "<|start|>assistant<|channel|>commentary to=functions.add<|message|>Now call a tool.\n"
        f"<|call|><|start|>assistant<|channel|>final<|message|>{SUMMARY}\n<|return|>"
    )
    template = "<|start|>user<|message|>{{ messages[0].content }}\n<|end|><|start|>assistant"
    trace = Trace.from_text(
        make(), question=QUESTION, response=response, chat_template=template, format="auto"
    )
    assert spoken(trace) == [*EXPECTED[:3], ("thinking", "Now call a tool."), EXPECTED[3]]
    assert "".join(step.text for step in trace.steps).endswith(response)
    if make is byte_level:
        special = {byte_level().convert_tokens_to_ids(mark) for mark in MARKS}
        held = trace.step_ids[torch.isin(trace.tokens, torch.tensor(sorted(special)))]
        assert {trace.steps[int(i)].region for i in held} == {Region.TEMPLATE}


@pytest.mark.parametrize(
    ("end", "summary"),
    [
        ("So, the answer is 7.", ["So, the answer is 7."]),
        ("Therefore, the final answer is: 7.", ["Therefore, the final answer is: 7."]),
        ("Thus we get $\\boxed{7}$ in total.", ["Thus we get $\\boxed{7}$ in total."]),
        ("\n\nFinal answer: 7", ["Final answer: 7"]),
        ("\n#### 7", ["#### 7"]),
        ("\n\n**Answer**\n7", ["**Answer**\n7"]),
        (
            "\n\n**Final Answer**\n\n\\[\n\\boxed{7}\n\\]",
            ["**Final Answer**", "\\[\n\\boxed{7}\n\\]"],
        ),
        ("因此，答案是七。", ["因此，答案是七。"]),
        ("The answer is 7. It is a prime number.", ["The answer is 7.", "It is a prime number."]),
        (
            "The answer is 8. Wait, that is wrong. We add again. The answer is 7.",
            ["The answer is 8.", "The answer is 7."],
        ),
        ("The final answer depends on what we add.", []),
        ("We do not know what the answer is yet.", []),
        ("#### Step two\nWe go on.", []),
        ("And then we", []),
    ],
)
@pytest.mark.parametrize("make", [byte_level, smollm2])
def test_plain_answers_open_the_summary(make, end: str, summary: list[str]):
    response = "We add three and four. " + end
    trace = Trace.from_text(
        make(), question=QUESTION, response=response, format="plain", chat_template=False
    )
    assert [text for region, text in spoken(trace) if region == "summary"] == summary
    assert spoken(trace)[1] == ("thinking", "We add three and four.")


@pytest.mark.parametrize("format_name", ["think", "plain", "auto"])
def test_a_trace_cut_short_is_all_thinking(format_name: str):
    trace = Trace.from_text(
        byte_level(), question=QUESTION, response=THOUGHTS + " And then", format=format_name
    )
    assert {step.region for step in trace.steps} == {"template", "question", "thinking"}


def test_the_chat_template_is_used_once_and_without_a_second_bos():
    tokenizer = byte_level()
    trace = Trace.from_text(tokenizer, question=QUESTION, response=SUMMARY, system="Be brief.")
    expected = "<bos>Be brief.<|start|>user What is three plus four?<|start|>assistant<think>\n"
    assert trace.tokens.tolist() == ids(tokenizer, expected) + ids(tokenizer, SUMMARY)
    assert trace.tokens.tolist().count(tokenizer.bos_token_id) == 1
    assert regions_and_texts(trace)[0] == ("template", "<bos>Be brief.<|start|>user")
    assert trace.question == QUESTION


@pytest.mark.parametrize("prompt", ["<bos>Q: 3 + 4? A: ", "Q: 3 + 4? A: "])
def test_bos_is_added_to_a_prompt_that_lacks_it_only(prompt: str):
    # a tokenizer that frames what it reads: [CLS] ... [SEP]; a copy, since others share it
    tokenizer = copy.deepcopy(word_piece())
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    trace = Trace.from_text(tokenizer, prompt=prompt.replace("<bos>", "[CLS]"), response=SUMMARY)
    tokens = trace.tokens.tolist()
    assert (tokens[0], tokens.count(1), tokens.count(2)) == (1, 1, 0)
    assert trace.steps[0].region == "template"
    assert len(trace.steps[0]) == 1


@pytest.mark.parametrize("adds_end", [False, True])
@pytest.mark.parametrize("written", ["", "<bos>"])
@pytest.mark.parametrize("first", ["", "<|start|>", "<eos>"])
def test_bos_stands_before_another_special_token(first: str, written: str, adds_end: bool):
    """As of Gemma: the tokenizer adds BOS, the prompt begins with the mark of a turn."""
    tokenizer = copy.deepcopy(byte_level())
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"<bos> $A{' <eos>' * adds_end}",
        special_tokens=[("<bos>", tokenizer.bos_token_id), ("<eos>", tokenizer.eos_token_id)],
    )
    prompt = f"{first}user\nThree and four?"
    trace = Trace.from_text(tokenizer, prompt=written + prompt, response=SUMMARY)
    assert trace.tokens.tolist() == ids(tokenizer, f"<bos>{prompt}") + ids(tokenizer, SUMMARY)


def test_without_a_template_the_question_is_a_line():
    question = "What is three and four"
    trace = Trace.from_text(metaspace(), question=question, response=SUMMARY)
    assert regions_and_texts(trace)[0] == ("question", question)
    assert trace.tokens.tolist()[: trace.starts[1]] == ids(metaspace(), question + "\n")


def test_a_prompt_without_a_question_is_the_question():
    prompt = "<bos>Solve this: 3 + 4\n<think>\n"
    trace = Trace.from_text(byte_level(), prompt=prompt, response=THOUGHTS)
    assert regions_and_texts(trace)[:3] == [
        ("template", "<bos>"),
        ("question", "Solve this: 3 + 4"),
        ("template", "<think>"),
    ]
    assert trace.question == "Solve this: 3 + 4"


def test_each_turn_of_a_conversation_is_a_step():
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "is"},
        {"role": "assistant", "content": "<think>Hm.</think> Yes, it is. It really is so."},
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": f"{THOUGHTS}\n</think>\n{SUMMARY}"},
    ]
    trace = Trace.from_messages(byte_level(), messages)
    assert spoken(trace) == [
        ("question", "is"),
        ("question", "Yes, it is. It really is so."),
        *EXPECTED,
    ]
    assert trace.question == QUESTION
    assert regions_and_texts(trace)[0] == ("template", "<bos>Be brief.<|start|>user")


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "thinking"])
def test_thinking_in_a_field_of_its_own_is_read(field: str):
    asked = {"role": "user", "content": QUESTION}
    said = {"role": "assistant", "content": SUMMARY}
    marked = f"<think>\n{THOUGHTS}\n</think>\n\n{SUMMARY}"
    trace = Trace.from_messages(byte_level(), [asked, {**said, field: THOUGHTS}])
    assert spoken(trace) == EXPECTED
    assert trace.response == marked
    twice = {"role": "assistant", "content": marked, field: THOUGHTS}
    assert Trace.from_messages(byte_level(), [asked, twice]).response == marked
    assert Trace.from_messages(byte_level(), [asked, {**said, field: ""}]).response == SUMMARY


def test_generated_tokens_stay_what_they_are():
    tokenizer = byte_level()
    before = prompt_tokens(tokenizer, QUESTION)
    canonical = ids(tokenizer, f"{THOUGHTS}\n</think>\n{SUMMARY}")
    letters = [token for char in THOUGHTS for token in ids(tokenizer, char)]
    after = letters + canonical[len(ids(tokenizer, THOUGHTS)) :] + [tokenizer.eos_token_id]
    trace = Trace.from_generation(
        tokenizer, torch.tensor([before]), torch.tensor(after), question=QUESTION
    )
    assert trace.tokens.tolist() == before + after
    assert spoken(trace) == EXPECTED
    assert ids(tokenizer, trace.response) != after


def test_a_function_of_the_user_cuts_each_region():
    halves = lambda text: [len(text) // 2]  # noqa: E731
    trace = Trace.from_text(
        byte_level(),
        question=QUESTION,
        response="aaaa bbbb\n</think>\ncccc dddd",
        splitter=halves,
    )
    assert spoken(trace)[1:] == [
        ("thinking", "aaaa"),
        ("thinking", "bbbb"),
        ("summary", "cccc"),
        ("summary", "dddd"),
    ]


def test_a_tracker_tells_the_region_as_soon_as_it_can():
    tokenizer = byte_level()
    tracker = StepTracker(tokenizer, format="plain")
    text = "We add three and four. The answer is 7."
    events = [tracker.push(token) for token in ids(tokenizer, text)]
    begun = [event for event in events if event.starts_step]
    assert [(e.step, e.region) for e in begun] == [(0, "thinking"), (1, "thinking")]
    assert events[-1].region == "summary"
    assert tracker.regions == ["thinking", "summary"]


def test_copies_of_a_tracker_go_separate_ways():
    tokenizer = byte_level()
    tracker = StepTracker(tokenizer, format="think")
    tracker.start(prompt_tokens(tokenizer, QUESTION), question=QUESTION)
    for token in ids(tokenizer, "We add three and four"):
        tracker.push(token)
    copy = tracker.copy()
    for token in ids(tokenizer, ". That makes seven."):
        copy.push(token)
    for token in ids(tokenizer, "\n</think>\nSeven it is."):
        tracker.push(token)
    assert spoken(Trace.from_tracker(copy))[1:] == [
        ("thinking", "We add three and four."),
        ("thinking", "That makes seven."),
    ]
    assert spoken(Trace.from_tracker(tracker))[1:] == [
        ("thinking", "We add three and four"),
        ("summary", "Seven it is."),
    ]


def test_start_forgets_the_sequence_before():
    tokenizer = byte_level()
    tracker = StepTracker(tokenizer, format="think")
    once = [tracker.push(token) for token in ids(tokenizer, f"{THOUGHTS}</think>{SUMMARY}")]
    tracker.start()
    assert once == [tracker.push(token) for token in ids(tokenizer, f"{THOUGHTS}</think>{SUMMARY}")]


@pytest.mark.parametrize("response", ["", "  \n", "\t"])
def test_an_empty_response_is_refused(response: str):
    with pytest.raises(ValueError, match="response is empty"):
        Trace.from_text(byte_level(), question=QUESTION, response=response)


def test_generated_tokens_are_a_response_however_blank():
    """A model can write blanks and stop; only no token at all is no response."""
    trace = Trace.from_generation(byte_level(), [5], ids(byte_level(), " \n"))
    assert trace.tokens.tolist() == [5, *ids(byte_level(), " \n")]
    with pytest.raises(ValueError, match="response is empty"):
        Trace.from_generation(byte_level(), [5], [])


@pytest.mark.parametrize(
    ("form", "sign"), [("NFC", "\u2126"), ("NFC", "e\u0301"), ("NFKC", "\ufb01")]
)
def test_a_question_is_found_where_the_tokenizer_writes_a_normal_form(form: str, sign: str):
    """Tokenizers of Qwen spell NFC: the sign of Ohm becomes an Omega."""
    tokenizer = copy.deepcopy(byte_level())
    tokenizer.backend_tokenizer.normalizer = getattr(normalizers, form)()
    question = f"R is 5 {sign}. How much is it?"
    tracker = StepTracker(tokenizer)
    tokens = prompt_tokens(tokenizer, question)
    tracker.start(tokens, question=question)
    assert Region.QUESTION in tracker.regions
    with pytest.raises(ValueError, match="does not stand in the prompt"):
        tracker.start(tokens, question=f"R is 6 {sign}. How much is it?")


@pytest.mark.parametrize("question", ["hi", "a", "sis"])
def test_a_short_question_is_not_part_of_a_mark(question: str):
    tokenizer = byte_level()
    opening = ids(tokenizer, "user:\n")
    prompt = [*opening, *ids(tokenizer, question), *ids(tokenizer, "\nassistant:\n<think>\n")]
    tracker = StepTracker(tokenizer)
    tracker.start(prompt, question=question)
    assert tracker.regions[:2] == [Region.TEMPLATE, Region.QUESTION]
    assert tracker.starts[1] == len(opening)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"format": "xml"},
            "unknown format 'xml'; take one of 'auto', 'think'",
        ),
        ({"splitter": "word"}, "unknown splitter 'word'"),
        ({"question": " "}, "give a question"),
        ({"prompt": "Another question"}, "does not stand in the prompt"),
        ({"prompt": QUESTION, "system": "Be brief."}, "system prompt inside prompt"),
        ({"prompt": QUESTION, "chat_template": True}, "chat_template=True with prompt"),
        ({"prompt": QUESTION, "chat_template": "{{ 1 }}"}, "the prompt is taken as it is"),
        ({"chat_template": "{{ messages[0].content | upper }}"}, "does not write message 0"),
        (
            {"chat_template": "{{ raise_exception('roles must alternate') }}"},
            r"does not take these messages \(user\): roles must alternate. Set another",
        ),
        ({"chat_template": "{% if %}"}, "does not take these messages"),
    ],
)
def test_bad_options_are_refused(options: dict, message: str):
    given = {"question": QUESTION, "response": SUMMARY, **options}
    with pytest.raises(ValueError, match=message):
        Trace.from_text(byte_level(), **given)


def test_a_template_asked_for_must_be_there():
    with pytest.raises(ValueError, match="has no chat template"):
        Trace.from_text(metaspace(), question=QUESTION, response=SUMMARY, chat_template=True)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([{"role": "assistant", "content": "a"}], "got 1 messages"),
        ([{"role": "user", "content": "a"}, {"role": "user", "content": "b"}], "got role 'user'"),
        ([{"role": "user"}, {"role": "assistant", "content": "b"}], "message 0 needs"),
    ],
)
def test_bad_messages_are_refused(messages: list[dict], message: str):
    with pytest.raises(ValueError, match=message):
        Trace.from_messages(byte_level(), messages)


def test_no_offsets_are_needed_where_tokens_spell_the_text():
    trace = Trace.from_text(Slow(byte_level()), question="naïve 😀?", response=THOUGHTS)
    assert spoken(trace) == [("question", "naïve 😀?"), *EXPECTED[1:3]]


def test_a_tokenizer_without_offsets_that_loses_text_is_refused():
    question = "WHAT is\n\nthree plus four"
    fast = Trace.from_text(word_piece(), question=question, response=THOUGHTS)
    assert len(fast.region_steps("question")) == 1
    with pytest.raises(ValueError, match="gives no character offsets"):
        Trace.from_text(Slow(word_piece()), question=question, response=THOUGHTS)


def test_what_is_no_tokenizer_is_refused():
    with pytest.raises(ValueError, match=r"has no decode\(\)"):
        StepTracker(object())


def test_a_tracker_takes_no_function_of_the_whole_text():
    with pytest.raises(ValueError, match="function of the whole text"):
        StepTracker(byte_level(), splitter=lambda text: [0])
