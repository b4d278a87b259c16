"""Decoding: batches, seeds, caches and stops."""

import subprocess
import sys
from typing import Any

import pytest
import torch
from flows import state_of
from tiny import BACKENDS, tiny_model

import step_saliency as ss
from step_saliency.decoding.job import Job
from step_saliency.decoding.sampling import Sampler
from step_saliency.segment.pieces import TokenPieces, TokenTable

QUESTIONS = ["What is 3 and 4?", "First, let me think about the number of apples.", "a b c"]
OPTIONS: dict[str, Any] = {"max_new_tokens": 12, "progress": False, "format": "plain"}


def responses(traces: list[ss.Trace]) -> list[list[int]]:
    return [trace.tokens.tolist() for trace in traces]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("arch", ["qwen2", "gpt2-like", "gemma2"])
def test_greedy_decoding_is_the_argmax_of_the_full_pass(arch: str, backend: str) -> None:
    model = tiny_model(arch, backend=backend)
    for trace in ss.generate(model, QUESTIONS, temperature=0, **OPTIONS):
        batch = trace.tokens.unsqueeze(0)
        logits = model(batch, return_type="logits", attention_mask=torch.ones_like(batch))[0]
        start = len(trace.tokens) - trace.meta["response_tokens"]
        assert torch.equal(logits[start - 1 : -1].argmax(-1), trace.tokens[start:])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_alone_equals_in_a_padded_batch(backend: str, temperature: float) -> None:
    """Rows of different lengths leave the batch at different times."""
    model = tiny_model("qwen2", backend=backend)
    options = {**OPTIONS, "temperature": temperature, "n": 3, "stop_tokens": range(100, 140)}
    together = ss.generate(model, QUESTIONS, batch_size=9, **options)
    alone = ss.generate(model, QUESTIONS, batch_size=1, **options)
    assert responses(together) == responses(alone)
    lengths = {trace.meta["response_tokens"] for trace in together}
    assert len(lengths) > 1, "rows of one length would not test leaving the batch"


def test_part_of_a_list_is_answered_as_the_whole_would_be() -> None:
    model = tiny_model("qwen2")
    whole = ss.generate(model, QUESTIONS, n=2, temperature=1, seed=5, **OPTIONS)
    part = ss.generate(
        model, QUESTIONS[2:], n=2, temperature=1, seed=5, question_numbers=[2], **OPTIONS
    )
    assert responses(part) == responses(whole)[4:]
    assert [trace.meta["question_index"] for trace in part] == [2, 2]


def test_seeds_tell_samples_apart_and_repeat() -> None:
    model = tiny_model("qwen2")
    first = ss.generate(model, QUESTIONS[0], n=4, temperature=1, seed=1, **OPTIONS)
    state = torch.random.get_rng_state()
    again = ss.generate(model, QUESTIONS[0], n=4, temperature=1, seed=1, **OPTIONS)
    other = ss.generate(model, QUESTIONS[0], n=4, temperature=1, seed=2, **OPTIONS)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert responses(first) == responses(again)
    assert responses(first) != responses(other)
    assert len({tuple(row) for row in responses(first)}) > 1


@pytest.mark.nightly
def test_sampling_follows_the_distribution() -> None:
    """Frequencies of the first token over many samples against the softmax, and top_k, top_p."""
    model = tiny_model("qwen2")
    options = {"max_new_tokens": 1, "progress": False, "format": "plain", "batch_size": 500}
    traces = ss.generate(model, QUESTIONS[2], n=2000, temperature=0.5, **options)
    prompt = traces[0].tokens[:-1]
    logits = model(prompt.unsqueeze(0), return_type="logits")[0, -1].double()
    probabilities = (logits / 0.5).softmax(-1)
    drawn = torch.tensor([trace.tokens[-1] for trace in traces])
    found = torch.bincount(drawn, minlength=len(probabilities)) / len(traces)
    spread = (probabilities * (1 - probabilities) / len(traces)).sqrt()
    assert ((found - probabilities).abs() < 5 * spread + 1e-3).all()
    best = probabilities.sort(descending=True).indices
    few = ss.generate(model, QUESTIONS[2], n=200, temperature=1, top_k=3, **options)
    assert {int(trace.tokens[-1]) for trace in few} == set(best[:3].tolist())
    one = ss.generate(model, QUESTIONS[2], n=50, temperature=1, top_p=1e-6, **options)
    assert {int(trace.tokens[-1]) for trace in one} == {int(best[0])}


