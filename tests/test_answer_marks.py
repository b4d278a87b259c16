"""Answers between `<answer>` marks behind the thinking: all of what stands there is the answer."""

import pytest
from segment_tokenizers import byte_level, smollm2

from step_saliency.segment import StepTracker
from step_saliency.tasks.answers import final_answer, is_correct
from step_saliency.tasks.graded_part import graded_part, marked_part
from step_saliency.trace import Trace

MARKED = [
    # content, gold answer, another one
    ("\\frac{3}{7}", "3/7", "7"),
    ("4y - 9", "4y-9", "9"),
    ("y^4", "y^4", "4"),
    ("5\\sqrt{2}", "5\\sqrt{2}", "2"),
    ("(52 - 17) + 6", "41", "6"),
    ("(5, 8)", "(5,8)", "8"),
    ("{4, 9}", "4,9", "9"),
    ("$18", "18", "8"),
    ("40%", "40%", "4"),
    ("$y$", "y", "x"),
    ("\\begin{pmatrix}\n4\\\\9\n\\end{pmatrix}", "\\begin{pmatrix}4\\\\9\\end{pmatrix}", "9"),
    ("B", "B", "C"),
    ("Nadia", "Nadia", "Quin"),
    ("There are 31 stamps left.", "31", "30"),
    ("The answer is 31.", "31", "30"),
    ("6 + 25 = 31 stamps.\n\nSo it takes 2 steps. The answer is 31.", "31", "2"),
]


@pytest.mark.parametrize(("content", "gold", "other"), MARKED)
@pytest.mark.parametrize("opening", ["<think>\nw\n</think>\n", "<reasoning>w</reasoning>\n", "w\n"])
def test_what_stands_between_the_marks(opening: str, content: str, gold: str, other: str) -> None:
    response = f"{opening}<answer>{content}</answer>"
    for text in (response, f"{response}\n\nNote: it took 12 steps."):
        assert is_correct(text, gold) is True
        assert is_correct(text, other) is False


@pytest.mark.parametrize("content", ["(5, 8)", "\\frac{3}{7}", "$18$", "40%", "7", "7 "])
@pytest.mark.parametrize("make", [byte_level, smollm2])
def test_of_a_trace_too(make, content: str) -> None:
    response = f"<think>\nSo it is 2.\n</think>\n<answer>{content}</answer>\n\nIt took 12 steps."
    trace = Trace.from_text(make(), question="How many?", response=response)
    assert is_correct(trace, content) is True
    assert is_correct(trace, "12") is False
    assert final_answer(trace) == content.strip()


@pytest.mark.parametrize("content", ["(5, 8)", "\\frac{3}{7}", "$18$", "40%", "x|"])
def test_the_closing_mark_is_template_as_a_whole(content: str) -> None:
    response = f"<think>So.</think>\n<answer>{content}</answer>\n\nIt took 12 steps."
    tokenizer = byte_level()
    trace = Trace.from_text(tokenizer, prompt="Q?\n", response=response, format="think")
    regions = [(str(step.region), step.text.strip()) for step in trace.steps]
    assert ("summary", content) in regions
    assert ("template", "</answer>") in regions
    tracker = StepTracker(tokenizer, format="think")
    n_prompt = trace.starts[1]
    tracker.start(trace.tokens[:n_prompt].tolist())
    for token in trace.tokens[n_prompt:].tolist():
        tracker.push(token)
    assert tracker.starts == [step.start for step in trace.steps]


def test_marks_are_kept_for_reading_only() -> None:
    response = "<think>w</think>\n<answer>YES</answer>"
    assert graded_part(response) == "YES"
    assert marked_part(response).strip() == "<answer>YES</answer>"
    assert is_correct(response, "yes", grade=lambda part, gold: part.lower() == gold) is True


@pytest.mark.parametrize(
    ("response", "gold", "expected"),
    [
        ("<think><answer>7</answer></think>The answer is 8.", "8", True),
        ("<think><answer>7</answer></think>The answer is 8.", "7", False),
        ("<think>w</think><answer>7</answer>\nNo: <answer>8</answer>", "8", True),
        ("<think>w</think><answer>So \\boxed{8}</answer>", "8", True),
        ("<think>w</think><answer>31 stamps", "31", True),
        ("<think>w</think><answer></answer>", "31", None),
        ("<think>w</think><answer>(1,234)</answer>", "1234", None),
    ],
)
def test_which_marks_count(response: str, gold: str, expected: bool | None) -> None:
    assert is_correct(response, gold) is expected


@pytest.mark.parametrize(
    ("response", "part", "answer"),
    [
        ("<think>w</think>\n<answer> 42 </answer>", "42", "42"),
        ("<think>w</think>\n<answer>42\t</answer>", "42", "42"),
        ("<think>w</think> <answer> x < 3 </answer>", "x < 3", "x < 3"),
        ("<think>w</think>\n<response>42 </response>", "42", "42"),
        ("<reasoning>w</reasoning>\n<answer>a cat, </answer>", "a cat,", "a cat"),
        ("w\n<answer>YES </answer>", "YES", "YES"),
        ("<think>w</think>\nSo <answer>the cat </answer>", "So the cat", "the cat"),
    ],
)
def test_nothing_is_left_of_a_mark_behind_a_space(response: str, part: str, answer: str) -> None:
    """Its first character lies in one token with the space, or is known as a mark too late."""
    traces = [
        Trace.from_text(make(), prompt="Q?\n", response=response) for make in (byte_level, smollm2)
    ]
    for graded in (response, *traces):
        assert graded_part(graded).strip() == part
        assert final_answer(graded) == answer
        assert is_correct(graded, part, grade=lambda text, gold: text.strip() == gold) is True


@pytest.mark.parametrize(
    ("summary", "said"),
    [
        ("So 3 boxes of 4 are 12", None),
        ("So 3 boxes of 4 are \\boxed{12}", "12"),
        ("The answer is 12", "12"),
        ("#### 12", "12"),
        ("", None),
    ],
)
def test_what_was_cut_off_has_the_answer_that_it_sets_apart(summary: str, said: str | None) -> None:
    response = f"<think>\nFour and four and four.\n</think>\n{summary}"
    whole, cut = (
        Trace.from_text(
            byte_level(), question="How many?", response=response, chat_template=False, meta=meta
        )
        for meta in ({"finished": True}, {"finished": False})
    )
    assert final_answer(cut) == said
    assert is_correct(cut, "12") is (True if said else None)
    assert is_correct(whole, "12") is (True if summary else None)
