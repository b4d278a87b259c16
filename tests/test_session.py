"""Attachment: what the hooks touch, how steps are read from tokens, caches, batches, errors."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from flows import (
    ARCHS,
    QUESTION,
    RESPONSES,
    assert_same_logits,
    forced,
    kept,
    left_padded,
    logits_of,
    model_of,
    random_trace,
    state_of,
    trace_of,
)
from test_doctor import DeafHookPoint, hook_point
from tiny import BACKENDS, Arch, Backend, tiny_model, tiny_tokenizer

import step_saliency as ss
from step_saliency.decoding.hooked import cached_reader
from step_saliency.intervene import EditContext, Session, StepLabels
from step_saliency.intervene.expected import ExpectedRows
from step_saliency.intervene.stream import StepStream
from step_saliency.models.hooking import added_hooks
from step_saliency.segment.frame import ChatFrame, PromptReader

FLOW = ss.StepFlow(
    ss.OddsEqualBridge([0, 1], tau_max=0.5), ss.StepMomentumInjection([2], alpha=0.5)
)
FLOWS: dict[str, ss.EditGroup] = {
    "value": FLOW,
    "residual of values": ss.StepFlow(
        ss.OddsEqualBridge([1], tau_max=0.6, current="step", bridge="thinking"),
        ss.StepMomentumInjection([0, 2], alpha=0.5, space="residual", window=3),
    ),
    "residual": ss.StepFlow(
        ss.OddsEqualBridge([0, 2], tau_max=0.4, heads={0: [1, 3], 2: [0]}),
        ss.StepMomentumInjection([1, 2], alpha=0.3, space="residual", source="resid_post"),
    ),
    "placebos": ss.StepFlow(
        ss.OddsEqualBridge([0, 1], tau_max=0.5, bridge="random"),
        ss.StepMomentumInjection([1, 2], alpha=0.5, momentum="random", boundaries="random"),
    ),
    "smooth": ss.StepFlow(ss.OddsEqualBridge([0, 1], tau_max=0.5, placebo="smooth")),
}


def same_labels(found: StepLabels | None, trace: ss.Trace) -> None:
    assert found is not None
    for ours, theirs in zip(found.tensors, StepLabels.from_traces([trace]).tensors, strict=True):
        assert torch.equal(ours, theirs)


@torch.no_grad()
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("arch", ARCHS)
def test_bites_where_it_should_and_nowhere_else(arch: Arch, backend: Backend) -> None:
    """The bridge in layer 1 changes its rows of thinking and summary, and what is made of them."""
    model = model_of(arch, backend)
    trace = trace_of(model)
    tokens = trace.tokens[None]
    points = ("attn.hook_attn_scores", "attn.hook_pattern", "attn.hook_z", "hook_resid_post")
    with kept(model, *points, layers=range(3)) as clean:
        logits = logits_of(model, tokens)
    before = state_of(model)
    flow = ss.OddsEqualBridge([1], tau_max=0.6, heads=[1, 2])
    with flow.attached(model) as session, kept(model, *points, layers=range(3)) as edited:
        found = logits_of(model, tokens)
    assert state_of(model) == before
    assert torch.equal(logits_of(model, tokens), logits)
    same_labels(session.labels, trace)

    for point in points:
        assert torch.equal(edited[f"blocks.0.{point}"], clean[f"blocks.0.{point}"])
    pattern = "blocks.1.attn.hook_pattern"
    moved = (edited[pattern] != clean[pattern]).any(-1)[0]
    assert not moved[[0, 3]].any(), "other heads"
    first = next(step.start for step in trace.steps if step.region is ss.Region.THINKING)
    assert not moved[:, :first].any(), "question and template"
    assert moved[1:3, first:].sum() > 10
    frame = session.effects.to_frame()
    assert frame.rows_shifted.tolist() == [0, *moved[1:3].sum(-1).tolist(), 0]
    rows = moved.any(0)
    resid = "blocks.1.hook_resid_post"
    assert torch.equal((edited[resid] != clean[resid]).any(-1)[0], rows)
    later = (edited["blocks.2.hook_resid_post"] != clean["blocks.2.hook_resid_post"]).any(-1)[0]
    assert later[rows].all()
    assert not later[:first].any()
    assert torch.equal(found[:, :first], logits[:, :first])
    assert (found[0, rows] != logits[0, rows]).any(-1).all()


@torch.no_grad()
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("arch", ARCHS)
def test_momentum_bites_at_first_tokens_only(arch: Arch, backend: Backend) -> None:
    model = model_of(arch, backend)
    trace = trace_of(model)
    tokens = trace.tokens[None]
    starts = [s.start for s in trace.steps if s.region in ("thinking", "summary")]
    points = ("attn.hook_pattern", "attn.hook_z", "hook_resid_post")
    for options in ({}, {"space": "residual"}, {"space": "residual", "source": "resid_post"}):
        flow = ss.StepMomentumInjection([1], alpha=0.5, **options)
        with kept(model, *points, layers=range(3)) as clean:
            logits_of(model, tokens)
        with flow.attached(model), kept(model, *points, layers=range(3)) as edited:
            logits_of(model, tokens)
        moved = {name: (edited[name] != clean[name]).flatten(2).any(-1)[0] for name in clean}
        for point in points:
            assert not moved[f"blocks.0.{point}"].any()
        wanted = starts if not options else []
        assert moved["blocks.1.attn.hook_z"].nonzero().flatten().tolist() == wanted
        assert moved["blocks.1.hook_resid_post"].nonzero().flatten().tolist() == starts
        assert not moved["blocks.2.hook_resid_post"][: starts[0]].any()
        assert moved["blocks.2.hook_resid_post"][starts].all()


@torch.no_grad()
@pytest.mark.parametrize("backend", BACKENDS)
def test_strength_zero_is_equal_to_the_bit(backend: Backend) -> None:
    model = model_of("qwen2", backend)
    tokens = trace_of(model).tokens[None]
    logits = logits_of(model, tokens)
    zero = ss.StepFlow(
        ss.OddsEqualBridge([0, 1], tau_max=0), ss.StepMomentumInjection([1, 2], alpha=0)
    )
    with zero.attached(model):
        assert torch.equal(logits_of(model, tokens), logits)


@torch.no_grad()
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", FLOWS)
@pytest.mark.parametrize("arch", ["qwen2", "gpt_oss"])
def test_cached_equals_full_and_batch_equals_single(
    arch: Arch, name: str, backend: Backend
) -> None:
    """Rows of different lengths, which are in different regions at the same time."""
    model = model_of(arch, backend)
    traces = [trace_of(model, response) for response in RESPONSES]
    flow = FLOWS[name]
    alone = []
    for trace in traces:
        with flow.attached(model) as session:
            alone.append(logits_of(model, trace.tokens[None])[0])
        same_labels(session.labels, trace)
    trace = traces[0]
    n_first = next(s.start for s in trace.steps if s.region is ss.Region.THINKING) - 1
    with flow.attached(model) as session:
        cached = forced(model, trace.tokens[None], torch.ones_like(trace.tokens[None]), n_first)[0]
    same_labels(session.labels, trace)
    assert_same_logits(cached, alone[0])
    tokens, mask = left_padded([trace.tokens for trace in traces])
    with flow.attached(model) as session:
        together = logits_of(model, tokens, mask)
    for row, (trace, expected) in enumerate(zip(traces, alone, strict=True)):
        found = together[row, -len(trace) :]
        assert_same_logits(found, expected)
    padded = StepLabels.from_traces(traces)
    assert session.labels is not None
    assert torch.equal(session.labels.step, padded.step)


@torch.no_grad()
@pytest.mark.skipif("hooked" not in BACKENDS, reason="bridges have softmax and norms in float32")
@pytest.mark.parametrize("name", FLOWS)
@pytest.mark.parametrize("arch", ["qwen2", "gpt_oss"])
def test_cached_equals_full_to_the_precision_of_float64(arch: Arch, name: str) -> None:
    model = model_of(arch, "hooked", dtype=torch.float64)
    tokens = trace_of(model).tokens[None]
    with FLOWS[name].attached(model):
        full = logits_of(model, tokens)
        cached = forced(model, tokens, torch.ones_like(tokens), 12)
    torch.testing.assert_close(cached, full, rtol=0, atol=1e-9)


@torch.no_grad()
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("arch", ["llama", "qwen3", "gemma3"])
def test_cached_equals_full_on_other_models(arch: Arch, backend: Backend) -> None:
    model = model_of(arch, backend)
    traces = [trace_of(model, response) for response in RESPONSES[:2]]
    tokens, mask = left_padded([trace.tokens for trace in traces])
    for name in ("value", "residual"):
        with FLOWS[name].attached(model, traces=traces):
            full = logits_of(model, tokens, mask)
        with FLOWS[name].attached(model, traces=traces):
            cached = forced(model, tokens, mask, 10, chunk=3)
        real = mask.bool()
        assert_same_logits(cached[real], full[real])


@torch.no_grad()
@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_that_leave_the_batch(backend: Backend) -> None:
    model = model_of("qwen2", backend)
    traces = [trace_of(model, response) for response in RESPONSES]
    length = min(map(len, traces))
    n_first = 12
    tokens = torch.stack([trace.tokens[:length] for trace in traces])
    for flow in FLOWS.values():
        with flow.attached(model, n_prompt=n_first) as session:
            cached = cached_reader(model, 3)
            cached.read(tokens[:, :n_first])
            cached.read(tokens[:, n_first : n_first + 3])
            rows = torch.tensor([2, 0])
            cached.keep(rows)
            session.keep(rows)
            found = cached.read(tokens[rows, n_first + 3 :])
        with flow.attached(model, n_prompt=n_first):
            full = logits_of(model, tokens)
        assert_same_logits(found, full[rows, n_first + 3 :])
        with flow.attached(model, n_prompt=n_first) as session:
            cached = cached_reader(model, 3)
            cached.read(tokens[:, :n_first])
            cached.keep(rows)
            with pytest.raises(ValueError, match=r"session\.keep"):
                cached.read(tokens[rows, n_first:])


@torch.no_grad()
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_prompt_that_never_came_is_said(backend: Backend) -> None:
    model = model_of("qwen2", backend)
    tokens = trace_of(model).tokens[None]
    with (
        pytest.warns(UserWarning, match="fewer tokens were read than n_prompt says"),
        FLOW.attached(model, n_prompt=tokens.shape[1] + 1),
    ):
        model(tokens)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        with FLOW.attached(model, n_prompt=tokens.shape[1] - 1):
            model(tokens)


@torch.no_grad()
@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("arch", ["qwen2", "gemma3"])
def test_transformer_lens_own_generate(arch: Arch, backend: Backend, cached: bool) -> None:
    """What it writes is the argmax of a full pass; without a chat template's frame, too."""
    model = model_of(arch, backend)
    asked = trace_of(model)
    n_framed = next(s.start for s in asked.steps if s.region is ss.Region.THINKING) - 1
    free = torch.randint(11, 300, (1, 9), generator=torch.Generator().manual_seed(0))
    options = {"do_sample": False, "stop_at_eos": False, "verbose": False}
    for prompt in (asked.tokens[None, :n_framed], free):
        n_prompt = prompt.shape[1]
        plain = model.generate(prompt, max_new_tokens=12, use_past_kv_cache=cached, **options)
        with FLOW.attached(model, n_prompt=n_prompt) as session:
            written = model.generate(prompt, max_new_tokens=12, use_past_kv_cache=cached, **options)
        assert session.effects.to_frame().rows_shifted.sum() > 0
        with FLOW.attached(model, n_prompt=n_prompt):
            full = logits_of(model, written)[0]
        assert torch.equal(full[n_prompt - 1 : -1].argmax(-1), written[0, n_prompt:])
        with FLOW.attached(model):
            unaided = model.generate(prompt, max_new_tokens=12, use_past_kv_cache=cached, **options)
        assert torch.equal(unaided, written)
        assert not torch.equal(plain, written), "the flow does something"


