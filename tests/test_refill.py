"""Rows that end make room for the next: same texts as alone, in every order of coming and going."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from flows import state_of
from nights import mostly_at_night
from test_fast import assert_equal_counters, responses, strong_flow
from tiny import BACKENDS, Arch, Backend, tiny_model, tiny_tokenizer, tiny_transformers
from transformers import DynamicCache

import step_saliency as ss
from step_saliency.decoding import loops, readers, refill, slots
from step_saliency.decoding.job import Job
from step_saliency.decoding.refill import Slots
from step_saliency.intervene.columns import Columns
from step_saliency.intervene.effects import Effects
from step_saliency.intervene.expected import ExpectedRows
from step_saliency.models.reference import reference_model
from step_saliency.options import Decoding
from step_saliency.segment.online import StepTracker

LONG = "First, let me think about the number of apples. " * 6
QUESTIONS = ["a b c", "What is 3 and 4?", LONG, "Then 5.", LONG[:90], "x", "So what is it, then?"]
OPTIONS: dict[str, Any] = {
    "max_new_tokens": 24,
    "progress": False,
    "format": "think",
    "stop_tokens": range(60, 80),
}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Arch, Backend], Any]:
    """Models that `load_model` read, so that they have a transformers model behind them."""

    @cache
    def load(arch: Arch, backend: Backend) -> Any:
        folder = tmp_path_factory.mktemp(arch)
        tiny_transformers(arch).save_pretrained(folder)
        tiny_tokenizer().save_pretrained(folder)
        return ss.load_model(folder, backend=backend)

    return load


def decode(model: Any, **options: Any) -> list[list[int]]:
    return responses(ss.generate(model, QUESTIONS, **{**OPTIONS, **options}))


def alone(model: Any, **options: Any) -> list[list[int]]:
    """Every response by a call of its own."""
    options = {**OPTIONS, **options}
    return [
        response
        for i, question in enumerate(QUESTIONS)
        for response in responses(ss.generate(model, [question], question_numbers=[i], **options))
    ]


@contextmanager
def passes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, int]]]:
    """Rows and positions of every pass of the fast loop."""
    seen: list[tuple[int, int]] = []
    read, read_prompts = readers.TransformersReader.read, readers.TransformersReader.read_prompts

    def noted(self: Any, tokens: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        seen.append((tokens.shape[0], tokens.shape[1]))
        return read(self, tokens, *args, **options)

    def noted_prompts(self: Any, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        seen.append((len(prompts), max(map(len, prompts))))
        return read_prompts(self, prompts)

    with monkeypatch.context() as patch:
        patch.setattr(readers.TransformersReader, "read", noted)
        patch.setattr(readers.TransformersReader, "read_prompts", noted_prompts)
        yield seen


@pytest.mark.parametrize("method", [pytest.param("hooks", marks=pytest.mark.nightly), "fast"])
@pytest.mark.parametrize("arch", mostly_at_night(["qwen2", "gpt_oss", "gemma3"], "gpt_oss"))
def test_any_number_of_slots_writes_what_is_written_alone(
    loaded: Any, arch: Arch, method: str
) -> None:
    """Lengths of prompts from 1 to 60 words, responses that end anywhere; sinks and windows."""
    model = loaded(arch, BACKENDS[-1])
    for flow in (None, strong_flow()):
        options: dict[str, Any] = {"method": method, "flow": flow, "temperature": 1.0}
        expected = decode(model, n=2, batch_size=1, **options)
        for n_slots in (3, 8):
            assert decode(model, n=2, batch_size=n_slots, **options) == expected
        assert len({len(row) for row in expected}) > 6


@pytest.mark.parametrize("method", ["hooks", "fast"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_greedy(loaded: Any, backend: Backend, method: str) -> None:
    model = loaded("qwen2", backend)
    options: dict[str, Any] = {"method": method, "temperature": 0.0, "flow": strong_flow()}
    assert decode(model, batch_size=2, **options) == alone(model, **options)


@pytest.mark.parametrize("method", ["hooks", "fast"])
def test_steps_that_were_followed_are_those_of_the_finished_text(
    loaded: Any, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What edits follow is what traces are cut by, and no token is cut twice."""
    model = loaded("qwen2", BACKENDS[-1])
    n_pushed = [0]
    push = StepTracker.push

    def counted(self: StepTracker, token: int) -> Any:
        n_pushed[0] += 1
        return push(self, token)

    for form in ("think", "plain", "auto"):
        options = {**OPTIONS, "format": form, "method": method, "n": 2, "batch_size": 3}
        ss.generate(model, "a", flow=strong_flow(), **{**options, "n": 1})  # checks are over
        with monkeypatch.context() as patch:
            patch.setattr(StepTracker, "push", counted)
            n_pushed[0] = 0
            traces = ss.generate(model, QUESTIONS, flow=strong_flow(), **options)
        n_written = sum(trace.meta["response_tokens"] for trace in traces)
        assert n_pushed[0] == n_written or form == "auto"
        for trace in traces:
            n = trace.meta["response_tokens"]
            prompt, response = trace.tokens[:-n], trace.tokens[-n:]
            anew = ss.Trace.from_generation(
                model.tokenizer, prompt, response, question=trace.question, format=form
            )
            assert (trace.steps, trace.response) == (anew.steps, anew.response)
        assert max(trace.n_steps for trace in traces) > 4


