"""Responses that were begun: many together, each from its own words, to its own limit and seed."""

import copy
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from test_fast import assert_equal_counters, responses, strong_flow
from test_refill import LONG, QUESTIONS, passes
from tiny import BACKENDS, Arch, tiny_model, tiny_tokenizer, tiny_transformers
from transformers import PreTrainedModel

import step_saliency as ss
from step_saliency.decoding import Continuation
from step_saliency.intervene.effects import Effects
from step_saliency.trace import Trace

OPTIONS: dict[str, Any] = {
    "max_new_tokens": 24,
    "progress": False,
    "format": "think",
    "stop_tokens": range(60, 80),
}
WRITTEN = ("", "So 3 and 4.", LONG, "<think>First, x.</think>The answer", "a", LONG[:33], "Wait.")
BEGUN = [
    Continuation(written=words, max_new_tokens=3 + 5 * i % 17, seed=100 * (i % 3))
    for i, words in enumerate(WRITTEN)
]
"""Nothing to 60 words; limits and seeds in no order."""


Way = Literal["hooked", "bridge", "fast"]
WAYS: tuple[Way, ...] = (*BACKENDS, "fast")


@cache
def model_by(way: Way, arch: Arch = "qwen2") -> Any:
    """In float64, so that rounding decides nothing; transformers' own for the fast loop.

    A bridge is in float32: the attention that it wraps has its softmax there, in which the mask of
    float64 is beyond all numbers. Its rounding, some 1e-6, decides one drawn token in a million.
    """
    dtype = torch.float32 if way == "bridge" else torch.float64
    if way != "fast":
        return tiny_model(arch, backend=way, dtype=dtype)
    model = tiny_transformers(arch, dtype=dtype)
    model.tokenizer = tiny_tokenizer()
    return model


def options_of(model: Any, options: dict[str, Any]) -> dict[str, Any]:
    is_fast = isinstance(model, PreTrainedModel)
    return {**OPTIONS, "method": "fast" if is_fast else "hooks", **options}


def generated(model: Any, **options: Any) -> list[Trace]:
    return ss.generate(model, QUESTIONS, **options_of(model, options))


def alone(model: Any, continued: Sequence[Continuation], **options: Any) -> list[Trace]:
    """Every response by a call of its own."""
    options = options_of(model, options)
    return [
        trace
        for i, (question, start) in enumerate(zip(QUESTIONS, continued, strict=True))
        for trace in ss.generate(
            model, [question], question_numbers=[i], continued=[start], **options
        )
    ]


def new_tokens(trace: Trace) -> list[int]:
    tokens: list[int] = trace.tokens[len(trace) - trace.meta["response_tokens"] :].tolist()
    return tokens


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("arch", "temperature"),
    [
        ("qwen2", 1.0),
        pytest.param("qwen2", 0.0, marks=pytest.mark.nightly),
        pytest.param("gpt_oss", 1.0, marks=pytest.mark.nightly),
        pytest.param("gemma3", 1.0, marks=pytest.mark.nightly),
    ],
)
def test_many_are_what_each_is_alone(arch: Arch, temperature: float, way: Way) -> None:
    """In refilled batches, with a flow and without: tokens, steps and what is said of them."""
    model = model_by(way, arch)
    for flow, n in ((None, 1), (strong_flow(), 2)):
        options = {"flow": flow, "temperature": temperature, "n": n}
        expected = alone(model, BEGUN, **options)
        for n_slots in (3, 14):
            found = generated(model, continued=BEGUN, batch_size=n_slots, **options)
            assert responses(found) == responses(expected)
            assert [t.steps for t in found] == [t.steps for t in expected]
            assert [t.meta for t in found] == [t.meta for t in expected]
    for trace, start in zip(expected[::2], BEGUN, strict=True):
        assert trace.meta["seed"] == start.seed
        assert trace.meta["response_tokens"] <= (start.max_new_tokens or 0)
        assert trace.response.startswith(str(start.written))
    assert len({len(new_tokens(trace)) for trace in expected}) > 4


