"""Tokens to steps: online equals offline for tokenizers of several kinds, and by definition."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from nights import examples
from segment_texts import marked_texts, texts
from segment_tokenizers import (
    byte_level,
    ids,
    metaspace,
    smollm2,
    unchecked_calls,
    word_piece,
)

from step_saliency.options import FORMATS
from step_saliency.segment import StepTracker, TokenPieces, split_text
from step_saliency.segment.harmony import begins_with_header
from step_saliency.trace import Region, Trace

splitters = st.sampled_from(["sentence", "paragraph", "line", "code"])
formats = st.sampled_from([name for name in FORMATS if name != "auto"])


@pytest.fixture(autouse=True, scope="module")
def _fast():
    with unchecked_calls():
        yield


def completed_chars(tokenizer, tokens: list[int]) -> list[int]:
    """Characters that each prefix of the tokens spells, by decoding every prefix anew."""
    return [
        len(tokenizer.decode(tokens[:n], clean_up_tokenization_spaces=False).rstrip("\ufffd"))
        for n in range(len(tokens) + 1)
    ]


def steps_by_definition(text: str, char_starts: list[int], ends: list[int]) -> list[int]:
    """Token starts by the documented rule, from the character starts of the offline splitter."""
    owners, owner = [], 0
    for begin, end in pairwise(ends):
        solid = [i for i in range(begin, end) if not text[i].isspace()]
        if solid:
            owner = sum(start <= solid[0] for start in char_starts) - 1
        else:
            owner = max(owner, sum(start < begin for start in char_starts) - 1)
        owners.append(owner)
    return [0, *(i for i in range(1, len(owners)) if owners[i] != owners[i - 1])]


def track(tokenizer, tokens: list[int], **options) -> tuple[list[int], StepTracker]:
    tracker = StepTracker(tokenizer, **options)
    events = [tracker.push(token) for token in tokens]
    assert [event.position for event in events] == list(range(len(tokens)))
    return [event.position for event in events if event.starts_step], tracker


def check_tokens(tokenizer, text: str, splitter: str, part: float, form: str = "plain") -> None:
    """Tracker, tracker of a prefix and offline cut agree on the tokens of a text."""
    tokens = ids(tokenizer, text)
    assume(tokens and text.strip())
    starts, tracker = track(tokenizer, tokens, format=form, splitter=splitter)
    trace = Trace.from_tracker(tracker)
    assert trace.starts == starts
    assert trace.tokens.tolist() == tokens
    pieces = TokenPieces(tokenizer).pieces(tokens)
    assert [step.text for step in trace.steps] == [
        "".join(pieces[step.start : step.stop]) for step in trace.steps
    ]
    cut = int(part * len(tokens))
    before, _ = track(tokenizer, tokens[:cut], format=form, splitter=splitter)
    assert before == [start for start in starts if start < cut]
    if not trace.response.strip():
        return
    offline = Trace.from_generation(tokenizer, [], tokens, format=form, splitter=splitter)
    assert offline.starts == starts
    assert offline.regions == tracker.regions


@settings(max_examples=examples(1200), deadline=None)
@given(texts, splitters, st.floats(0, 1))
def test_online_equals_offline_on_smollm2(text, splitter, part):
    check_tokens(smollm2(), text, splitter, part)


@settings(max_examples=examples(1800), deadline=None)
@given(texts, splitters, st.floats(0, 1))
def test_online_equals_offline_on_bytes(text, splitter, part):
    check_tokens(byte_level(), text, splitter, part)


@settings(max_examples=examples(1000), deadline=None)
@given(texts, st.floats(0, 1))
def test_online_equals_offline_on_metaspace(text, part):
    check_tokens(metaspace(), text, "sentence", part)


@settings(max_examples=examples(500), deadline=None)
@given(texts, st.floats(0, 1))
def test_online_equals_offline_where_text_is_lost(text, part):
    check_tokens(word_piece(), text, "sentence", part)


@settings(max_examples=examples(600), deadline=None)
@given(marked_texts, splitters, st.floats(0, 1), formats, st.sampled_from([byte_level, smollm2]))
def test_online_equals_offline_in_every_format(text, splitter, part, form, make):
    check_tokens(make(), text, splitter, part, form)


@settings(max_examples=300, deadline=None)
@given(marked_texts, splitters, st.floats(0, 1), formats)
def test_online_equals_offline_in_every_format_on_metaspace(text, splitter, part, form):
    check_tokens(metaspace(), text, splitter, part, form)


PROMPTS = ["Q?\n<think>\n", "Q?\n[THINK]", "Q?<think>\n\n</think>\n\n", "<|start|>assistant"]


@settings(max_examples=examples(500), deadline=None)
@given(marked_texts, st.sampled_from(PROMPTS), st.floats(0, 1))
def test_a_tracker_that_chooses_the_format_sees_no_later_token(text, prompt, part):
    tokenizer = byte_level()
    tokens = ids(tokenizer, text)
    before, whole, early = ids(tokenizer, prompt), StepTracker(tokenizer), StepTracker(tokenizer)
    whole.start(before)
    early.start(before)
    cut = int(part * len(tokens))
    events = [whole.push(token) for token in tokens]
    assert [early.push(token) for token in tokens[:cut]] == events[:cut]


OPENED = ["Q?\n<think>\n", "Q?\n[THINK]", "Q?\n<reasoning>\n"]


@pytest.mark.filterwarnings("ignore:the response was read as")
@settings(max_examples=examples(500), deadline=None)
@given(marked_texts, st.sampled_from(OPENED))
def test_the_chosen_format_is_the_same_with_hindsight(text, prompt):
    """Where the prompt opens the thinking; header words alone need the letter after them."""
    assume(not begins_with_header(text))
    tokenizer = byte_level()
    tokens, before = ids(tokenizer, text), ids(tokenizer, prompt)
    assume(text.strip())
    tracker = StepTracker(tokenizer)
    tracker.start(before)
    for token in tokens:
        tracker.push(token)
    offline = Trace.from_generation(tokenizer, before, tokens)
    assert offline.regions == tracker.regions
    assert offline.starts == tracker.starts


@settings(max_examples=examples(800), deadline=None)
@given(texts.filter(lambda text: "\ufffd" not in text and "<" not in text))
def test_token_starts_follow_from_character_starts(text):
    tokenizer = byte_level()
    tokens = ids(tokenizer, text)
    assume(tokens and tokenizer.decode(tokens, clean_up_tokenization_spaces=False) == text)
    starts, _ = track(tokenizer, tokens, format="think")
    first = len(text) - len(text.lstrip())
    chars = [0, *(start + first for start in split_text(text.lstrip())[1:])]
    assert starts == steps_by_definition(text, chars, completed_chars(tokenizer, tokens))


@pytest.mark.parametrize("make", [byte_level, smollm2])
def test_pieces_spell_any_text(make):
    tokenizer = make()
    text = "naïve 漢字 😀👩\u200d👩\u200d👧 e\u0301 नमस्ते \t\n x"
    pieces = TokenPieces(tokenizer).pieces(ids(tokenizer, text))
    assert "".join(pieces) == text
    assert "" in pieces


def test_pieces_of_a_metaspace_vocabulary_spell_the_text():
    text = "We add 漢字 😀\n\nto <s>even."
    pieces = TokenPieces(metaspace()).pieces(ids(metaspace(), text))
    assert "".join(pieces) == " " + text.replace("<s>", "<s> ")
    assert pieces[-1] != ""


def test_bytes_that_are_no_text_become_replacement_characters():
    tokenizer = byte_level()
    broken = ids(tokenizer, "ab 😀")[:-1]
    trace = Trace.from_generation(tokenizer, [], broken)
    assert trace.response.rstrip("\ufffd") == "ab "
    assert trace.response.endswith("\ufffd")
    assert len(trace) == len(broken)


def r1_rows(shared_data: Path) -> list[dict]:
    lines = (shared_data / "r1_traces.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_real_traces_online_equals_offline(shared_data: Path):
    tokenizer = smollm2()
    for row in r1_rows(shared_data):
        trace = Trace.from_text(
            tokenizer, prompt=row["prompt"], question=row["question"], response=row["response"]
        )
        tokens = trace.tokens.tolist()
        n_prompt = len(ids(tokenizer, row["prompt"]))
        tracker = StepTracker(tokenizer)
        tracker.start(tokens[:n_prompt], question=row["question"])
        for token in tokens[n_prompt:]:
            tracker.push(token)
        assert Trace.from_tracker(tracker).to_dict() == trace.to_dict()


def test_real_traces_keep_the_parts_of_the_text(shared_data: Path):
    tokenizer = smollm2()
    for row in r1_rows(shared_data):
        trace = Trace.from_text(
            tokenizer, prompt=row["prompt"], question=row["question"], response=row["response"]
        )
        thinking, summary = row["response"].split("</think>")
        spoken = {
            region: "".join(trace.step_text(i) for i in trace.region_steps(region)).strip()
            for region in Region
        }
        assert "".join(step.text for step in trace.steps) == row["prompt"] + row["response"]
        assert spoken[Region.THINKING] == thinking.strip()
        assert spoken[Region.SUMMARY] == summary.strip()
        assert spoken[Region.QUESTION] == row["question"].strip()
        assert len(trace.region_steps("question")) == 1


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Role words are text here, and no tokens of their own."""


