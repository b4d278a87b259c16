"""Threads on one model: turns, refusals, and a model that is afterwards as it was."""

import _thread
import gc
import importlib
import random
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import pytest
import torch
from flows import logits_of, model_of, trace_of
from tiny import BACKENDS, Backend, tiny_model, tiny_transformers
from torch import Tensor, nn
from torch.overrides import _get_current_function_mode_stack

import step_saliency as ss
from step_saliency.models import turns
from step_saliency.models.checks import Probe
from step_saliency.models.interrupts import together
from step_saliency.models.probes import Measurement
from step_saliency.models.turns import turn, turn_of
from step_saliency.models.undisturbed import drops_out, undisturbed

FLOW = ss.StepFlow(
    ss.OddsEqualBridge([0, 1], tau_max=0.5), ss.StepMomentumInjection([2], alpha=0.5)
)
N_THREADS = 8


def jobs_on(model: Any) -> dict[str, Callable[[], Tensor]]:
    """What threads do: each gives the same tensor whenever it has the model to itself."""
    trace = trace_of(model)

    def attached() -> Tensor:
        with torch.no_grad(), FLOW.attached(model, trace=trace):
            return logits_of(model, trace.tokens[None])

    def generation() -> Tensor:
        (written,) = ss.generate(
            model, ["What is 3 + 4?"], flow=FLOW, max_new_tokens=6, seed=1, progress=False
        )
        return written.tokens

    return {
        "hooks": lambda: ss.step_saliency(model, trace, method="hooks").maps,
        "streaming": lambda: ss.step_saliency(model, trace, method="streaming").maps,
        "attached": attached,
        "generation": generation,
    }