def test_top_k_breaks_ties_as_greedy_decoding_does() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0, 2.0, 2.0, 1.0]]).repeat(50, 1)
    uniforms = torch.linspace(0, 0.99, 50).tolist()
    for k, expected in {1: {1}, 2: {1, 3}, 4: {1, 2, 3, 4}}.items():
        assert set(Sampler(1.0, top_k=k)(logits, uniforms).tolist()) == expected
    assert set(Sampler(0.0)(logits, ()).tolist()) == {1}


def test_top_p_takes_the_first_of_equal_tokens() -> None:
    """Many of them: sorting that is not stable leaves their order open from some number on."""
    logits = torch.zeros(400, 4000)
    drawn = Sampler(1.0, top_p=0.01)(logits, torch.linspace(0, 0.999, 400).tolist())
    assert set(drawn.tolist()) == set(range(40))


@pytest.mark.parametrize("backend", BACKENDS)
def test_hooks_and_interventions_are_in_force(backend: str) -> None:
    model = tiny_model("qwen2", backend=backend)
    name = "blocks.2.hook_resid_post"

    def turn_round(resid: torch.Tensor, hook: Any) -> torch.Tensor:
        return -resid

    class Flow:
        def attached(self, model: Any) -> Any:
            return model.hooks(fwd_hooks=[(name, turn_round)])

    plain = ss.generate(model, QUESTIONS, temperature=0, **OPTIONS)
    with model.hooks(fwd_hooks=[(name, turn_round)]):
        hooked = ss.generate(model, QUESTIONS, temperature=0, **OPTIONS)
    flow = ss.generate(model, QUESTIONS, temperature=0, flow=Flow(), **OPTIONS)
    assert responses(hooked) == responses(flow) != responses(plain)
    assert responses(ss.generate(model, QUESTIONS, temperature=0, **OPTIONS)) == responses(plain)


def test_samples_that_are_asked_for_apart() -> None:
    """Each has the text that it has in one call, whatever is asked for beside it."""
    model = tiny_model("qwen2")
    options = {**OPTIONS, "temperature": 1.0, "seed": 3}
    whole = {
        (trace.meta["question_index"], trace.meta["sample"]): trace.response
        for trace in ss.generate(model, QUESTIONS[:2], n=3, **options)
    }
    asked = [(1, 2), (0, 0), (1, 0), (0, 2)]
    apart = ss.generate(
        model,
        [QUESTIONS[number] for number, _ in asked],
        question_numbers=[number for number, _ in asked],
        samples=[sample for _, sample in asked],
        **options,
    )
    assert [trace.response for trace in apart] == [whole[key] for key in asked]
    assert [trace.meta["sample"] for trace in apart] == [2, 0, 0, 2]
    assert len({whole[1, sample] for sample in range(3)}) > 1


def test_stops() -> None:
    model = tiny_model("qwen2", n_ctx=24)
    (trace,) = ss.generate(model, "a b c d", temperature=0, **{**OPTIONS, "max_new_tokens": 500})
    assert len(trace.tokens) == 24
    assert trace.meta["finished"] is False
    first = int(trace.tokens[-trace.meta["response_tokens"]])
    (stopped,) = ss.generate(model, "a b c d", temperature=0, stop_tokens=[first], **OPTIONS)
    assert stopped.meta["finished"] is True
    assert stopped.meta["response_tokens"] == 1