@pytest.mark.parametrize("way", WAYS)
def test_what_is_broken_off_goes_on_as_if_it_had_not_been(way: Way) -> None:
    """The same tokens, steps and counters as in one piece, wherever it was cut."""
    model = model_by(way)
    for flow in (None, strong_flow()):
        whole_effects, effects = Effects(), Effects()
        options = {"flow": flow, "temperature": 1.0, "seed": 7, "batch_size": 3}
        whole = generated(model, effects=whole_effects, stop_tokens=[], **options)
        written = [new_tokens(trace)[: 3 * i] for i, trace in enumerate(whole)]
        starts = [
            Continuation(written=tokens, max_new_tokens=24 - len(tokens)) for tokens in written
        ]
        found = generated(model, continued=starts, effects=effects, stop_tokens=[], **options)
        assert responses(found) == responses(whole)
        assert [trace.steps for trace in found] == [trace.steps for trace in whole]
        assert_equal_counters(effects, whole_effects)
        for trace, tokens in zip(found, written, strict=True):
            assert trace.meta.get("continued_tokens", 0) == len(tokens)
            assert trace.meta["response_tokens"] == 24 - len(tokens)
    assert effects.to_frame()["injections"].sum() > 0


@pytest.mark.parametrize("way", WAYS)
def test_greedy_words_are_those_after_a_prompt_of_all_that_was_written(way: Way) -> None:
    """Against calls that know of no continuation: all that was written is the question there."""
    model = model_by(way)
    raw = copy.copy(model.tokenizer)
    raw.chat_template = "{{ messages[-1]['content'] }}"
    starts = [Continuation(written=start.written, max_new_tokens=9) for start in BEGUN]
    found = generated(model, continued=starts, temperature=0.0, batch_size=4)
    for trace in found:
        read = trace.tokens[: len(trace) - trace.meta["response_tokens"]]
        (expected,) = ss.generate(
            model,
            model.tokenizer.decode(read),
            tokenizer=raw,
            temperature=0.0,
            **options_of(model, {"max_new_tokens": 9}),
        )
        assert new_tokens(expected) == new_tokens(trace)
    assert not torch.equal(found[0].tokens, found[1].tokens)


def test_text_becomes_the_tokens_of_a_finished_trace() -> None:
    model = model_by("fast")
    for trace, start in zip(generated(model, continued=BEGUN), BEGUN, strict=True):
        if start.written:
            read = Trace.from_text(
                model.tokenizer, question=trace.question, response=str(start.written)
            )
            assert trace.tokens[: len(read)].tolist() == read.tokens.tolist()


@pytest.mark.parametrize("way", WAYS)
def test_a_flow_acts_on_what_was_written(way: Way) -> None:
    """As on thinking; on a prompt alone it does not act."""
    model = model_by(way)
    start = Continuation(written="First, x. Then 3 and 4. So it is 7.", max_new_tokens=1)
    counts = {}
    for name, continued in {"begun": [start], "not": [Continuation(max_new_tokens=1)]}.items():
        effects = Effects()
        ss.generate(
            model,
            "What is 3 and 4?",
            flow=strong_flow(),
            continued=continued,
            effects=effects,
            **options_of(model, {}),
        )
        frame = effects.to_frame()
        counts[name] = int(frame["rows_seen"].sum()) if len(frame) else 0
    assert counts["begun"] > counts["not"] == 0


def test_no_slot_waits_for_a_response_of_a_higher_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = model_by("fast")
    limits = [1, 9, 2, 2, 1, 3, 1]
    starts = [Continuation(max_new_tokens=limit) for limit in limits]
    with passes(monkeypatch) as seen:
        generated(model, continued=starts, batch_size=2, stop_tokens=[])
    steps = [n for n, width in seen if width == 1]
    assert sum(steps) == sum(limits) - len(limits)