def state(model: nn.Module) -> dict[str, Any]:
    """Everything that maps, sessions and decoding may change for a while."""
    inner = getattr(model, "original_model", model)
    parts = {**dict(model.named_modules()), **dict(inner.named_modules(prefix="inside"))}
    return {
        "hooks": {name: [len(vars(part)[kind]) for kind in HOOKS] for name, part in parts.items()},
        "own": {name: sorted(vars(part)) for name, part in parts.items()},
        "training": {name: part.training for name, part in parts.items()},
        "grad": {name: weight.requires_grad for name, weight in model.named_parameters()},
        "weights": {
            name: weight.double().sum().item() for name, weight in model.named_parameters()
        },
        "attention": {
            name: part.config._attn_implementation
            for name, part in parts.items()
            if hasattr(getattr(part, "config", None), "_attn_implementation")
        },
        "random": torch.get_rng_state().tolist(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "points": {
            name: (len(point.fwd_hooks), len(point.bwd_hooks))
            for name, point in getattr(model, "hook_dict", {}).items()
        },
    }


HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def in_threads(work: Callable[[int], None], n: int = N_THREADS) -> list[BaseException]:
    """Run a function in threads that switch often; gives what they raised."""
    errors: list[BaseException] = []

    def run(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert not any(thread.is_alive() for thread in threads)
    return errors


def mixed(model: Any, n_each: int) -> None:
    """Mixed jobs in eight threads give what they give in one, and leave the model as it was."""
    jobs = jobs_on(model)
    expected = {name: job() for name, job in jobs.items()}
    before = state(model)
    different: list[str] = []

    def work(number: int) -> None:
        choices = random.Random(number)
        for _ in range(n_each):
            name = choices.choice(sorted(jobs))
            if not torch.equal(jobs[name](), expected[name]):
                different.append(name)

    assert in_threads(work) == []
    assert different == []
    assert state(model) == before


@pytest.mark.parametrize("backend", BACKENDS)
def test_forty_mixed_jobs_of_eight_threads_equal_those_of_one(backend: Backend) -> None:
    mixed(model_of("qwen2", backend), 5)


@pytest.mark.nightly
@pytest.mark.parametrize("backend", BACKENDS)
def test_two_hundred_mixed_jobs_of_eight_threads_equal_those_of_one(backend: Backend) -> None:
    mixed(model_of("qwen2", backend), 25)


@pytest.mark.parametrize("backend", BACKENDS)
def test_plain_passes_of_other_threads_are_exact_or_refused(backend: Backend) -> None:
    """They wait for maps and decoding, and are refused by edits that are attached."""
    model = model_of("qwen2", backend)
    tokens = trace_of(model).tokens[None]
    jobs = jobs_on(model)
    with torch.no_grad():
        expected = logits_of(model, tokens)
    over = threading.Event()
    counts = {"exact": 0, "refused": 0, "wrong": 0}

    @torch.no_grad()
    def work(number: int) -> None:
        if number == 0:
            try:
                for name in sorted(jobs) * 3:
                    jobs[name]()
            finally:
                over.set()
        while not over.is_set():
            try:
                same = torch.equal(logits_of(model, tokens), expected)
                counts["exact" if same else "wrong"] += 1
            except RuntimeError as error:
                counts["refused" if "wait for your turn" in str(error) else "wrong"] += 1
                time.sleep(0.001)

    assert in_threads(work, 3) == []
    assert counts["wrong"] == 0
    assert counts["exact"] > 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_pass_beside_attached_edits_is_refused_by_name(backend: Backend) -> None:
    model = model_of("qwen2", backend)
    tokens = trace_of(model).tokens[None]
    with FLOW.attached(model):
        (error,) = in_threads(lambda _: logits_of(model, tokens), 1)
    assert isinstance(error, RuntimeError)
    assert "MainThread" in str(error)
    assert in_threads(lambda _: logits_of(model, tokens), 1) == []


@pytest.fixture
def backward_in_another_thread(monkeypatch: pytest.MonkeyPatch) -> list[threading.Thread]:
    """Backward passes run in threads that Python did not start, as on CUDA; these threads."""
    threads: list[threading.Thread] = []

    def elsewhere(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            results: list[Any] = []
            done = threading.Event()

            def work() -> None:
                threads.append(threading.current_thread())
                try:
                    results.append(function(*args, **kwargs))
                except Exception as error:
                    results.append(error)
                done.set()

            _thread.start_new_thread(work, ())
            done.wait()
            if isinstance(results[0], Exception):
                raise results[0]
            return results[0]

        return run

    monkeypatch.setattr(torch.autograd, "grad", elsewhere(torch.autograd.grad))
    monkeypatch.setattr(torch.autograd, "backward", elsewhere(torch.autograd.backward))
    monkeypatch.setattr(Tensor, "backward", elsewhere(Tensor.backward))
    return threads


@pytest.mark.parametrize("backend", BACKENDS)
def test_backward_passes_in_threads_of_autograd_belong_to_who_asked(
    backend: Backend, backward_in_another_thread: list[threading.Thread]
) -> None:
    model = model_of("qwen2", backend)
    trace = trace_of(model)
    report = ss.doctor(model)
    assert report, report.to_frame()
    for method in ("hooks", "streaming"):
        maps = ss.step_saliency(model, trace, method=method).maps
        assert maps.isfinite().all()
    assert any(thread.name.startswith("Dummy") for thread in backward_in_another_thread)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_pass_of_a_foreign_thread_is_refused(backend: Backend) -> None:
    """A thread that Python did not start has no rights outside of a backward pass."""
    model = model_of("qwen2", backend)
    tokens = trace_of(model).tokens[None]
    results: list[Any] = []
    done = threading.Event()

    def work() -> None:
        try:
            results.append(logits_of(model, tokens))
        except RuntimeError as error:
            results.append(error)
        done.set()

    with FLOW.attached(model):
        _thread.start_new_thread(work, ())
        done.wait(30)
    assert isinstance(results[0], RuntimeError)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_pass_beside_a_map_waits(backend: Backend) -> None:
    """The objective of the map starts another thread's pass; it is not through before the map."""
    model = model_of("qwen2", backend)
    trace = trace_of(model)
    with torch.no_grad():
        expected = logits_of(model, trace.tokens[None])
    results: list[Tensor] = []

    @torch.no_grad()
    def work() -> None:
        results.append(logits_of(model, trace.tokens[None]))

    thread = threading.Thread(target=work)

    def objective(logits: Tensor, tokens: Tensor) -> Tensor:
        thread.start()
        time.sleep(0.2)
        assert not results
        return logits.logsumexp(-1).sum()

    ss.step_saliency(model, trace, objective=objective, method="hooks")
    thread.join(30)
    assert torch.equal(results[0], expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_thread_may_nest(backend: Backend) -> None:
    """Maps, decoding and further edits inside of attached edits, as in a notebook."""
    model = model_of("qwen2", backend)
    trace = trace_of(model)
    plain = ss.step_saliency(model, trace, method="hooks").maps
    before = state(model)
    with FLOW.attached(model, trace=trace):
        edited = ss.step_saliency(model, trace, method="hooks").maps
        with ss.OddsEqualBridge([2], tau_max=0.6).attached(model, trace=trace):
            twice = ss.step_saliency(model, trace, method="hooks").maps
    assert not torch.equal(edited, plain)
    assert not torch.equal(twice, edited)
    with FLOW.attached(model):
        assert ss.generate(model, ["3 + 4?"], max_new_tokens=3, method="hooks", progress=False)
    assert state(model) == before
    assert turn_of(model).holder is None


def test_a_turn_inside_of_another_looks_for_no_entries_anew(monkeypatch) -> None:
    searched = []
    search = turns.entries
    monkeypatch.setattr(turns, "entries", lambda model: searched.append(model) or search(model))
    model = tiny_model("qwen2", n_layers=1)
    with turn(model, alone="waits"), turn(model, alone="refuses"), turn(model, alone="waits"):
        (guard,) = turn_of(model).guards.values()
        assert (guard.uses, guard.alone) == (3, "waits")
    assert searched == [model]
    assert not turn_of(model).guards


def test_edits_left_in_another_order_or_thread_leave_nothing() -> None:
    model = tiny_model("qwen2")
    with FLOW.attached(model):
        pass  # what a bridge keeps of itself from the first time on
    before = state(model)
    first, second = FLOW.attached(model), ss.OddsEqualBridge([0]).attached(model)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert in_threads(lambda _: second.__exit__(None, None, None), 1) == []
    assert state(model) == before
    assert turn_of(model).holder is None


def test_a_thread_that_takes_turn_after_turn_keeps_none_out() -> None:
    model = tiny_model("llama")
    has_begun, has_had_its_turn = threading.Event(), threading.Event()
    taken = 0

    def take_turns() -> None:
        nonlocal taken
        while taken < 3000 and not has_had_its_turn.is_set():
            with turn(model):
                taken += 1
                has_begun.set()
                time.sleep(0.001)

    greedy = threading.Thread(target=take_turns)
    greedy.start()
    has_begun.wait()
    with turn(model):
        at_ours = taken
        has_had_its_turn.set()
    greedy.join()
    assert at_ours < 3000
    assert not turn_of(model)._waiting


def test_who_is_broken_off_while_it_waits_keeps_no_place() -> None:
    model = tiny_model("llama")
    outcome: list[str] = []

    def wait_and_give_up() -> None:
        try:
            with turn(model):
                outcome.append("had its turn")
        except ZeroDivisionError:
            outcome.append("gave up")

    with turn(model), pytest.MonkeyPatch.context() as patch:
        patch.setattr("step_saliency.models.turns.wait", lambda: 1 / 0)
        waiting = threading.Thread(target=wait_and_give_up)
        waiting.start()
        waiting.join()
    assert outcome == ["gave up"]
    with turn(model):
        assert turn_of(model).holder is threading.current_thread()


def test_a_thread_that_ended_with_edits_attached_is_named() -> None:
    model = tiny_model("qwen2")
    sessions: list[Any] = []

    def work(_: int) -> None:
        sessions.append(FLOW.attached(model))
        sessions[0].__enter__()

    assert in_threads(work, 1) == []
    with pytest.raises(RuntimeError, match="ended while edits"):
        ss.step_saliency(model, trace_of(model))
    sessions[0].__exit__(None, None, None)
    ss.step_saliency(model, trace_of(model))


@pytest.mark.skipif("bridge" not in BACKENDS, reason="needs a bridge")
def test_a_bridge_and_the_model_inside_have_one_turn() -> None:
    model = tiny_model("qwen2", backend="bridge")
    assert turn_of(model) is turn_of(model.original_model)
    assert turn_of(model) is not turn_of(tiny_model("qwen2", backend="bridge"))


def test_turns_do_not_keep_models() -> None:
    model = tiny_transformers("qwen2")
    alive = weakref.ref(model)
    with turn(model, alone="waits"):
        pass
    del model
    gc.collect()
    assert alive() is None


class Broken(BaseException):
    """Neither an Exception nor anything that somebody catches."""


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, Broken])
@pytest.mark.parametrize("method", ["hooks", "streaming"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_errors_in_a_map_leave_the_model_as_it_was(
    backend: Backend, method: Any, error: type[BaseException]
) -> None:
    model = model_of("qwen2", backend)
    trace = trace_of(model)
    expected = ss.step_saliency(model, trace, method=method).maps
    before = state(model)
    for name in ("blocks.0.hook_resid_pre", "blocks.2.hook_resid_post", "blocks.1.attn.hook_v"):
        with pytest.raises(error), model.hooks(fwd_hooks=[(name, raising(error))]):
            ss.step_saliency(model, trace, method=method)
        assert state(model) == before
    assert turn_of(model).holder is None
    assert torch.equal(ss.step_saliency(model, trace, method=method).maps, expected)


@pytest.mark.parametrize("error", [KeyboardInterrupt, Broken])
@pytest.mark.parametrize("backend", BACKENDS)
def test_errors_in_decoding_leave_the_model_as_it_was(
    backend: Backend, error: type[BaseException]
) -> None:
    model = model_of("qwen2", backend)
    jobs = jobs_on(model)
    jobs["generation"]()
    before = state(model)
    with (
        pytest.raises(error),
        model.hooks(fwd_hooks=[("blocks.1.hook_resid_post", raising(error, after=9))]),
    ):
        ss.generate(model, ["3 + 4?"], flow=FLOW, method="hooks", progress=False)
    assert state(model) == before
    assert turn_of(model).holder is None


@pytest.fixture
def heard() -> Iterator[None]:
    """Interrupts are Python's to raise, also where a shell started the tests with them ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize("every", [20, pytest.param(1, marks=pytest.mark.nightly)])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["hooks", "streaming", "attached", "generation"])
def test_interrupts_where_changes_begin_and_end_leave_the_model_as_it_was(
    kind: str, backend: Backend, every: int
) -> None:
    """Interrupt a job in the first line of functions that make, or take back, a change."""
    model = model_of("qwen2", backend)
    job = jobs_on(model)[kind]
    expected = job()
    before = state(model)
    calls = interrupted(job)
    assert len(calls) > 100
    for call in calls[::every]:
        with pytest.raises(KeyboardInterrupt):
            interrupted(job, at=call)
        assert state(model) == before, call
        assert turn_of(model).holder is None
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, call
        assert not _get_current_function_mode_stack(), call
    assert torch.equal(job(), expected)


CHANGING = ("contextlib.py", "interrupts.py", "turns.py", "hooking.py", "session.py", "attach.py")
Call = tuple[tuple[str, int], ...]


def interrupted(job: Callable[[], Any], *, at: Call | None = None) -> list[Call]:
    """Run a job with an interrupt where a function of certain files begins for the first time.

    Args:
        job: The job.
        at: Which function, called from where.

    Returns:
        What could be interrupted, each once.
    """
    calls: dict[Call, None] = {}

    def trace(frame: Any, event: str, _argument: Any) -> None:
        if event == "call" and frame.f_code.co_filename.endswith(CHANGING):
            call = tuple(islice(callers(frame), 4))
            if call == at and call not in calls:
                sys.settrace(None)
                signal.raise_signal(signal.SIGINT)
            calls[call] = None

    sys.settrace(trace)
    try:
        job()
    finally:
        sys.settrace(None)
    return list(calls)


def callers(frame: Any) -> Iterator[tuple[str, int]]:
    """A function, whoever called it, and so on up to the job: each one's name and line."""
    while frame.f_code is not interrupted.__code__:
        yield frame.f_code.co_qualname, frame.f_lineno
        frame = frame.f_back


def raising(error: type[BaseException], *, after: int = 0) -> Callable[..., None]:
    """A hook that raises when it has been called some times."""
    calls = iter(range(after))

    def hook(activation: Tensor, hook: Any) -> None:
        if next(calls, None) is None:
            raise error("on purpose")

    return hook


@pytest.mark.usefixtures("heard")
def test_contexts_are_entered_and_left_as_one() -> None:
    """An interrupt meanwhile comes when all are entered, or all are left."""
    entered: list[int] = []

    @contextmanager
    def counting(number: int) -> Iterator[None]:
        if number == 1:
            _thread.interrupt_main()
            time.sleep(0.05)  # beside other threads the interpreter can be late to see it
        entered.append(number)
        yield
        entered.remove(number)

    with pytest.raises(KeyboardInterrupt), together(counting(0), counting(1), counting(2)):
        raise AssertionError("the body does not run")
    assert entered == []


def with_dropout(backend: Backend) -> Any:
    """A model in train mode that drops out the outputs of a block."""
    model = tiny_model("qwen2", backend=backend)
    block = model.blocks[1]
    block.dropout = nn.Dropout(0.5)
    block.register_forward_hook(
        lambda block, _args, out: (
            (block.dropout(out[0]), *out[1:]) if isinstance(out, tuple) else block.dropout(out)
        )
    )
    return model


@pytest.mark.parametrize("kind", ["hooks", "streaming", "attached", "generation"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_dropout_is_off_inside_and_a_warning_says_so(kind: str, backend: Backend) -> None:
    model = with_dropout(backend)
    model.eval()
    job = jobs_on(model)[kind]
    expected = job()
    model.train()
    before = state(model)
    with pytest.warns(UserWarning, match="dropout") as warned:
        result = job()
    assert sum("dropout" in str(warning.message) for warning in warned) == 1
    assert torch.equal(result, expected)
    assert state(model) == before


@pytest.mark.parametrize("kind", ["hooks", "streaming", "attached", "generation"])
def test_dropout_of_the_model_inside_a_bridge_is_off(kind: str) -> None:
    """GPT-2's dropout after the embedding is no part of the bridge."""
    model = tiny_model("gpt2-like", backend="bridge")
    job = jobs_on(model)[kind]
    expected = job()
    model.train()
    before = state(model)
    assert before["training"]["inside.transformer.drop"]
    with pytest.warns(UserWarning, match="train mode with dropout"):
        result = job()
    assert torch.equal(result, expected)
    assert state(model) == before


@pytest.mark.parametrize("kind", ["hooks", "streaming", "attached", "generation"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast_is_off_inside_and_a_warning_says_so(kind: str, backend: Backend) -> None:
    model = model_of("qwen2", backend)
    job = jobs_on(model)[kind]
    expected = job()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        before = state(model)
        with pytest.warns(UserWarning, match="autocast") as warned:
            result = job()
        assert state(model) == before
    assert sum("autocast" in str(warning.message) for warning in warned) == 1
    assert torch.equal(result, expected)


def test_what_drops_out() -> None:
    model = tiny_transformers("qwen2")
    assert not drops_out(model.train())
    model.model.layers[0].self_attn.attention_dropout = 0.1
    assert drops_out(model)
    with undisturbed(model, warn=False):
        assert not drops_out(model)
    assert drops_out(model)


def test_dropout_after_the_embedding_of_a_bridge_drops_out() -> None:
    model = tiny_model("gpt2-like", backend="bridge").train()
    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    assert drops_out(model)


@pytest.mark.parametrize("backend", BACKENDS)
def test_decoding_with_a_flow_refuses_a_model_whose_cache_is_wrong(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    doctor = importlib.import_module("step_saliency.models.doctor")

    def wrong(examination: Any) -> Measurement:
        return Measurement(1.0, 0.1, False, "a cache that places tokens wrongly")

    probes = {**doctor.PROBES, "cached_decoding": Probe(wrong, "generation", "")}
    monkeypatch.setattr(doctor, "PROBES", probes)
    model = tiny_model("qwen2", backend=backend)
    with pytest.raises(ValueError, match="cached_decoding"):
        ss.generate(model, ["3 + 4?"], flow=FLOW, method="hooks", max_new_tokens=2, progress=False)