@pytest.mark.parametrize("backend", BACKENDS)
def test_counters_are_the_sum_of_those_of_single_responses(loaded: Any, backend: Backend) -> None:
    model = loaded("qwen2", backend)
    flow = strong_flow()
    for method in ("hooks", "fast"):
        together, apart = Effects(), Effects()
        options: dict[str, Any] = {"flow": flow, "temperature": 1.0, "method": method}
        decode(model, n=2, batch_size=3, effects=together, **options)
        decode(model, n=2, batch_size=1, effects=apart, **options)
        assert_equal_counters(together, apart)
        assert together.to_frame()["injections"].sum() > 0


def test_more_rows_than_a_unit_of_work(loaded: Any) -> None:
    model = loaded("qwen2", BACKENDS[0])
    options = {"flow": strong_flow(), "temperature": 1.0, "method": "fast", "n": 5}
    assert decode(model, batch_size=2, **options) == decode(model, batch_size=35, **options)


def test_rows_that_end_with_their_first_token(loaded: Any) -> None:
    model = loaded("qwen2", BACKENDS[0])
    free = ss.generate(model, QUESTIONS, method="fast", temperature=0, **OPTIONS)
    starts = [trace.tokens[-trace.meta["response_tokens"]] for trace in free]
    for ending in ({int(starts[0])}, set(map(int, starts))):
        options = {"method": "fast", "temperature": 0, "stop_tokens": sorted(ending)}
        for flow in (None, strong_flow()):
            texts = decode(model, batch_size=3, flow=flow, **options)
            assert texts == alone(model, flow=flow, **options)
    traces = ss.generate(
        model, QUESTIONS, batch_size=2, **{**OPTIONS, "stop_tokens": range(1 << 9), "n": 3}
    )
    assert {trace.meta["response_tokens"] for trace in traces} == {1}


