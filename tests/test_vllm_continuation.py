"""Responses that were begun, by an engine: what it is asked, and what it goes on with."""

from importlib.util import find_spec
from typing import Any

import pytest
from test_vllm_generate import FLOW, QUESTIONS, ScriptedEngine, engine, model  # noqa: F401

import step_saliency as ss
from step_saliency.decoding import Continuation
from step_saliency.tasks import make_problems
from step_saliency.vllm import KEY

CONTEXT = 1024


def test_an_engine_reads_what_was_written(model: Any, engine: ScriptedEngine) -> None:  # noqa: F811
    written = model.tokenizer("Given: r=4.", add_special_tokens=False)["input_ids"]
    starts = [
        Continuation(written=written, max_new_tokens=4, seed=9),
        Continuation(written="Given: r=4.", max_new_tokens=2 * CONTEXT),
    ]
    options: dict[str, Any] = {"flow": FLOW, "seed": 3, "progress": False}
    traces = ss.generate(engine, QUESTIONS, continued=starts, **options)
    asked = list(engine.asked.values())
    for (prompt, params), question, trace in zip(asked, QUESTIONS, traces, strict=True):
        assert prompt[-len(written) :] == written
        assert params.extra_args[KEY]["n_prompt"] == len(prompt) - len(written)
        assert params.extra_args[KEY]["question"] == question
        assert trace.meta["continued_tokens"] == len(written)
        assert trace.response.startswith("Given: r=4.")
    assert [trace.meta["seed"] for trace in traces] == [9, 3]
    assert [trace.meta["response_tokens"] for trace in traces] == [4, len(engine.tokens)]
    assert [params.max_tokens for _, params in asked] == [4, CONTEXT - len(asked[1][0])]


def test_numbers_of_an_engine_are_not_drawn_twice(engine: ScriptedEngine) -> None:  # noqa: F811
    for written in ("", "Given:", "Given: r"):
        start = Continuation(written=written)
        ss.generate(engine, QUESTIONS[0], continued=[start], seed=3, progress=False)
    assert len({params.seed for _, params in engine.asked.values()}) == 3
    ss.generate(engine, QUESTIONS[0], seed=3, progress=False)
    seeds = [params.seed for _, params in engine.asked.values()]
    assert seeds[0] == seeds[3]


@pytest.mark.skipif(find_spec("vllm") is None, reason="needs vLLM, in an environment of its own")
@pytest.mark.parametrize("kind", ["off", "stepflow"])
def test_what_is_broken_off_goes_on_inside_an_engine(model: Any, kind: str) -> None:  # noqa: F811
    """Greedy, with the tokens of the fast loop, up to rounding."""
    from vllm_engines import flow_of, response, roomy_engine, same

    questions = [problem.question for problem in make_problems(n=16, level="medium", seed=5)]
    options: dict[str, Any] = {"flow": flow_of(kind), "temperature": 0.0, "progress": False}
    whole = ss.generate(model, questions, method="fast", max_new_tokens=96, **options)
    starts = [
        Continuation(written=response(trace)[:at], max_new_tokens=96 - at)
        for trace in whole
        for at in [(7 * trace.meta["question_index"]) % trace.meta["response_tokens"]]
    ]
    assert len({len(start.written) for start in starts}) > 8
    effects = ss.intervene.Effects()
    found = ss.generate(
        roomy_engine(), questions, method="vllm", continued=starts, effects=effects, **options
    )
    got = [[*start.written, *response(trace)] for start, trace in zip(starts, found, strict=True)]
    assert same(got, whole, [options["flow"]] * len(whole), model)
    assert (len(effects.to_frame()) > 0) == (kind != "off")