@torch.no_grad()
@pytest.mark.parametrize("backend", BACKENDS)
def test_our_own_generate(backend: Backend) -> None:
    """Rows that end at different times, each equal to a full pass over its trace."""
    model = model_of("qwen2", backend)
    questions = [QUESTION, "First, let me think about the number of apples.", "a b c"]
    options: dict[str, Any] = {
        "temperature": 0,
        "max_new_tokens": 24,
        "progress": False,
        "method": "hooks",
        "format": "think",
        "stop_tokens": range(100, 120),
    }
    traces = ss.generate(model, questions, flow=FLOW, **options)
    assert len({trace.meta["response_tokens"] for trace in traces}) > 1
    plain = ss.generate(model, questions, **options)
    assert [t.tokens.tolist() for t in traces] != [t.tokens.tolist() for t in plain]
    for trace in traces:
        start = len(trace) - trace.meta["response_tokens"]
        with FLOW.attached(model, trace=trace):
            full = logits_of(model, trace.tokens[None])[0]
        assert torch.equal(full[start - 1 : -1].argmax(-1), trace.tokens[start:])


@torch.no_grad()
@pytest.mark.parametrize("backend", BACKENDS)
def test_nests_with_hooks_of_others_and_removes_only_its_own(backend: Backend) -> None:
    model = model_of("qwen2", backend)
    tokens = trace_of(model).tokens[None]
    plain = logits_of(model, tokens)
    order: list[str] = []
    scores: dict[str, torch.Tensor] = {}

    def watch(name: str) -> Callable[..., None]:
        def hook_function(activation: torch.Tensor, hook: Any) -> None:
            order.append(name)
            scores[name] = activation.detach().clone()

        return hook_function

    point = "blocks.1.attn.hook_attn_scores"
    with model.hooks(fwd_hooks=[(point, watch("outer"))]):
        before = state_of(model)
        with FLOW.attached(model):
            with model.hooks(fwd_hooks=[(point, watch("inner"))]):
                attached = logits_of(model, tokens)
            assert order == ["outer", "inner"]
            assert not torch.equal(scores["outer"], scores["inner"]), "the edit is between them"
            again = model.run_with_hooks(
                tokens, return_type="logits", fwd_hooks=[(point, watch("run"))]
            )
            assert torch.equal(again, attached)
            assert torch.equal(scores["run"], scores["inner"])
        assert state_of(model) == before
        order.clear()
        assert torch.equal(logits_of(model, tokens), plain)
        assert order == ["outer"]
    first = FLOW.attached(model)
    with first, ss.OddsEqualBridge([2], tau_max=0.9).attached(model):
        both = logits_of(model, tokens)
    with FLOW.attached(model):
        assert torch.equal(logits_of(model, tokens), attached)
        assert not torch.equal(both, attached)
    with FLOW.attached(model):
        model.reset_hooks()
        assert torch.equal(logits_of(model, tokens), attached), "resetting hooks keeps the flow"
    with pytest.raises(RuntimeError, match="mine"), FLOW.attached(model):
        raise RuntimeError("mine")
    assert torch.equal(logits_of(model, tokens), plain)


