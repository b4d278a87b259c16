"""Words that are forced on the model, and words of the assistant that it goes on from."""

import asyncio
import copy
from pathlib import Path
from typing import Any, ClassVar

import pytest

import step_saliency as ss
from step_saliency.benchmark.conditions import HINT
from step_saliency.benchmark.provider.settings import ProviderSettings
from step_saliency.benchmark.provider.weights import Weights, weights_for
from step_saliency.decoding import Continuation
from step_saliency.tasks import make_problems

pytest.importorskip("inspect_ai", reason="inspect-ai is not installed: step-saliency[benchmarks]")

from inspect_ai import eval as evaluate
from inspect_ai.model import (
    ChatMessageAssistant,
    ChatMessageUser,
    GenerateConfig,
    ModelAPI,
    ModelOutput,
    ModelUsage,
    get_model,
    modelapi,
)
from test_benchmark_provider import FLOWS, PROBLEMS, SAMPLES, by_place, flow_of, run

from step_saliency.benchmark.provider import queue
from step_saliency.benchmark.suites.suites import Selection
from step_saliency.benchmark.suites.tasks import build_task


@pytest.fixture(scope="module")
def weights() -> Weights:
    return weights_for("reasoner", ProviderSettings())


@pytest.mark.parametrize(
    ("condition", "word"), [("hint", "Wait, maybe"), ("budget_forcing", "Wait")]
)
def test_words_that_are_forced(tmp_path: Path, condition: str, word: str) -> None:
    samples = by_place(run(tmp_path, condition=condition))
    plain = by_place(run(tmp_path))
    forced = 0
    for place, sample in samples.items():
        facts, before = sample.output.metadata or {}, plain[place].output.metadata or {}
        assert sample.output.usage
        assert sample.output.usage.output_tokens <= 120
        thinking, mark, _ = before["response"].partition("</think>")
        used = plain[place].output.usage
        assert used
        if mark and used.reasoning_tokens is not None and used.reasoning_tokens < 90:
            forced += 1
            assert facts["response"].startswith(thinking)
            assert facts["response"][len(thinking) :].lstrip().startswith(word)
        assert facts["response"].count("</think>") <= 1
    assert forced


@pytest.mark.parametrize("condition", ["hint", "budget_forcing"])
def test_forced_words_are_decoded_together_as_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, condition: str
) -> None:
    """In float64, so that a batch decides nothing; words, limits and seeds are each its own."""
    sizes: list[int] = []
    plain = queue.generate

    def counting(model: Any, questions: Any, **options: Any) -> Any:
        sizes.append(len(questions))
        return plain(model, questions, **options)

    monkeypatch.setattr(queue, "generate", counting)
    # a busy machine may take a while to ask on, and calls begin where nothing comes any more
    together = by_place(run(tmp_path, condition=condition, dtype="float64", wait=3.0))
    n_calls = len(sizes)
    alone = by_place(run(tmp_path, condition=condition, dtype="float64", unit=1))
    assert sizes[0] == PROBLEMS * SAMPLES
    assert sizes[1] > 2
    assert set(sizes[n_calls:]) == {1}
    assert sum(sizes[:n_calls]) == len(sizes[n_calls:]) > n_calls
    for place, sample in together.items():
        facts, single = sample.output.metadata or {}, alone[place].output.metadata or {}
        for name in ("response", "parts", "opened", "seed"):
            assert facts[name] == single[name]
        assert sample.output.usage == alone[place].output.usage


LENGTH = 400
"""Of a response that ends by itself."""


def test_a_hint_against_prompts_of_all_that_was_written(tmp_path: Path) -> None:
    """Greedy, by calls that know of no continuation: what was written is part of the question."""
    double = weights_for("reasoner", ProviderSettings(dtype="float64"))
    raw = copy.copy(double.tokenizer)
    raw.chat_template = "{{ messages[-1]['content'] }}"
    turn = [{"role": "user", "content": make_problems(n=1, level="medium", seed=0)[0].question}]
    prompt = double.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)

    def after(text: str, most: int, **options: Any) -> tuple[str, int]:
        (trace,) = ss.generate(
            double.model,
            text,
            tokenizer=raw,
            temperature=0.0,
            max_new_tokens=most,
            progress=False,
            **options,
        )
        n = trace.meta["response_tokens"]
        return double.tokenizer.decode(trace.tokens[-n:]).removesuffix("<|eos|>"), n

    first, n_first = after(prompt, LENGTH, stop_texts="</think>")
    written = first.removesuffix("</think>") + HINT
    assert written != first + HINT
    assert n_first < LENGTH
    second, n_second = after(prompt + written, LENGTH - n_first, stop_texts="</think>")
    last, n_last = after(prompt + written + second, LENGTH - n_first - n_second)
    model = get_model("step-saliency/reasoner", memoize=False, wait=0.1, dtype="float64")
    task = build_task(
        "reasoner",
        selection=Selection(limit=1),
        condition="hint",
        epochs=1,
        config=GenerateConfig(temperature=0.0, max_tokens=LENGTH),
        model=model,
    )
    (log,) = evaluate(task, display="none", log_dir=str(tmp_path))
    assert log.samples
    output = log.samples[0].output
    assert (output.metadata or {})["response"] == written + second + last
    assert output.usage
    assert output.usage.output_tokens == n_first + n_second + n_last
    assert output.usage.total_tokens == output.usage.input_tokens + output.usage.output_tokens


