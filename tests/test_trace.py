"""Trace: steps tile the tokens, bad cuts are refused, what is written is read back."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from segment_tokenizers import unchecked_calls

from step_saliency.storage.traces import load_jsonl, save_jsonl
from step_saliency.trace import Region, Step, Trace

THREE = ["question", "thinking", "summary"]


def example(**options) -> Trace:
    return Trace.from_tokens(
        list(range(100, 120)),
        starts=[0, 7, 15],
        regions=THREE,
        texts=["What is <2+2>?", "Two and two.", "4 & done"],
        **options,
    )


def test_from_tokens_cuts_where_told():
    trace = example()
    assert [(s.start, s.stop) for s in trace.steps] == [(0, 7), (7, 15), (15, 20)]
    assert trace.regions == [Region.QUESTION, Region.THINKING, Region.SUMMARY]
    assert trace.starts == [0, 7, 15]
    assert (len(trace), trace.n_steps) == (20, 3)
    assert trace.step_ids.tolist() == [0] * 7 + [1] * 8 + [2] * 5
    assert trace.tokens.tolist() == list(range(100, 120))
    assert trace.step_text(-1) == "4 & done"


@pytest.mark.parametrize(
    "tokens",
    [[5, 6, 7], [[5, 6, 7]], torch.tensor([5, 6, 7]), torch.tensor([[5, 6, 7]], dtype=torch.int32)],
)
def test_tokens_of_one_row_come_in_many_forms(tokens):
    trace = Trace.from_tokens(tokens, starts=[0, 2], regions=["question", "summary"])
    assert trace.tokens.tolist() == [5, 6, 7]
    assert trace.tokens.dtype == torch.long


def test_the_tokens_of_a_trace_are_its_own():
    tokens = torch.tensor([1, 2, 3])
    trace = Trace.from_tokens(tokens, starts=[0], regions=["question"])
    tokens[0] = 9
    assert trace.tokens[0] == 1


@pytest.mark.parametrize(
    ("tokens", "starts", "regions", "message"),
    [
        ([], [0], ["question"], "at least one token"),
        ([1, 2, 3], [], [], "starts is empty"),
        ([1, 2, 3], [1], ["question"], "must start at 0, got 1"),
        ([1, 2, 3], [0, 2, 1], THREE, "got 1 after 2"),
        ([1, 2, 3], [0, 1, 1], THREE, "got 1 after 1"),
        ([1, 2, 3], [0, 3], ["question", "summary"], "start 3 is out of range for 3 tokens"),
        ([1, 2, 3], [0, 1], ["question", "sumary"], "unknown region 'sumary'"),
        ([1, 2, 3], [0, 1], ["question"], "2 starts, 1 regions"),
        ([[1, 2], [3, 4]], [0], ["question"], r"\[2, 2\]"),
    ],
)
def test_bad_cuts_are_refused(tokens, starts, regions, message):
    with pytest.raises(ValueError, match=message):
        Trace.from_tokens(tokens, starts=starts, regions=regions)


def test_texts_are_one_for_each_step():
    with pytest.raises(ValueError, match="1 texts"):
        Trace.from_tokens([1, 2], starts=[0, 1], regions=["question", "summary"], texts=["a"])


def test_tokens_that_are_no_integers_are_refused():
    with pytest.raises((ValueError, TypeError), match=r"integers|Int\["):
        Trace(tokens=torch.tensor([0.5, 1.0]), steps=(Step(0, 2, Region.QUESTION),))


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ([(0, 2), (3, 5)], "leaves a gap"),
        ([(0, 3), (2, 5)], "overlaps"),
        ([(0, 2), (2, 2), (2, 5)], "empty"),
        ([(0, 2), (2, 4)], "steps end at 4, but the trace has 5"),
        ([(0, 2), (2, 6)], "steps end at 6, but the trace has 5"),
        ([], "steps end at 0"),
    ],
)
def test_steps_must_tile_the_tokens(spans, message):
    steps = tuple(Step(a, b, Region.THINKING) for a, b in spans)
    with pytest.raises(ValueError, match=message):
        Trace(tokens=torch.arange(5), steps=steps)


def test_regions_by_name_become_regions():
    step = Step(0, 1, "summary")
    assert step.region is Region.SUMMARY
    with pytest.raises(ValueError, match="regions are 'template', 'question'"):
        Step(0, 1, "answer")


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.data())
def test_step_ids_say_for_each_position_which_step_holds_it(lengths, data):
    starts = [0, *np.cumsum(lengths)[:-1].tolist()]
    regions = data.draw(
        st.lists(st.sampled_from(list(Region)), min_size=len(lengths), max_size=len(lengths))
    )
    trace = Trace.from_tokens(list(range(sum(lengths))), starts=starts, regions=regions)
    ids = trace.step_ids.tolist()
    for position in range(len(trace)):
        step = trace.steps[ids[position]]
        assert step.start <= position < step.stop


def test_messages_that_are_none_are_refused():
    refusal = pytest.raises(ValueError, match="messages need role and content, got \\['hi'\\]")
    with unchecked_calls(), refusal:
        Trace.from_messages(None, ["hi"])


def test_columns_of_a_table_that_was_cut_down():
    table = pd.DataFrame({"start": [9, 0, 1, 3], "region": ["template", *THREE]})[1:]
    message = pd.Series([{"role": "user", "content": "2?"}, {"role": "user", "content": "3?"}])[1:]
    with unchecked_calls():
        trace = Trace.from_tokens(range(5), starts=table["start"], regions=table["region"])
        with pytest.raises(ValueError, match="got 1 messages"):
            Trace.from_messages(None, message)
    assert trace.starts == [0, 1, 3]
    assert trace.regions == THREE


def test_region_steps_selects_in_order():
    trace = Trace.from_tokens(
        [1, 2, 3, 4], starts=[0, 1, 2, 3], regions=["thinking", "template", "thinking", "summary"]
    )
    assert trace.region_steps("thinking") == [0, 2]
    assert trace.region_steps(Region.SUMMARY, "template") == [1, 3]
    with pytest.raises(ValueError, match="unknown region"):
        trace.region_steps("thoughts")


def test_with_steps_keeps_tokens_and_joins_texts():
    trace = example(id="a", meta={"gold": 4})
    joined = trace.with_steps(starts=[0, 15])
    assert joined.regions == [Region.QUESTION, Region.SUMMARY]
    assert joined.step_text(0) == "What is <2+2>?Two and two."
    assert joined.tokens.tolist() == trace.tokens.tolist()
    assert (joined.id, joined.meta["gold"]) == ("a", 4)
    assert trace.with_steps(starts=[0, 3]).step_text(1) == ""
    with pytest.raises(ValueError, match="out of range"):
        trace.with_steps(starts=[0, 99])


def test_jsonl_gives_back_what_was_written(tmp_path: Path):
    traces = [
        example(id="a", question="q 😀", response="r\n漢字", meta={"gold": "4", "correct": True}),
        Trace.from_tokens([1], starts=[0], regions=["template"]),
    ]
    read = load_jsonl(save_jsonl(tmp_path / "traces.jsonl", traces))
    assert [t.to_dict() for t in read] == [t.to_dict() for t in traces]
    assert list(tmp_path.iterdir()) == [tmp_path / "traces.jsonl"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path):
    path = save_jsonl(tmp_path / "traces.jsonl", [example()])
    before = path.read_bytes()
    with pytest.raises(TypeError):
        save_jsonl(path, [example(), example(meta={"gold": object()})])
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"tokens": [1, 2', "line 2"),
        ("[1, 2]", "line 2: expected a JSON object, got list"),
        ('{"tokens": [1]}', r"fields missing \['regions', 'starts'\]"),
        ('{"tokens": [1], "starts": [0], "regions": ["question"], "x": 1}', r"unknown \['x'\]"),
        ('{"tokens": [1], "starts": [0, 4], "regions": ["question", "summary"]}', "out of range"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, message: str):
    path = tmp_path / "traces.jsonl"
    path.write_text(json.dumps(example().to_dict()) + "\n" + line + "\n")
    with pytest.raises(ValueError, match=message):
        load_jsonl(path)


def test_it_shows_itself_in_short():
    assert repr(example(id="x")) == (
        "Trace('x', 20 tokens, 3 steps: 1 question, 1 thinking, 1 summary)"
    )
    assert repr(example()).startswith("Trace(20 tokens")


def test_html_escapes_what_the_model_wrote():
    trace = Trace.from_tokens(
        [1, 2],
        starts=[0, 1],
        regions=["question", "thinking"],
        texts=["a < b & c", "<script>alert(1)</script>"],
        id="<i>",
    )
    shown = trace._repr_html_()
    assert "<script>" not in shown
    assert "<i>" not in shown
    assert "a &lt; b &amp; c" in shown
    assert shown.count("<tr") == 3


def test_dollars_of_a_text_are_no_formulas_in_a_notebook():
    """MathJax makes one of what stands between two of them: "$5 each, so $10"."""
    trace = Trace.from_tokens(
        [1, 2], starts=[0, 1], regions=["question", "thinking"], texts=["$5 each", ", so $10"]
    )
    assert trace._repr_html_().startswith('<div class="tex2jax_ignore mathjax_ignore">')
