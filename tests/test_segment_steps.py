"""Plain steps, and the traces that are made of them."""

from dataclasses import replace

import pytest
from segment_tokenizers import byte_level, ids

from step_saliency.segment import (
    Region,
    Segmentation,
    Step,
    StepTracker,
    segment_generation,
    segment_text,
)
from step_saliency.segment.tiling import check_tiling, steps_at
from step_saliency.trace import Trace

PROMPT = "How much is 3 and 4?\n<think>\n"
RESPONSE = "We add 3 and 4 here. That gives 7.\n</think>\nThe answer is 7."


def tracked(text: str = RESPONSE) -> StepTracker:
    tokenizer = byte_level()
    tracker = StepTracker(tokenizer, format="think")
    tracker.start(ids(tokenizer, PROMPT), question="How much is 3 and 4?")
    for token in ids(tokenizer, text):
        tracker.push(token)
    return tracker


def test_a_segmentation_is_text_tokens_and_starts() -> None:
    cut = Segmentation(
        tokens=(5, 6, 7, 8),
        pieces=("Q? ", "a", "b ", "c"),
        starts=(0, 1, 3),
        regions=(Region.QUESTION, Region.THINKING, Region.SUMMARY),
        n_prompt=1,
    )
    assert cut.steps == (
        Step(0, 1, Region.QUESTION, "Q? "),
        Step(1, 3, Region.THINKING, "ab "),
        Step(3, 4, Region.SUMMARY, "c"),
    )
    assert (cut.question, cut.response) == ("Q?", "ab c")
    again = cut.cut_anew([0, 3], [Region.TEMPLATE, Region.SUMMARY])
    assert [step.text for step in again.steps] == ["Q? ab ", "c"]
    assert (again.question, again.response) == ("", "ab c")
    assert replace(cut, n_prompt=3).response == "c"


def test_a_trace_of_a_tracker_is_what_it_saw() -> None:
    tracker = tracked()
    trace = Trace.from_tracker(tracker, id="x", meta={"seed": 1})
    assert (trace.id, dict(trace.meta)) == ("x", {"seed": 1})
    assert trace.question == "How much is 3 and 4?"
    assert trace.response == RESPONSE
    assert "".join(step.text for step in trace.steps) == PROMPT + RESPONSE
    assert trace.starts == tracker.starts
    assert trace.regions == tracker.regions
    thinking = [trace.step_text(step).strip() for step in trace.region_steps("thinking")]
    assert thinking == ["We add 3 and 4 here.", "That gives 7."]


def test_a_tracker_goes_on_after_its_trace() -> None:
    tokenizer, tracker = byte_level(), tracked("We add 3 and 4 here.")
    before = Trace.from_tracker(tracker)
    for token in ids(tokenizer, RESPONSE.removeprefix("We add 3 and 4 here.")):
        tracker.push(token)
    assert before.response == "We add 3 and 4 here."
    assert Trace.from_tracker(tracker).response.endswith("The answer is 7.")


def test_an_incomplete_character_is_seen_without_being_completed() -> None:
    tokenizer = byte_level()
    tracker = tracked("We add two: ")
    first, *rest = ids(tokenizer, "é")
    assert rest, "the vocabulary has the character as one token"
    tracker.push(first)
    assert Trace.from_tracker(tracker).response == "We add two: \ufffd"
    for token in rest:
        tracker.push(token)
    assert Trace.from_tracker(tracker).response == "We add two: é"


def test_a_tracker_without_tokens_has_no_trace() -> None:
    tracker = StepTracker(byte_level())
    assert tracker.segmentation().steps == ()
    with pytest.raises(ValueError, match="at least one token"):
        Trace.from_tracker(tracker)


def test_traces_are_segmentations_with_a_name() -> None:
    tokenizer = byte_level()
    options = {"format": "think", "chat_template": False}
    cut = segment_text(tokenizer, question="3 + 4?", response=RESPONSE, **options)
    trace = Trace.from_text(tokenizer, question="3 + 4?", response=RESPONSE, id="a", **options)
    assert tuple(trace.tokens.tolist()) == cut.tokens
    assert trace.steps == cut.steps
    assert (trace.id, trace.question) == ("a", cut.question)
    prompt, response = cut.tokens[: cut.n_prompt], cut.tokens[cut.n_prompt :]
    again = segment_generation(tokenizer, prompt, response, question="3 + 4?", format="think")
    assert again == cut


def test_steps_are_made_of_their_starts_and_tile() -> None:
    steps = steps_at([0, 2], ["question", "thinking"], None, 5)
    assert steps == (Step(0, 2, Region.QUESTION), Step(2, 5, Region.THINKING))
    check_tiling(steps, 5)
    with pytest.raises(ValueError, match="steps end at 5, but the trace has 6"):
        check_tiling(steps, 6)