def test_parts_are_kept_and_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = str(tmp_path / "store")
    first = by_place(run(tmp_path, condition="budget_forcing", store=store))

    def none(*_: Any, **__: Any) -> Any:
        raise AssertionError("decoded again")

    monkeypatch.setattr(queue, "generate", none)
    second = by_place(run(tmp_path, condition="budget_forcing", store=store, batch_size=3))
    for place, sample in first.items():
        facts = second[place].output.metadata or {}
        assert facts["kept"] is True
        assert facts["response"] == (sample.output.metadata or {})["response"]


@pytest.mark.parametrize("flow", FLOWS)
def test_words_of_the_assistant_are_gone_on_from(weights: Weights, flow: str) -> None:
    """As thinking, so that a flow acts on them; what comes back is new."""
    question = make_problems(n=1, level="medium", seed=0)[0].question
    written = "Given " + question.partition(".")[0] + "."
    truth: list[ss.Trace] = ss.generate(
        weights.model,
        question,
        tokenizer=weights.tokenizer,
        flow=flow_of(flow, weights.model),
        continued=[Continuation(written=written)],
        temperature=0.0,
        max_new_tokens=100,
        progress=False,
    )
    model = get_model("step-saliency/reasoner", memoize=False, wait=0.01, flow=flow)
    messages = [ChatMessageUser(content=question), ChatMessageAssistant(content=written)]
    config = GenerateConfig(temperature=0.0, max_tokens=100)
    output: Any = asyncio.run(model.api.generate(messages, [], "none", config))
    assert written + output.metadata["response"] == truth[0].response.removesuffix("<|eos|>")
    n = truth[0].meta["response_tokens"]
    assert output.usage.output_tokens == n
    assert output.usage.input_tokens == len(truth[0]) - n
    start = len(truth[0]) - n
    thinking = [step for step in truth[0].steps if step.region == "thinking"]
    assert output.usage.reasoning_tokens == sum(
        max(0, step.stop - max(step.start, start)) for step in thinking
    )
    assert 0 < output.usage.reasoning_tokens <= n
    assert written not in output.message.text
    assert output.stop_reason == ("stop" if truth[0].meta["finished"] else "max_tokens")


def test_words_that_fill_the_context_end_their_response_alone(weights: Weights) -> None:
    model = get_model("step-saliency/reasoner", memoize=False, wait=0.2)
    config = GenerateConfig(temperature=0.0, max_tokens=5)

    async def both() -> list[Any]:
        asked = [
            [ChatMessageUser(content="a=1. a?"), ChatMessageAssistant(content=words)]
            for words in ("a=1. " * weights.context, "a=1.")
        ]
        return await asyncio.gather(
            *(model.api.generate(turns, [], "none", config) for turns in asked)
        )

    full, going = asyncio.run(both())
    assert (full.stop_reason, full.completion) == ("model_length", "")
    assert full.usage.output_tokens == 0
    assert going.usage.output_tokens == 5


def test_a_prompt_that_fills_the_context_ends_alone_too(weights: Weights) -> None:
    model = get_model("step-saliency/reasoner", memoize=False, wait=0.2)
    config = GenerateConfig(temperature=0.0, max_tokens=5)

    async def both() -> list[Any]:
        questions = ("a=1. " * weights.context, "a=1. a?")
        return await asyncio.gather(
            *(
                model.api.generate([ChatMessageUser(content=question)], [], "none", config)
                for question in questions
            )
        )

    full, short = asyncio.run(both())
    assert (full.stop_reason, full.completion) == ("model_length", "")
    assert short.usage.output_tokens == 5


class Counted(ModelAPI):
    """Ends its thinking after so many tokens, and notes what it is asked."""

    lengths: ClassVar[list[int | None]] = []

    def __init__(self, model_name: str, *_: Any, each: int = 1, ending: str = "stop", **__: Any):
        super().__init__(model_name)
        self.each, self.ending = each, ending

    async def generate(
        self,
        input: list[Any],  # noqa: A002, ARG002
        tools: Any,  # noqa: ARG002
        tool_choice: Any,  # noqa: ARG002
        config: GenerateConfig,
    ) -> ModelOutput:
        self.lengths.append(config.max_tokens)
        words = "t</think>" if config.stop_seqs else "so 3"
        output = ModelOutput.from_content(self.model_name, words, stop_reason=self.ending)
        written = min(self.each, config.max_tokens or 0)
        output.usage = ModelUsage(input_tokens=1, output_tokens=written, total_tokens=1 + written)
        return output


@modelapi(name="counted")
def counted() -> type[ModelAPI]:
    return Counted


@pytest.mark.parametrize(
    ("each", "ending", "lengths"),
    [
        (1, "stop", [8, 7, 6, 7]),  # thinking 8 of 10, replaced twice, then the rest
        (8, "stop", [8, 2]),  # a budget that is used up to the token
        (20, "stop", [8, 2]),
        (3, "model_length", [8]),  # nothing follows where the context is full
    ],
)
def test_lengths_of_forced_parts(
    tmp_path: Path, each: int, ending: str, lengths: list[int]
) -> None:
    Counted.lengths.clear()
    model = get_model("counted/model", memoize=False, each=each, ending=ending)
    task = build_task(
        "reasoner",
        selection=Selection(limit=1),
        condition="budget_forcing",
        epochs=1,
        config=GenerateConfig(max_tokens=10),
        model=model,
    )
    (log,) = evaluate(task, display="none", log_dir=str(tmp_path))
    assert log.status == "success", log.error
    assert Counted.lengths == lengths
    assert log.samples
    output = log.samples[0].output
    assert output.usage
    assert (
        output.usage.output_tokens
        == min(10, each * len(lengths))
        == sum(min(each, length) for length in lengths)
    )
    assert output.stop_reason == ending