def test_slots_are_filled_as_soon_as_they_are_free(
    loaded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loaded("qwen2", BACKENDS[0])
    ss.generate(model, QUESTIONS, method="fast", **OPTIONS)
    with passes(monkeypatch) as seen:
        rows = decode(model, n=4, batch_size=4, method="fast", temperature=1.0)
    prompts = [(n, width) for n, width in seen if width > 1]
    assert sum(n for n, _ in prompts) == len(rows) == 28
    steps = [n for n, width in seen if width == 1]
    assert steps == sorted(steps, reverse=True), "the batch shrinks once no prompt is left"
    n_tokens = sum(
        trace.meta["response_tokens"] - 1
        for trace in ss.generate(
            model, QUESTIONS, n=4, batch_size=4, method="fast", temperature=1.0, **OPTIONS
        )
    )
    assert sum(steps) == n_tokens, "no row is read after its end"
    assert steps.count(4) > 0.7 * len(steps)


def test_prompts_are_read_a_bounded_number_of_tokens_at_a_time(
    loaded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loaded("qwen2", BACKENDS[0])
    options = {"method": "fast", "temperature": 1.0, "n": 2, "batch_size": 14}
    expected = decode(model, **options)
    monkeypatch.setattr(refill, "PROMPT_TOKENS", 100)
    with passes(monkeypatch) as seen:
        assert decode(model, flow=None, **options) == expected
    assert all(n * width <= 100 or n == 1 for n, width in seen)
    assert max(n for n, width in seen if width > 1) > 1


def test_models_with_other_state_and_followers_that_cannot_join_fill_all_slots_at_once(
    loaded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loaded("qwen2", BACKENDS[0])
    expected = decode(model, batch_size=3, method="fast", temperature=1.0)
    with monkeypatch.context() as patch, passes(monkeypatch) as seen:
        patch.setattr(readers, "column_cache", lambda *_, **__: None)
        with pytest.warns(UserWarning, match="refilled only when all of them are free"):
            assert decode(model, batch_size=3, method="fast", temperature=1.0) == expected
    assert [n for n, width in seen if width > 1] == [3, 3, 1]

    class Flow:
        """Hears of rows by the two methods that every follower has."""

        def __init__(self) -> None:
            self.batches: list[int] = []

        @contextmanager
        def attached(self, model: Any) -> Iterator["Flow"]:  # noqa: ARG002
            yield self

        def expect(self, rows: ExpectedRows) -> None:
            assert rows.questions is not None
            self.batches.append(len(rows.questions))

        def keep(self, rows: Sequence[int]) -> None:
            self.batches[-1] -= self.batches[-1] - len(rows)

    flow = Flow()
    with pytest.warns(UserWarning, match="refilled only when all of them are free"):
        texts = decode(model, batch_size=3, method="hooks", flow=flow, temperature=1.0)
    assert texts == expected
    assert flow.batches == [0, 0, 0]


@pytest.mark.parametrize("method", ["hooks", "fast"])
def test_an_interrupt_leaves_the_model_as_it_was(
    loaded: Any, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loaded("qwen2", BACKENDS[-1])
    options = {"method": method, "flow": strong_flow(), "batch_size": 2, "temperature": 1.0}
    expected = decode(model, **options)
    before = state_of(model)
    step, calls = Slots.step, iter(range(100))

    def interrupted(self: Slots) -> Any:
        if next(calls) == 30:
            raise KeyboardInterrupt
        return step(self)

    with monkeypatch.context() as patch:
        patch.setattr(Slots, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            decode(model, **options)
    assert next(calls) == 31
    assert state_of(model) == before
    assert decode(model, **options) == expected


@pytest.mark.parametrize("method", ["hooks", "fast"])
def test_bfloat16_differs_only_where_rounding_decides(method: str, tmp_path: Any) -> None:
    tiny_transformers("qwen2", dtype=torch.bfloat16).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    model = ss.load_model(tmp_path, backend="bridge", dtype="bfloat16")
    options: dict[str, Any] = {"method": method, "temperature": 0.0}
    pairs = zip(decode(model, batch_size=3, **options), alone(model, **options), strict=True)
    for together, single in pairs:
        differing = [i for i, (a, b) in enumerate(zip(together, single, strict=False)) if a != b]
        if differing:
            first = differing[0]
            logits = model(torch.tensor([single[:first]]), return_type="logits")[0, -1].float()
            rounding = 4 * torch.finfo(torch.bfloat16).eps * logits.abs().max()
            assert logits[single[first]] - logits[together[first]] <= rounding


def naive_join(
    batch: torch.Tensor, other: torch.Tensor, padding: int, positions: int
) -> torch.Tensor:
    width = max(batch.shape[positions], other.shape[positions])

    def padded(part: torch.Tensor) -> torch.Tensor:
        shape = list(part.shape)
        shape[positions] = width - part.shape[positions]
        return torch.cat([torch.full(shape, padding, dtype=part.dtype), part], positions)

    return torch.cat([padded(batch), padded(other)], 0)


@pytest.mark.parametrize(("positions", "padding"), [(1, -1), (2, 0)])
def test_columns_are_what_concatenation_makes(positions: int, padding: int) -> None:
    """Random sequences of all operations, against tensors that are made anew each time."""
    for seed in range(30):
        rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)

        def drawn(rows: int, n: int, generator: torch.Generator = generator) -> torch.Tensor:
            shape = (rows, n, 2, 3) if positions == 1 else (rows, 2, n, 3)
            return torch.randint(0, 99, shape, generator=generator)

        first = drawn(4, 5)
        untouched = first.clone()
        columns, expected = Columns(positions=positions, padding=padding), first
        columns.append(first)
        for _ in range(60):
            kind = rng.choice(
                ["append", "append", "append", "keep", "fill", "join", "trim", "crop"]
            )
            rows, width = expected.shape[0], expected.shape[positions]
            if kind == "append":
                new = drawn(rows, rng.choice([1, 1, 7]))
                columns.append(new)
                expected = torch.cat([expected, new], positions)
            elif kind == "keep" and rows > 2:
                kept = rng.sample(range(rows), rows - 1)
                columns.keep(kept)
                expected = expected[kept]
            elif kind == "fill" and rows > 2:
                kept = [*range(1), rows - 1, *range(2, rows - 1)]
                columns.keep(kept)
                expected = expected[kept]
            elif kind == "join" and rows < 9:
                other, tensor = Columns(positions=positions), drawn(2, rng.randint(1, 40))
                other.append(tensor)
                columns.join(other)
                expected = naive_join(expected, tensor, padding, positions)
            elif kind == "trim" and width > 3:
                columns.trim(2)
                expected = expected.narrow(positions, 2, width - 2)
            elif kind == "crop" and width > 3:
                columns.crop(width - 1)
                expected = expected.narrow(positions, 0, width - 1)
            assert torch.equal(columns.view, expected)
            assert (columns.n_rows, len(columns)) == (expected.shape[0], expected.shape[positions])
        assert torch.equal(first, untouched), "what was given is not written to"


def test_columns_hold_no_more_than_half_as_much_again() -> None:
    columns = Columns()
    columns.append(torch.zeros(8, 100, 2))
    for _ in range(1000):
        columns.append(torch.zeros(8, 1, 2))
        columns.trim(1)
    assert len(columns) == 100
    assert columns.view.untyped_storage().nbytes() <= 8 * 2 * 4 * (100 + 64 + 1)


def test_gradients_pass_through_columns() -> None:
    columns = Columns()
    parts = [torch.ones(2, n, 3, requires_grad=True) for n in (4, 1, 2)]
    for part in parts:
        columns.append(part)
    columns.view.pow(2).sum().backward()
    assert all(torch.equal(part.grad, 2 * torch.ones_like(part)) for part in parts)  # type: ignore[arg-type]


def test_a_unit_of_work_gives_up_the_model_between(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other threads get their turn after at most 16 rows a slot."""
    model = tiny_model("qwen2", backend="bridge")
    taken: list[int] = []
    slots = loops._slots

    def noted(*args: Any) -> Slots:
        taken.append(1)
        return slots(*args)

    monkeypatch.setattr(loops, "_slots", noted)
    ss.generate(model, QUESTIONS, n=5, batch_size=1, method="hooks", temperature=1, **OPTIONS)
    assert len(taken) == 3


@pytest.mark.parametrize("backend", BACKENDS)
def test_slots_by_memory(loaded: Any, backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as fit if all are as long as they may be; the bytes are those of a filled cache."""
    model = loaded("qwen2", backend)
    job = Job.of(model, Decoding(batch_size="auto", max_new_tokens=20))
    rows = job.rows(QUESTIONS, range(len(QUESTIONS)), [0] * len(QUESTIONS))
    longest = max(len(row.prompt) for row in rows) + 20
    cache = DynamicCache()
    reference_model(model)(torch.arange(100, 100 + 7)[None], past_key_values=cache)
    held = sum(kept.numel() for layer in cache.layers for kept in (layer.keys, layer.values))
    each = slots.GROWTH * longest * held * 4 / 7
    for free, expected in ((0, 1), (3.5 * each, 3), (2**40, len(rows))):
        monkeypatch.setattr(slots, "free_bytes", lambda _, free=free: int(free / slots.SHARE) + 1)
        assert slots.with_slots(job, rows).n_slots == expected
        for known in (model, reference_model(model)):
            assert slots.with_slots(replace(job, model=known), rows).n_slots == expected
    fixed = Job.of(model, Decoding(batch_size=5))
    assert slots.with_slots(fixed, rows) is fixed
    options: dict[str, Any] = {"temperature": 1.0, "n": 2}
    assert decode(model, batch_size="auto", **options) == decode(model, batch_size=3, **options)