@torch.no_grad()
def test_hooks_of_others_are_not_called_by_the_checks() -> None:
    model = tiny_model("qwen2", n_layers=2)
    called: list[int] = []

    def count(activation: torch.Tensor, hook: Any) -> None:
        called.append(activation.shape[0])

    name = "blocks.0.hook_resid_post"
    with (
        model.hooks(fwd_hooks=[(name, count)]),
        ss.OddsEqualBridge([0]).attached(model),
    ):
        assert not called
        logits_of(model, torch.tensor([[20, 21]]))
        assert called == [1]


@torch.no_grad()
@pytest.mark.parametrize("backend", BACKENDS)
def test_by_hand(backend: Backend) -> None:
    """As in any TransformerLens notebook."""
    model = model_of("qwen2", backend)
    trace = trace_of(model)
    tokens = trace.tokens[None]
    with FLOW.attached(model, trace=trace):
        attached = logits_of(model, tokens)
    flow = FLOW.bound_to(trace)
    assert flow.oeb is flow.edits[0]
    assert flow.smi is flow.edits[1]
    by_hand = [
        ("blocks.0.attn.hook_attn_scores", flow.oeb.hook),
        ("blocks.1.attn.hook_attn_scores", flow.oeb.hook),
        ("blocks.2.attn.hook_v", flow.smi.hook),
        ("blocks.2.attn.hook_z", flow.smi.hook),
    ]
    for hooks in (by_hand, flow.hooks(model)):
        found = model.run_with_hooks(tokens, return_type="logits", fwd_hooks=hooks)
        assert torch.equal(found, attached)
    residual = ss.StepMomentumInjection([2], alpha=0.5, space="residual", source="resid_post")
    with residual.attached(model, trace=trace):
        expected = logits_of(model, tokens)
    hooks = [("blocks.2.hook_resid_post", flow.smi.hook)]
    found = model.run_with_hooks(tokens, return_type="logits", fwd_hooks=hooks)
    assert torch.equal(found, expected)
    carried = ss.StepMomentumInjection([2], alpha=0.5, space="residual")
    with carried.attached(model, trace=trace):
        expected = logits_of(model, tokens)
    hooks = carried.bound_to(trace).hooks(model)
    found = model.run_with_hooks(tokens, return_type="logits", fwd_hooks=hooks)
    assert torch.equal(found, expected)