def test_a_log_is_gone_on_with_from_the_same_words_alone(tmp_path: Path) -> None:
    model, file = model_by("fast"), tmp_path / "log.jsonl"
    options: dict[str, Any] = {"temperature": 1.0, "save_to": file}
    expected = generated(model, continued=BEGUN, **options)
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:4]))
    assert responses(generated(model, continued=BEGUN, **options)) == responses(expected)
    for change in (
        {"written": "Other words."},
        {"seed": 5},
        {"max_new_tokens": 23},
        {"written": ""},
    ):
        others = [Continuation(**{**vars(start), **change}) for start in BEGUN]
        with pytest.raises(ValueError, match="other words, or under another seed or limit"):
            generated(model, continued=others, **options)
    with pytest.raises(ValueError, match="went on from other words"):
        generated(model, **options)


def test_a_log_is_not_gone_on_with_after_another_prompt(tmp_path: Path) -> None:
    model, file = model_by("fast"), tmp_path / "log.jsonl"
    tokenizer = copy.copy(model.tokenizer)
    options: dict[str, Any] = {**OPTIONS, "tokenizer": tokenizer, "save_to": file}
    first = ss.generate(model, ["a b"], **options)
    assert responses(ss.generate(model, ["a b"], **options)) == responses(first)
    tokenizer.chat_template += "<think>"
    with pytest.raises(ValueError, match="followed another prompt, as of another chat template"):
        ss.generate(model, ["a b"], **options)


def test_a_row_says_what_is_its_own() -> None:
    model = model_by(BACKENDS[0])
    (plain,) = ss.generate(model, "a b", **OPTIONS)
    (same,) = ss.generate(model, "a b", continued=[None], **OPTIONS)
    assert plain.meta == same.meta
    assert not {"continued_tokens", "max_new_tokens"} & set(plain.meta)
    (own,) = ss.generate(
        model,
        "a b",
        continued=[Continuation(written=plain.tokens[-2:], max_new_tokens=2)],
        **OPTIONS,
    )
    assert (own.meta["continued_tokens"], own.meta["max_new_tokens"]) == (2, 2)


@pytest.mark.parametrize(
    ("start", "match"),
    [
        ({"written": [-1]}, "text or token ids"),
        ({"max_new_tokens": 0}, "max_new_tokens=0 is no whole number above 0"),
        ({"max_new_tokens": True}, "max_new_tokens=True"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_bad_starts(start: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Continuation(**start)


@pytest.mark.parametrize(
    ("continued", "match"),
    [
        ([], "0 continued for 1 questions"),
        ([None, None], "2 continued for 1 questions"),
        ([Continuation(written=[99_999])], "99999 is not in the vocabulary"),
        ([Continuation(written="word " * 600)], "that were written and leaves no room"),
    ],
)
def test_bad_lists(continued: list[Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        ss.generate(tiny_model("qwen2"), "q", continued=continued, **OPTIONS)


def test_what_has_ended_is_not_gone_on_with() -> None:
    model = model_by("fast")
    last = model.tokenizer.pad_token_id
    ended = Continuation(written=[12, 13, last])
    options = options_of(model, {"stop_tokens": [last]})
    with pytest.raises(ValueError, match=r"ends in .*which ends responses: there is nothing"):
        ss.generate(model, "a b", continued=[ended], **options)
    (on,) = ss.generate(model, "a b", continued=[ended], **options_of(model, {}))
    assert on.meta["continued_tokens"] == 3


def test_a_mark_that_the_prompt_has_is_not_written_twice() -> None:
    model = tiny_transformers("qwen2")
    model.tokenizer = tiny_tokenizer()
    model.tokenizer.chat_template = "user: {{ messages[-1]['content'] }}\n<think>"
    traces = [
        ss.generate(model, "a b", continued=[Continuation(written=words)], **OPTIONS)[0]
        for words in ("<think>\nFirst, x.", "\nFirst, x.")
    ]
    assert traces[0].tokens.tolist() == traces[1].tokens.tolist()
    assert model.tokenizer.decode(traces[0].tokens).count("<think>") == 1


def test_what_can_be_gone_through_once_is_listed() -> None:
    model = model_by("fast")
    listed = ss.generate(model, QUESTIONS, **options_of(model, {"stop_texts": ["e", "a"]}))
    options = {"stop_texts": iter(["e", "a"]), "stop_tokens": (i for i in range(60, 80))}
    once = ss.generate(model, QUESTIONS, **options_of(model, options))
    assert responses(once) == responses(listed)