def test_without_its_question_a_prompt_of_the_template_has_the_messages_as_questions():
    """All of it but special tokens before, down to the role of the assistant, which was named as
    the question of the trace and so as its problem."""
    tokenizer = byte_level()
    tokenizer.chat_template = CHATML
    turns = ["Be brief.", "How much is 3 + 4?", "7", "And plus 5?"]
    roles = ["system", "user", "assistant", "user"]
    messages = [{"role": r, "content": c} for r, c in zip(roles, turns, strict=True)]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    before = ids(tokenizer, text)
    after = ids(tokenizer, "Seven is three and four. Five more is 12.\n</think>\nIt is 12.")
    tracker = StepTracker(tokenizer)
    tracker.start(before)
    for token in after:
        tracker.push(token)
    for trace in (
        Trace.from_generation(tokenizer, before, after),
        Trace.from_text(tokenizer, prompt=text, response=tokenizer.decode(after)),
        Trace.from_tracker(tracker),
    ):
        asked = [step.text for step in trace.steps if step.region == "question"]
        assert asked == turns[1:]
        assert trace.question == turns[-1]
    whole = Trace.from_text(
        tokenizer, prompt=text, response=tokenizer.decode(after), chat_template=False
    )
    assert "assistant" in whole.question


def test_the_question_ends_where_the_assistant_begins_also_without_the_mark_of_thinking():
    tokenizer = byte_level()
    text = "<bos><|start|>user How much is 3 + 4?<|start|>assistant"
    trace = Trace.from_generation(tokenizer, ids(tokenizer, text), ids(tokenizer, "It is 7."))
    assert trace.question == "How much is 3 + 4?"