@torch.no_grad()
@pytest.mark.parametrize("backend", BACKENDS)
def test_by_hand_says_what_is_missing(backend: Backend) -> None:
    model = model_of("qwen2", backend)
    trace = trace_of(model)
    tokens = trace.tokens[None]

    def run(*hooks: tuple[str, Any], tokens: torch.Tensor = tokens) -> None:
        model.run_with_hooks(tokens, return_type="logits", fwd_hooks=list(hooks))

    flow = FLOW.bound_to(trace)
    scores, z = "blocks.0.attn.hook_attn_scores", "blocks.2.attn.hook_z"
    with pytest.raises(ValueError, match="bound_to"):
        run((scores, FLOW.oeb.hook))
    with pytest.raises(ValueError, match="bound_to"):
        FLOW.hooks(model)
    with pytest.raises(ValueError, match=r"blocks\.2\.attn\.hook_v"):
        run((z, flow.smi.hook))
    with pytest.raises(ValueError, match=r"acts at attn\.hook_attn_scores"):
        run((z, flow.oeb.hook))
    with pytest.raises(ValueError, match="acts at"):
        run((scores, flow.smi.hook))
    with pytest.raises(ValueError, match="bound to 51 positions"):
        run((scores, flow.oeb.hook), tokens=tokens[:, :-1])
    deep = ss.OddsEqualBridge([0], tau_max=lambda depth: 0.1 + depth).bound_to(trace)
    with pytest.raises(ValueError, match="number of layers"):
        run((scores, deep.hook))
    carried = ss.StepMomentumInjection([2], space="residual").bound_to(trace)
    with pytest.raises(ValueError, match="model's weights"):
        run(("blocks.2.attn.hook_v", carried.hook), ("blocks.2.hook_resid_post", carried.hook))
    with pytest.raises(ValueError, match=r"layers \[7\]"):
        ss.OddsEqualBridge([7]).bound_to(trace).hooks(model)


