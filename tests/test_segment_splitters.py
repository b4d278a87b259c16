r"""Splitters: what ends a step, what does not, causality, agreement with another segmentation."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nights import examples
from segment_texts import texts
from segment_tokenizers import unchecked_calls

from step_saliency.segment.splitters import (
    GapSplitter,
    SentenceSplitter,
    make_splitter,
    split_text,
)


def steps(text: str, splitter="sentence") -> list[str]:
    bounds = [*split_text(text, splitter), len(text)]
    return [text[a:b].strip() for a, b in pairwise(bounds)]


@pytest.mark.parametrize(
    "text",
    [
        "The value of pi is 3.14 and 2.5 is more than 1.5 by far.",
        "We asked Dr. Smith and Prof. Jones vs. Mr. Brown about it.",
        "Some primes, e.g. Two and i.e. Three, are small numbers.",
        "As seen in Fig. 2 and Eq. (3) the curve is flat; see No. 5 there.",
        "The author George W. Bush and Ronald J. K. Smith wrote these books.",
        "Bring pens, paper, etc. and then go home with all of them.",
        "1. Compute the first term of the sum",
        "Step 1. Compute the first term of the sum",
        "**2. Compute** the second term of the sum",
        r"The product \( n! = 5. Then \) is large and finite here",
        r"The set $\{a. B\}$ is a set of two letters and no more",
        "\\[\nx = 5. \\\\\nY = 6. Z\n\\] is what we have",
        "$$\nx = 5. Y\n$$ is what we have",
        "\\begin{align}\nx &= 5. \\\\\nY &= 6. Z\n\\end{align} is what we have",
        "```python\nx = 5. \n\n# Then. Another\n\ny = 6\n```",
        "| Name. A | Value. B |\n|---|---|\n| Foo. Bar | 3. X |",
        "It is 5! = 120 and 4! ways remain in total for us",
        "Hmm... so we go on with the same line of thought",
        "so we wrap the\nline here in lower case and it goes on",
        "We have the following list:\n- five apples",
        "Use `x. Y` in the code that comes next",
        "Hello there.nospace follows so this is one sentence",
        "At 5 p.m. we leave and at 6 a.m. we return to base",
    ],
)
def test_no_step_begins_inside(text: str):
    assert steps(text) == [text.strip()]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("We add three and four. That is seven.", ["We add three and four.", "That is seven."]),
        (
            "Is it seven? It is seven! Good for us.",
            ["Is it seven?", "It is seven!", "Good for us."],
        ),
        ('He said "it is seven." Then he left.', ['He said "it is seven."', "Then he left."]),
        ("We get x = 5.0. Then we stop.", ["We get x = 5.0.", "Then we stop."]),
        ("First paragraph\n\nsecond paragraph", ["First paragraph", "second paragraph"]),
        ("It lies on point B. Then we stop.", ["It lies on point B.", "Then we stop."]),
        ("There is no. Then we stop here.", ["There is no.", "Then we stop here."]),
        ("我们先算三加四。结果是七！很好很好", ["我们先算三加四。", "结果是七！", "很好很好"]),
        ("他说：「这是七。」然后他走了出去。", ["他说：「这是七。」", "然后他走了出去。"]),
        (
            "- five apples\n- three pears\n- two plums",
            ["- five apples", "- three pears", "- two plums"],
        ),
        (
            "1. Compute 1 + 3 = 4\n2. The next is 13\n3. So we are done",
            ["1. Compute 1 + 3 = 4", "2. The next is 13", "3. So we are done"],
        ),
        (
            "She sells 9 eggs for $2 per egg. She makes $18 a day. Good work.",
            ["She sells 9 eggs for $2 per egg.", "She makes $18 a day.", "Good work."],
        ),
        (
            "It costs $ and no more is known. The rest is unclear.",
            ["It costs $ and no more is known.", "The rest is unclear."],
        ),
        (
            "An open bracket \\( is here\nand it ends. The rest is unclear.",
            ["An open bracket \\( is here\nand it ends.", "The rest is unclear."],
        ),
        (
            "An open display \\[ is here\n\nThe rest is unclear. So we stop.",
            ["An open display \\[ is here", "The rest is unclear.", "So we stop."],
        ),
        (
            "So we get\n\\[ x = 5 \\]\nTherefore we stop",
            ["So we get\n\\[ x = 5 \\]", "Therefore we stop"],
        ),
        (
            "Code first:\n```\na. B\n\nc. D\n```\nThen we go on. And stop here.",
            ["Code first:\n```\na. B\n\nc. D\n```", "Then we go on.", "And stop here."],
        ),
        (
            "| a | b |\n| c | d |\nThat was the table.",
            ["| a | b |\n| c | d |", "That was the table."],
        ),
        ("The number is 2014! Then we divide.", ["The number is 2014!", "Then we divide."]),
    ],
)
def test_a_step_begins_where_a_sentence_does(text: str, expected: list[str]):
    assert steps(text) == expected


def test_short_fragments_join_the_next_step():
    assert steps("Yes. No. So the sum is seven. Ok.") == ["Yes. No. So the sum is seven.", "Ok."]
    assert steps("7\n\n8\n\nA longer paragraph", "paragraph") == ["7\n\n8\n\nA longer paragraph"]
    pieces = SentenceSplitter(min_chars=1)
    assert steps("Yes. No. Ok.", pieces) == ["Yes.", "No.", "Ok."]


def test_a_fence_that_never_closes_yields_at_last():
    text = "```\n" + "a line of text here\n\n" * 400
    assert len(split_text(text)) > 10


def test_a_display_that_never_closes_ends_with_its_paragraph():
    text = "We have \\[ x = 3 here.\n\n" + "This is a sentence. " * 20
    assert len(split_text(text)) == 21


def test_paragraphs_and_lines():
    text = "First line here\nsecond line here\n\nThird line here"
    assert steps(text, "paragraph") == ["First line here\nsecond line here", "Third line here"]
    assert steps(text, "line") == ["First line here", "second line here", "Third line here"]
    fenced = "Look at this:\n```\nx = 1 + 2 + 3\n\ny = 4 + 5 + 6\n```\nand go on"
    assert steps(fenced, "line")[0:2] == [
        "Look at this:",
        "```\nx = 1 + 2 + 3\n\ny = 4 + 5 + 6\n```",
    ]


def test_a_function_of_the_user_cuts_too():
    text = "aaa|bbb|ccc"
    assert split_text(text, lambda t: [i + 1 for i, c in enumerate(t) if c == "|"]) == [0, 4, 8]
    assert split_text(text, lambda _: [(0, 4), (4, 11)]) == [0, 4]
    for wrong in ([4, 2], [4, 4], [11], [-1]):
        with pytest.raises(ValueError, match="starts must strictly increase"):
            split_text(text, lambda _, wrong=wrong: wrong)


@pytest.mark.parametrize("wrong", [None, 3, [None], [0.5], ["a"], "ab", [True], [()], [(0.0, 4)]])
def test_what_a_function_returns_must_be_starts(wrong):
    with pytest.raises(ValueError, match=r"the splitter returned .*as whole numbers"):
        split_text("aaa|bbb", lambda _: wrong)


def test_starts_of_numpy_and_torch():
    for starts in (np.array([0, 4]), torch.tensor([4]), [np.int64(4)], [(torch.tensor(4), 7)]):
        assert split_text("aaa|bbb", lambda _, starts=starts: starts) == [0, 4]


def test_an_unknown_splitter_is_named():
    with pytest.raises(ValueError, match="unknown splitter 'word'; take 'sentence'"):
        make_splitter("word")
    with pytest.raises(ValueError, match="unknown splitter 3"):
        make_splitter(3)


def test_an_empty_text_has_no_steps():
    assert split_text("") == []


@settings(max_examples=examples(5000), deadline=None)
@given(texts, st.sampled_from(["sentence", "paragraph", "line"]), st.floats(0, 1))
def test_steps_tile_any_text_and_depend_on_no_later_character(text, splitter, part):
    with unchecked_calls():
        starts = split_text(text, splitter)
    assert starts[:1] == ([0] if text else [])
    assert all(a < b for a, b in zip(starts, [*starts[1:], len(text)], strict=False))
    assert not any(text[start].isspace() for start in starts[1:])
    prefix = text[: int(part * len(text))]
    with unchecked_calls():
        early = split_text(prefix, splitter)
    assert early == [start for start in starts if start < len(prefix)]


@settings(max_examples=examples(500), deadline=None)
@given(texts, st.sampled_from([SentenceSplitter, lambda m: GapSplitter(1, m)]), st.integers(1, 30))
def test_no_step_but_the_last_is_shorter_than_asked(text, make, min_chars):
    with unchecked_calls():
        bounds = [*split_text(text, make(min_chars)), len(text)]
    for start, stop in list(pairwise(bounds))[:-1]:
        wide = sum(2 if char >= "\u2e80" else 1 for char in text[start:stop].strip())
        assert wide >= min_chars


def ends_of(parts: list[str], text: str) -> list[int]:
    """Number of characters other than white space before the end of each part."""
    solid = "".join(text.split())
    ends, cursor = [], 0
    for part in parts:
        solid_part = "".join(part.split())
        at = solid.find(solid_part, cursor)
        assert at >= 0, part
        cursor = at + len(solid_part)
        ends.append(cursor)
    return ends


def n_matches(ours: list[int], theirs: list[int], tolerance: int = 2) -> int:
    """Largest number of pairs within the tolerance, each end used once (both lists sorted)."""
    matched = i = j = 0
    while i < len(ours) and j < len(theirs):
        if abs(ours[i] - theirs[j]) <= tolerance:
            matched, i, j = matched + 1, i + 1, j + 1
        elif ours[i] < theirs[j]:
            i += 1
        else:
            j += 1
    return matched


def test_sentence_ends_agree_with_an_independent_segmentation(shared_data: Path):
    lines = (shared_data / "r1_traces.jsonl").read_text(encoding="utf-8").splitlines()
    matched = n_ours = n_theirs = 0
    for row in map(json.loads, lines):
        thinking = row["response"].partition("</think>")[0]
        with unchecked_calls():
            ours = ends_of(steps(thinking), thinking)
        theirs = ends_of([sentence["text"] for sentence in row["sentences"]], thinking)
        matched += n_matches(ours, theirs)
        n_ours += len(ours)
        n_theirs += len(theirs)
    assert len(lines) == 24
    precision, recall = matched / n_ours, matched / n_theirs
    assert 2 * precision * recall / (precision + recall) >= 0.94