@pytest.mark.parametrize("method", ["hooks", "fast"])
def test_stop_texts(method: Any) -> None:
    """A response ends with the token that completes the text, though it spans several tokens."""
    model = tiny_model("qwen2", backend="bridge")
    options = {**OPTIONS, "max_new_tokens": 40, "temperature": 1.0, "method": method, "n": 4}
    options["stop_tokens"] = []
    free = ss.generate(model, QUESTIONS, **options)
    table = TokenTable(model.tokenizer)
    pieces = [TokenPieces(table).pieces(response_of(trace)) for trace in free]
    text = "".join(pieces[0][7:12])[-4:]
    stopped = ss.generate(model, QUESTIONS, stop_texts=["never", text], **options)
    ended = 0
    for before, after, parts in zip(free, stopped, pieces, strict=True):
        reached = ["".join(parts[: i + 1]) for i in range(len(parts))]
        stop = next((i + 1 for i, so_far in enumerate(reached) if text in so_far), len(parts))
        assert response_of(after) == response_of(before)[:stop]
        assert after.meta["finished"] == (text in reached[-1])
        ended += after.meta["finished"]
    assert ended > 0
    assert stopped[0].meta["response_tokens"] <= 12


def response_of(trace: ss.Trace) -> list[int]:
    return trace.tokens.tolist()[-trace.meta["response_tokens"] :]


@pytest.mark.parametrize("method", ["hooks", "fast"])
def test_both_loops_stop_and_repeat_alike(method: Any) -> None:
    """Contexts that run full at different times, beside rows that go on."""
    model = tiny_model("gpt2-like", backend="bridge", n_ctx=40)
    options = {**OPTIONS, "max_new_tokens": 500, "temperature": 1.0, "stop_tokens": [60, 61, 62]}
    reference = ss.generate(model, QUESTIONS, method="hooks", batch_size=1, **options)
    traces = ss.generate(model, QUESTIONS, method=method, batch_size=3, **options)
    assert responses(traces) == responses(reference)
    for trace in traces:
        assert (len(trace.tokens) == 40) != trace.meta["finished"]


def test_a_failure_on_the_way_takes_the_edits_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while the exception is looked at: nothing waits for the garbage collector."""
    model = tiny_model("qwen2", backend="bridge")

    def full_disk(*_: Any) -> None:
        raise OSError("no space left")

    options: dict[str, Any] = {**OPTIONS, "flow": ss.StepFlow.for_model(model)}
    for method in ("hooks", "fast"):
        ss.generate(model, QUESTIONS, method=method, **options)  # makes some attributes
        before = state_of(model)
        monkeypatch.setattr(Job, "trace", full_disk)
        with pytest.raises(OSError, match="no space left") as failure:
            ss.generate(model, QUESTIONS, method=method, **options)
        assert state_of(model) == before
        assert failure.traceback, "it holds the frames of the call"
        monkeypatch.undo()


def test_decoding_loads_no_maps() -> None:
    rooms = ("saliency", "diagnosis", "plotting", "calibration", "report", "runs")
    code = (
        "import sys, step_saliency.decoding.generate\n"
        f"rooms = tuple('step_saliency.' + room for room in {rooms})\n"
        "print([name for name in sys.modules if name.startswith(rooms) or name == 'matplotlib'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("questions", "options", "match"),
    [
        ([], {}, "is empty"),
        (["  "], {}, "is no question"),
        ([3], {}, "is no question"),
        (["q"], {"n": 0}, "n=0"),
        (["q"], {"temperature": -1}, "temperature=-1"),
        (["q"], {"top_p": 0}, "top_p=0"),
        (["q"], {"top_k": 0}, "top_k=0"),
        (["q"], {"question_numbers": [1, 2]}, "2 question_numbers for 1"),
        (["q", "r"], {"question_numbers": [1, 1]}, "one of its own"),
        (["q", "r"], {"question_numbers": [1, 1], "samples": [0, 1], "n": 2}, "sample of its own"),
        (["q"], {"samples": [0, 1]}, "2 samples for 1"),
        (["q"], {"samples": [-1]}, "0 or above"),
        (["q"], {"stop_texts": [""]}, "has an empty text"),
        (["q"], {"format": "foo"}, "unknown format 'foo'"),
        (["q"], {"splitter": "foo"}, "unknown splitter 'foo'"),
        (["q"], {"seed": -1}, "seed=-1 is below 0"),
        (["q"], {"method": "slow"}, "method='slow' is unknown"),
        (["word " * 600], {}, "leaves no room"),
    ],
)
def test_bad_options(questions: list[Any], options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        ss.generate(tiny_model("qwen2"), questions, **{**OPTIONS, **options})