@torch.no_grad()
@pytest.mark.parametrize("backend", BACKENDS)
def test_traces_of_a_batch_padded_on_either_side(backend: Backend) -> None:
    model = model_of("llama", backend)
    traces = [random_trace(seed) for seed in range(3)]
    alone = []
    for trace in traces:
        with FLOW.attached(model, trace=trace):
            alone.append(logits_of(model, trace.tokens[None])[0])
    longest = max(map(len, traces))
    for side in ("left", "right"):
        rows, masks = [], []
        for trace in traces:
            gap = longest - len(trace)
            pad = (gap, 0) if side == "left" else (0, gap)
            rows.append(torch.nn.functional.pad(trace.tokens, pad))
            masks.append(torch.nn.functional.pad(torch.ones_like(trace.tokens), pad))
        tokens, mask = torch.stack(rows), torch.stack(masks)
        with FLOW.attached(model, traces=traces):
            found = logits_of(model, tokens, mask)
        for row, expected in enumerate(alone):
            real = found[row][mask[row].bool()]
            assert_same_logits(real, expected)
    copies = traces[0].tokens.expand(2, -1)
    with FLOW.attached(model, trace=traces[0]):
        for logits in logits_of(model, copies):
            assert_same_logits(logits, alone[0])


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_and_inference_mode(backend: Backend) -> None:
    model = model_of("qwen2", backend)
    trace = trace_of(model)
    tokens = trace.tokens[None]
    flow = FLOWS["residual of values"]
    with flow.attached(model) as session, torch.inference_mode():
        expected = forced(model, tokens, torch.ones_like(tokens), 12)[0]
    same_labels(session.labels, trace)
    cached = cached_reader(model)
    with flow.attached(model):
        with torch.inference_mode():
            cached.read(tokens[:, :12])
            cached.read(tokens[:, 12:14])
        with torch.no_grad():
            last = cached.read(tokens[:, 14:])[0]
    assert_same_logits(last, expected[14:].clone())
    with flow.attached(model):
        logits = logits_of(model, tokens)[0]
        logits[-1].logsumexp(-1).backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)
    model.zero_grad()
    assert_same_logits(logits.detach(), expected.clone())


