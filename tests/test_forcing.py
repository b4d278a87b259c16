"""Answers whose thinking is made longer, against greedy steps taken one by one."""

from typing import Any

import pytest
import torch

import step_saliency as ss
from analyses.compute_matched import ComputeSettings
from analyses.material.forcing import CLOSED, END, WAIT, forced_responses
from step_saliency.tasks import make_problems
from step_saliency.trace import Trace

N = 3


@pytest.fixture(scope="module")
def model() -> Any:
    return ss.load_model("reasoner")


@pytest.fixture(scope="module")
def written(model: Any) -> list[Trace]:
    questions = [problem.question for problem in make_problems(N, "medium", 0)]
    return ss.generate(model, questions, temperature=0.0, max_new_tokens=192, progress=False)


def parts_of(model: Any, trace: Trace) -> tuple[str, str]:
    """Prompt, and response up to the end of its thinking."""
    start = len(trace) - int(trace.meta["response_tokens"])
    decode = model.tokenizer.decode
    return decode(trace.tokens[:start]), decode(trace.tokens[start:]).partition(END)[0]


def greedily(model: Any, text: str, n: int) -> str:
    """What follows a text, by the largest logit of one full pass after the other."""
    tokens = model.tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    start = tokens.shape[1]
    for _ in range(n):
        with torch.no_grad():
            following = model(tokens, return_type="logits")[0, -1].argmax()
        tokens = torch.cat([tokens, following[None, None]], 1)
        if int(following) == model.tokenizer.eos_token_id:
            break
    return str(model.tokenizer.decode(tokens[0, start:]))


def test_the_model_goes_on_from_the_word_and_closes_its_thinking(
    model: Any, written: list[Trace]
) -> None:
    settings = ComputeSettings(n=N, max_new_tokens=40)
    extra = [12, 3, 5]
    found = forced_responses(model, written, settings, extra=extra, rounds=1)
    for trace, response, more in zip(written, found, extra, strict=True):
        prompt, thinking = parts_of(model, trace)
        assert response.startswith(thinking + WAIT)
        went_on = response.removeprefix(thinking + WAIT).partition(CLOSED)[0]
        following = greedily(model, prompt + thinking + WAIT, more).partition(END)[0]
        assert following.startswith(went_on)
        if "\n" not in following and ". " not in following:
            assert went_on == following.rstrip()
        head, _, answer = response.partition(CLOSED)
        expected = greedily(model, prompt + head + CLOSED, 40)
        assert answer == expected.removesuffix(model.tokenizer.eos_token)


def test_the_thinking_is_made_longer_by_what_was_asked(model: Any, written: list[Trace]) -> None:
    settings = ComputeSettings(n=N)
    lengths = []
    for more in (10, 60):
        responses = forced_responses(model, written, settings, extra=[more] * N)
        counts = [len(model.tokenizer(text)["input_ids"]) for text in responses]
        lengths.append(sum(counts) / N)
    own = sum(int(trace.meta["response_tokens"]) for trace in written) / N
    # what is forced counts as well, and an unfinished line goes
    assert own < lengths[0] < own + 30
    assert own + 30 < lengths[1] < own + 120


def test_answers_that_were_cut_stay_as_they_are(model: Any) -> None:
    questions = [problem.question for problem in make_problems(N, "medium", 0)]
    cut = ss.generate(model, questions, temperature=0.0, max_new_tokens=20, progress=False)
    assert not any(trace.meta["finished"] for trace in cut)
    found = forced_responses(model, cut, ComputeSettings(n=N), extra=[30] * N)
    assert found == [model.tokenizer.decode(trace.tokens[-20:]) for trace in cut]


def test_where_answers_have_no_mark_their_end_stands_for_it(
    model: Any, written: list[Trace], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("analyses.material.forcing.END", "never written")
    settings = ComputeSettings(n=N)
    found = forced_responses(model, written, settings, text="Given", extra=[6] * N, rounds=1)
    for trace, response in zip(written, found, strict=True):
        start = len(trace) - int(trace.meta["response_tokens"])
        own = model.tokenizer.decode(trace.tokens[start:-1])
        assert response.startswith(f"{own}\nGiven")
        assert CLOSED not in response.removeprefix(own)