@torch.no_grad()
@pytest.mark.parametrize("backend", BACKENDS)
def test_several_turns(backend: Backend) -> None:
    """A second question in the same cache: all before it is question then, as in a full pass."""
    model = model_of("qwen2", backend)
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": "It is 7. Yes."},
        {"role": "user", "content": "And 5 more?"},
        {"role": "assistant", "content": "<think>7 and 5. That is 12.</think>It is 12. Done."},
    ]
    trace = ss.Trace.from_messages(model.tokenizer, messages)
    assert trace.regions.count(ss.Region.QUESTION) == 3
    first = ss.Trace.from_messages(model.tokenizer, messages[:3])
    assert torch.equal(first.tokens, trace.tokens[: len(first)])
    tokens = trace.tokens[None]
    with FLOW.attached(model) as session:
        full = logits_of(model, tokens)[0]
    same_labels(session.labels, trace)
    n_first = next(s.start for s in first.steps if s.region is ss.Region.THINKING)
    opened = next(s.start for s in trace.steps if s.region is ss.Region.THINKING) - 1
    with FLOW.attached(model) as session:
        cached = cached_reader(model)
        cached.read(tokens[:, :n_first])
        for place in range(n_first, len(first)):
            cached.read(tokens[:, place : place + 1])
        same_labels(session.labels, first)
        cached.read(tokens[:, len(first) : opened])
        assert session.labels is not None
        expected = StepLabels.from_traces([trace])
        assert torch.equal(session.labels.region, expected.region[:, :opened])
        assert torch.equal(session.labels.step, expected.step[:, :opened])
        cached.read(tokens[:, opened:])
        same_labels(session.labels, trace)
    assert full.isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize("backend", BACKENDS)
def test_new_sequences_and_cropped_caches(backend: Backend) -> None:
    model = model_of("qwen2", backend)
    one, two = (trace_of(model, response) for response in RESPONSES[:2])
    with FLOW.attached(model) as session:
        logits_of(model, one.tokens[None])
        same_labels(session.labels, one)
        logits_of(model, two.tokens[None])
        same_labels(session.labels, two)
        forced(model, one.tokens[None], torch.ones_like(one.tokens[None]), 12)
        same_labels(session.labels, one)


def test_streams_of_a_cropped_cache() -> None:
    """What was cut off is forgotten, and what comes in its place is read as if it came first."""
    tokenizer = tiny_tokenizer()
    one, two = (ss.Trace.from_text(tokenizer, question=QUESTION, response=r) for r in RESPONSES[:2])
    shared = int((one.tokens[:40] == two.tokens[:40]).int().argmin())
    stream = StepStream(tokenizer)

    def advance(trace: ss.Trace, start: int, stop: int) -> StepLabels:
        new = trace.tokens[None, start:stop]
        return stream.advance(new, torch.ones_like(new).bool(), n_keys=stop)

    advance(one, 0, 13)
    for stop in range(14, len(one) + 1):
        advance(one, stop - 1, stop)
    assert shared > 13
    same_labels(advance(two, shared, len(two)), two)
    same_labels(advance(one, 6, len(one)), one)
    with pytest.raises(ValueError, match="inside of the context"):
        stream.advance(one.tokens[None, :3], torch.ones(1, 3).bool(), n_keys=80)
    stream.expect(ExpectedRows(n_prompt=[3, 4]))
    with pytest.raises(ValueError, match="2 n_prompt for a batch of 1"):
        advance(one, 0, 9)


def test_the_prompt_is_found() -> None:
    """By the frame of the chat template, by the think mark, or not at all."""
    tokenizer = tiny_tokenizer()
    reader = PromptReader(tokenizer)
    trace = ss.Trace.from_text(tokenizer, question=QUESTION, response=RESPONSES[0])
    n_prompt = next(s.start for s in trace.steps if s.region is ss.Region.THINKING) - 1
    assert reader.prompt_length(trace.tokens.tolist()) == n_prompt
    assert reader.prompt_length(trace.tokens[:n_prompt].tolist()) == n_prompt
    steps = [(s.start, s.region) for s in trace.steps]
    assert reader.steps(trace.tokens[:n_prompt].tolist()) == [
        step for step in steps if step[0] < n_prompt
    ]
    words = tokenizer("Some words. ")["input_ids"]
    thinking = tokenizer("<think>Hm. Yes.</think>It is.")["input_ids"]
    assert reader.prompt_length([*words, *thinking]) == len(words)
    assert reader.prompt_length(words) == len(words)
    assert reader.steps(words) is None
    frame = ChatFrame.of(tokenizer)
    assert frame is not None
    assert (frame.user_open, frame.generation) == ("<|user|>", "<|end|><|assistant|>")
    harmony = "<|user|>q<|end|><|assistant|>a<|end|><|assistant|>b"
    assert frame.prompt_end(harmony) == len("<|user|>q<|end|><|assistant|>")
    tokenizer.chat_template = None
    assert ChatFrame.of(tokenizer) is None
    assert PromptReader(tokenizer).prompt_length([*words, *thinking]) == len(words)
    tokenizer.chat_template = "{{ raise_exception('no assistant, please') }}"
    assert ChatFrame.of(tokenizer) is None


@torch.no_grad()
@pytest.mark.parametrize("backend", BACKENDS)
def test_refusals(backend: Backend) -> None:
    model = tiny_model("qwen2", backend=backend, n_layers=2)
    trace = trace_of(model)
    tokens = trace.tokens[None]
    bridge = ss.OddsEqualBridge([0])
    with pytest.raises(ValueError, match=r"layers \[2\]"):
        ss.StepMomentumInjection([2]).attached(model)
    with pytest.raises(ValueError, match=r"heads \[4\]"):
        ss.OddsEqualBridge([0], heads=[4]).attached(model)
    with pytest.raises(ValueError, match="give one of them"):
        bridge.attached(model, trace=trace, traces=[trace])
    with pytest.raises(ValueError, match="HookedTransformer or a TransformerBridge"):
        bridge.attached(torch.nn.Linear(2, 2))
    with bridge.attached(model, trace=trace):
        wrong = tokens.clone()
        wrong[0, 5] += 1
        with pytest.raises(ValueError, match="at position 5"):
            logits_of(model, wrong)
        with pytest.raises(ValueError, match="trace of 51 tokens"):
            logits_of(model, torch.cat([tokens, tokens], -1))
    with bridge.attached(model, traces=[trace] * 3), pytest.raises(ValueError, match="3 traces"):
        logits_of(model, tokens.expand(2, -1))
    model.tokenizer, tokenizer = None, model.tokenizer
    with pytest.raises(ValueError, match="no tokenizer"):
        bridge.attached(model)
    with bridge.attached(model, trace=trace):
        logits_of(model, tokens)
    model.tokenizer = tokenizer
    before = state_of(model)
    hook_point(model, "blocks.0.attn.hook_attn_scores").__class__ = DeafHookPoint
    with (
        pytest.raises(ValueError, match="score_edits"),
        ss.OddsEqualBridge([1]).attached(tiny_deaf(backend)),
    ):
        pass
    assert state_of(model) == before


def tiny_deaf(backend: Backend) -> Any:
    model = tiny_model("qwen2", backend=backend, n_layers=2)
    hook_point(model, "blocks.1.attn.hook_attn_scores").__class__ = DeafHookPoint
    return model


@torch.no_grad()
@pytest.mark.parametrize("backend", BACKENDS)
def test_caches_that_were_filled_elsewhere(backend: Backend) -> None:
    model = model_of("qwen2", backend)
    tokens = trace_of(model).tokens[None]
    cached = cached_reader(model)
    cached.read(tokens[:, :12])
    with FLOW.attached(model), pytest.raises(ValueError, match="inside of the context"):
        cached.read(tokens[:, 12:])


@torch.no_grad()
@pytest.mark.skipif("hooked" not in BACKENDS, reason="needs a HookedTransformer")
def test_passes_without_tokens_are_refused() -> None:
    model = model_of("qwen2", "hooked")
    tokens = trace_of(model).tokens[None]
    embeds = model.embed(tokens)
    with FLOW.attached(model):
        with pytest.raises(ValueError, match="run it on tokens"):
            model(embeds, start_at_layer=0)
        with pytest.raises(ValueError, match="first layer"):
            model(embeds, start_at_layer=1)


@torch.no_grad()
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_variant_in_a_few_lines(backend: Backend) -> None:
    class Louder(ss.Edit):
        site = "z"

        def __init__(self, layers: list[int], factor: float) -> None:
            self.layers, self.factor = tuple(layers), factor

        def apply(self, activation: torch.Tensor, _context: EditContext) -> torch.Tensor:
            return self.factor * activation

    class Shift(Louder):
        def apply(self, activation: torch.Tensor, _context: EditContext) -> torch.Tensor:
            return activation + self.factor

    model = model_of("qwen2", backend)
    tokens = trace_of(model).tokens[None]
    found = []
    for edits in ([Louder([1], 2.0), Shift([1], 3.0)], [Shift([1], 3.0), Louder([1], 2.0)]):
        with kept(model, "attn.hook_z", layers=[1]) as before:
            logits_of(model, tokens)
        group = ss.EditGroup(edits)
        with group.attached(model), kept(model, "attn.hook_z", layers=[1]) as after:
            logits_of(model, tokens)
        (z,), (edited,) = before.values(), after.values()
        found.append(edited)
        expected = 2 * z + 3 if edits[0].factor == 2 else 2 * (z + 3)
        torch.testing.assert_close(edited, expected)
    assert not torch.equal(*found)
    with pytest.raises(ValueError, match="at least one edit"):
        ss.EditGroup([])


@torch.no_grad()
def test_effects_of_edits_of_one_kind_are_told_apart() -> None:
    model = model_of("qwen2", BACKENDS[0])
    tokens = trace_of(model).tokens[None]
    group = ss.EditGroup([ss.OddsEqualBridge([0]), ss.OddsEqualBridge([0], tau_max=0.5)])
    with group.attached(model) as session:
        assert isinstance(session, Session)
        logits_of(model, tokens)
    frame = session.effects.to_frame()
    assert frame.edit.unique().tolist() == ["OddsEqualBridge", "OddsEqualBridge#2"]
    assert (frame.rows_seen == 36).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_unknown_hook_points_are_refused(backend: Backend) -> None:
    """A bridge would skip them in silence."""
    model = model_of("qwen2", backend)
    before = state_of(model)
    wrong = ("blocks.0.attn.hook_z", "blocks.0.attn.hook_zz", "blocks.9.hook_resid_post")
    hooks = [(name, lambda activation, hook: None) for name in wrong]
    with pytest.raises(ValueError, match="hook_zz"), added_hooks(model, hooks):
        pass
    assert state_of(model) == before


@torch.no_grad()
@pytest.mark.parametrize("backend", BACKENDS)
def test_low_precision(backend: Backend) -> None:
    """The flow moves a model of bfloat16 as it moves the same model of float32."""
    exact, coarse = (model_of("qwen2", backend, dtype=d) for d in (torch.float32, torch.bfloat16))
    tokens = trace_of(exact).tokens[None]
    with FLOW.attached(exact):
        wanted = logits_of(exact, tokens)
    with FLOW.attached(coarse):
        found = logits_of(coarse, tokens).float()
    plain = logits_of(exact, tokens)
    rounding = (logits_of(coarse, tokens).float() - plain).norm()
    assert (found - wanted).norm() < 2 * rounding
    assert (wanted - plain).norm() > 2 * rounding
