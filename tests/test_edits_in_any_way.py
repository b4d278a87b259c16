"""Edits read in any way: prompts in pieces, sessions, gradients, counters, heads of their own."""

import copy
from itertools import pairwise
from typing import Any
from weakref import ref

import pytest
import torch
from edit_passes import a_trace, cached_pass, full_pass, load
from tiny import BACKENDS, Backend, tiny_model, tiny_tokenizer
from transformers import DynamicCache, StaticCache

import step_saliency as ss
from step_saliency.decoding import Continuation
from step_saliency.decoding.hooked import cached_reader
from step_saliency.intervene import EditGroup, HeadRedirect, HeadScale, mean_head_outputs
from step_saliency.intervene.oeb.equal_dose import share_at_divergence
from step_saliency.intervene.oeb.smoothing import smoothed_rows
from step_saliency.intervene.stream import StepStream

QUESTION = "What is 3 and 4? Add. Then 7."
RESPONSE = "<think>First, 3. Then 4.</think>So 7. Yes."
EDITS = {
    "bridge": ss.OddsEqualBridge([0, 1], tau_max=0.6),
    "momentum": ss.StepMomentumInjection([1], alpha=1.0),
    "heads": HeadScale(["L0H1", "L1H2"], 0.0, regions=["thinking"]),
}


@torch.no_grad()
@pytest.mark.parametrize("name", EDITS)
@pytest.mark.parametrize(("size", "first"), [(1, 1), (1, 5), (4, 4)])
@pytest.mark.parametrize("says_length", [True, False])
def test_prompts_read_in_pieces_are_prompts(
    name: str, size: int, first: int, says_length: bool
) -> None:
    """However it is fed, a prompt is labelled as one when its end is there."""
    model, edit = load("qwen2"), EDITS[name]
    trace = ss.Trace.from_text(model.tokenizer, question=QUESTION, response=RESPONSE)
    n_prompt = trace.steps[2].stop  # template, question, template
    ids = trace.tokens[None]
    with edit.attached(model):
        whole = model(ids)
    with edit.attached(model, n_prompt=n_prompt if says_length else None) as session:
        reader = cached_reader(model, 1)
        cuts = [0, first, *range(first + size, len(trace), size), len(trace)]
        pieces = [reader.read(ids[:, a:b]) for a, b in pairwise(cuts)]
        labels = session.labels
    expected = ss.intervene.StepLabels.from_traces([trace])
    assert labels is not None
    for ours, theirs in zip(labels.tensors, expected.tensors, strict=True):
        assert torch.equal(ours, theirs)
    assert (torch.cat(pieces, dim=1) - whole).abs().max() < 1e-5 * whole.abs().max()


TURNS = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] }}"
    "{% if m['role'] == 'assistant' %}END{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}LAST{% endif %}"
)
"""As of models whose last answer ends otherwise than those before it (Phi-3; OLMo)."""


@pytest.mark.parametrize("ends", [("<|end|>\n", "<|pad|>"), ("<|end|>\n", "")])
@pytest.mark.parametrize("n_earlier", [0, 2])
def test_prompts_are_found_where_a_last_answer_ends_in_its_own_way(
    ends: tuple[str, str], n_earlier: int
) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TURNS.replace("END", ends[0]).replace("LAST", ends[1])
    turns = [("user", "What is 3?"), ("assistant", "It is 3."), ("user", QUESTION)]
    messages = [{"role": role, "content": text} for role, text in turns[2 - n_earlier :]]
    answer = {"role": "assistant", "content": "First, 3. Then 4. So 7."}
    trace = ss.Trace.from_messages(tokenizer, [*messages, answer])
    ids = trace.tokens[None]
    stream = StepStream(tokenizer)
    ours = stream.advance(ids, torch.ones_like(ids, dtype=torch.bool), n_keys=len(trace))
    theirs = ss.intervene.StepLabels.from_traces([trace])
    assert all(map(torch.equal, ours.tensors, theirs.tensors))


FLOW = ss.StepFlow(
    oeb=ss.OddsEqualBridge([0, 1], tau_max=0.6),
    smi=ss.StepMomentumInjection([1], alpha=1.0, space="residual", source="resid_post"),
)


@torch.no_grad()
@pytest.mark.parametrize("arch", ["qwen2", "gemma3"])
def test_places_of_a_cache_that_are_empty_are_no_keys(arch: str) -> None:
    model, trace = load(arch, "bridge"), a_trace()
    inner = model.original_model
    cache = StaticCache(config=inner.config, max_cache_len=len(trace) + 9)
    cuts = [0, 10, *range(11, len(trace) + 1)]
    with FLOW.attached(model, trace=trace):
        parts = [inner(trace.tokens[None, a:b], past_key_values=cache) for a, b in pairwise(cuts)]
    edited, plain = full_pass(model, trace, FLOW), full_pass(model, trace)
    scale = plain.abs().max()
    assert (edited - plain).abs().max() > 0.1 * scale
    assert (torch.cat([part.logits[0] for part in parts]) - edited).abs().max() < 1e-5 * scale


@torch.no_grad()
@pytest.mark.parametrize("are_known", [True, False])
def test_rows_that_change_places_in_a_cache_keep_their_steps(are_known: bool) -> None:
    """As beams do: one of them stands there twice from then on."""
    model, order = load("qwen2", "bridge"), torch.tensor([1, 0, 1])
    answers = (RESPONSE, "<think>First. Add 3. Then 4. Stop. So.</think>So 7. Yes.")
    traces = [
        ss.Trace.from_text(model.tokenizer, question=QUESTION, response=answer)
        for answer in answers
    ]
    length = min(map(len, traces))
    ids = torch.stack([trace.tokens[:length] for trace in traces])
    known = traces if are_known else None
    with FLOW.attached(model, traces=known):
        whole = model(ids)[order]
    cache, begun = DynamicCache(config=model.original_model.config), length - 12
    with FLOW.attached(model, traces=known):
        model.original_model(ids[:, :begun], past_key_values=cache)
        copy.deepcopy(cache).reorder_cache(torch.tensor([0]))
        cache.reorder_cache(order)
        rest = [
            model.original_model(ids[order, i : i + 1], past_key_values=cache).logits
            for i in range(begun, length)
        ]
    assert (torch.cat(rest, dim=1) - whole[:, begun:]).abs().max() < 1e-5 * whole.abs().max()
    assert type(cache) is DynamicCache
    alive = ref(cache)
    del cache
    assert alive() is None, "what tells of new places keeps no cache"


@torch.no_grad()
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("between", ["another cache", "no cache"])
def test_caches_that_are_gone_back_to(between: str, backend: Backend) -> None:
    model, traces = load("qwen2", backend), [a_trace(seed=seed) for seed in (1, 2)]
    first, other = (trace.tokens[None] for trace in traces)
    with ss.OddsEqualBridge([0], tau_max=0.6).attached(model):
        readers = [cached_reader(model, 1) for _ in range(3)]
        readers[0].read(first[:, :10])
        if between == "no cache":
            model(other)
        else:
            readers[1].read(other[:, :12])
        with pytest.raises(ValueError, match="follow one batch at a time"):
            readers[0].read(first[:, 10:11])
        readers[2].read(first[:, :10])
        model(first)
        readers[2].read(first[:, 10:11])


@pytest.mark.parametrize("backend", BACKENDS)
def test_our_own_generate_inside_of_attached_edits(backend: Backend) -> None:
    """Rows come and go there, of which such edits do not hear."""
    model, questions = load("qwen2", backend), ["What is 3?", "Add 4 and 5. Then 6.", "Is 7 right?"]
    options: Any = {"temperature": 0.0, "max_new_tokens": 16, "progress": False, "method": "hooks"}
    expected = ss.generate(model, questions, flow=FLOW, **options)
    plain = ss.generate(model, questions, **options)
    assert any(a.response != b.response for a, b in zip(expected, plain, strict=True))
    with FLOW.attached(model), pytest.warns(UserWarning, match="one at a time.*flow="):
        found = ss.generate(model, questions, **options)
    assert [trace.response for trace in found] == [trace.response for trace in expected]


WRITTEN = "<think>First, 3 and 4. Then we add. So 7. Fine.\nNext 4. So 3."


@pytest.mark.parametrize("backend", BACKENDS)
def test_attached_edits_follow_responses_as_the_call_cuts_them(backend: Backend) -> None:
    model, edit = load("qwen2", backend), ss.StepMomentumInjection([1, 2], alpha=3.0)
    options: Any = {
        "temperature": 0.0,
        "max_new_tokens": 12,
        "progress": False,
        "method": "hooks",
        "stop_tokens": [],
        "format": "think",
        "continued": [Continuation(written=WRITTEN)],
    }
    injections: dict[str, int] = {}
    for splitter in ("line", "sentence"):
        counted = ss.intervene.Effects()
        (expected,) = ss.generate(
            model, ["What is 3?"], flow=edit, effects=counted, splitter=splitter, **options
        )
        for said in ({}, {"splitter": splitter}, {"splitter": splitter, "format": "think"}):
            with edit.attached(model, **said) as session:
                (found,) = ss.generate(model, ["What is 3?"], splitter=splitter, **options)
            assert found.tokens.tolist() == expected.tokens.tolist()
            doses = [effects.doses().injections.item() for effects in (session.effects, counted)]
            assert doses[0] == doses[1]
        injections[splitter] = doses[0]
    assert injections["line"] < injections["sentence"]
    for said in ({"splitter": "sentence"}, {"format": "plain"}):
        with edit.attached(model, **said) as session:
            with pytest.raises(ValueError, match=r"responses with .*flow="):
                ss.generate(model, ["What is 3?"], splitter="line", **options)
            assert session.labels is None, "no pass was run"


@torch.no_grad()
@pytest.mark.parametrize("backend", BACKENDS)
def test_attached_edits_cut_steps_as_they_are_told(backend: Backend) -> None:
    model, edit, response = load("qwen2", backend), EDITS["momentum"], WRITTEN + "</think>So 3."
    for said in ({"splitter": "line"}, {"format": "plain"}, {"splitter": "line", "format": "auto"}):
        trace = ss.Trace.from_text(model.tokenizer, question=QUESTION, response=response, **said)
        usual = ss.Trace.from_text(model.tokenizer, question=QUESTION, response=response)
        assert trace.starts != usual.starts or trace.regions != usual.regions
        with edit.attached(model, **said) as session:
            options = {"max_new_tokens": 2, "progress": False, "temperature": 0.0, **said}
            ss.generate(model, ["a b"], method="hooks", **options)
            model(trace.tokens[None])
        assert session.labels is not None
        theirs = ss.intervene.StepLabels.from_traces([trace])
        assert all(map(torch.equal, session.labels.tensors, theirs.tensors))
    with edit.attached(model) as session:
        ss.generate(model, ["a b"], method="hooks", splitter="line", progress=False)
        model(usual.tokens[None])
    assert session.labels is not None
    theirs = ss.intervene.StepLabels.from_traces([usual])
    assert all(map(torch.equal, session.labels.tensors, theirs.tensors)), "as before the call"
    for wrong, match in (
        ({"splitter": "verse"}, "verse"),
        ({"format": "verse"}, "verse"),
        ({"splitter": "line", "trace": usual}, "splitter say how steps are found"),
    ):
        with pytest.raises(ValueError, match=match):
            EditGroup([edit]).attached(model, **wrong)


@torch.no_grad()
@pytest.mark.parametrize("backend", BACKENDS)
def test_momenta_of_a_bound_group_read_the_residual_before_any_of_them(backend: Backend) -> None:
    model, traces = load("qwen2", backend), [a_trace(seed=seed) for seed in (1, 2)]
    options: Any = {"space": "residual", "source": "resid_post"}
    momenta = [ss.StepMomentumInjection([1, 2], alpha=2.0, **options) for _ in range(2)]
    group = EditGroup([momenta[0], FLOW, momenta[1]])
    bound = group.bound_to(traces[0])
    hooks = bound.hooks(model)
    for _ in range(2):
        with model.hooks(fwd_hooks=hooks):
            by_hand = full_pass(model, traces[0])
        assert torch.equal(by_hand, full_pass(model, traces[0], group))
    with model.hooks(fwd_hooks=[hook for edit in bound.edits for hook in edit.hooks(model)]):
        assert not torch.equal(full_pass(model, traces[0]), by_hand), "each by itself"


@torch.no_grad()
def test_groups_in_groups_are_their_edits() -> None:
    model, trace, head = load("qwen2"), a_trace(), HeadScale(["L0H1"], 0.0)
    flat = full_pass(model, trace, EditGroup([*FLOW.edits, head]))
    assert torch.equal(full_pass(model, trace, EditGroup([EditGroup([FLOW]), head])), flat)


@pytest.mark.parametrize("backend", BACKENDS)
def test_maps_under_momentum_in_the_residual_are_those_of_single_losses(backend: Backend) -> None:
    """Row by row against a backward pass for each position."""
    model, trace = load("qwen2", backend), a_trace()
    edit = ss.StepMomentumInjection([0, 1], alpha=1.0, space="residual", source="resid_post")
    patterns: dict[int, torch.Tensor] = {}

    def keep(pattern: torch.Tensor, hook: Any) -> None:
        pattern.retain_grad()
        patterns[hook.layer()] = pattern

    names = [f"blocks.{layer}.attn.hook_pattern" for layer in range(model.cfg.n_layers)]
    tokens = trace.tokens[None]
    with edit.attached(model, trace=trace):
        found = ss.step_saliency(model, trace, method="hooks", pool="sum")
        with model.hooks(fwd_hooks=[(name, keep) for name in names]):
            logits = model(tokens, attention_mask=torch.ones_like(tokens))[0]
    losses = -logits[:-1].log_softmax(-1).gather(1, trace.tokens[1:, None])[:, 0]
    n_steps = len(trace.steps)
    truth = torch.zeros(len(names), n_steps, n_steps)
    to_keys = torch.nn.functional.one_hot(trace.step_ids, n_steps).float()
    for query in range(len(trace) - 1):
        for pattern in patterns.values():
            pattern.grad = None
        losses[query].backward(retain_graph=True)
        for layer, pattern in patterns.items():
            row = (pattern * pattern.grad).abs()[0, :, query].mean(0)
            truth[layer, trace.step_ids[query]] += row.detach() @ to_keys
    assert (found.mean_heads - truth).abs().max() < 1e-4 * truth.abs().max()


def test_means_of_heads_know_no_dropout() -> None:
    model, trace = tiny_model("gpt2-like", backend="bridge"), a_trace()
    expected = mean_head_outputs(model, [trace], progress=False).z
    model.train()
    with pytest.warns(UserWarning, match="train"):
        found = mean_head_outputs(model, [trace], progress=False).z
    assert torch.equal(found.nan_to_num(), expected.nan_to_num())
    assert model.training


@torch.no_grad()
def test_a_session_is_entered_once() -> None:
    model, trace = load("qwen2"), a_trace()
    edit = ss.OddsEqualBridge([0, 1], tau_max=0.6)
    edited = full_pass(model, trace, edit)
    session = edit.attached(model, trace=trace)
    with session:
        with pytest.raises(RuntimeError, match="entered already"), session:
            pass
        assert torch.equal(full_pass(model, trace), edited)
    with pytest.raises(RuntimeError, match="this session is over"), session:
        pass
    assert not torch.equal(full_pass(model, trace), edited)


@pytest.mark.parametrize(
    ("placebo", "dose"),
    [("random", 1.0), ("block", 1.0), ("permuted", 1.0), ("smooth", None), ("random", None)],
)
def test_counters_are_the_same_token_by_token(placebo: Any, dose: float | None) -> None:
    model, trace = load("qwen2"), a_trace()
    edit = ss.OddsEqualBridge([0], tau_max=0.3, placebo=placebo, dose=dose)
    with torch.no_grad(), edit.attached(model, trace=trace) as whole:
        model(trace.tokens[None])
    with torch.no_grad(), edit.attached(model, trace=trace) as cached:
        reader = cached_reader(model, 1)
        for i in range(len(trace)):
            reader.read(trace.tokens[None, i : i + 1])
    names = ["rows_seen", "rows_shifted", "infeasible", "mass_before", "mass_after", "kl"]
    one, other = (s.effects.doses()[names].to_numpy(float) for s in (whole, cached))
    assert one[0, 1] > 0
    assert one == pytest.approx(other, abs=1e-5)


def test_strengths_that_are_found_have_gradients() -> None:
    """Roots of a divergence, against finite differences."""
    torch.manual_seed(0)
    scores = torch.randn(3, 7, dtype=torch.float64, requires_grad=True)
    visible = torch.ones(3, 7, dtype=torch.bool)
    visible[1, 5:] = False
    divergence = torch.full((3,), 0.05, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda x: smoothed_rows(x, visible, divergence)[visible], (scores,), eps=1e-5, atol=1e-4
    )
    odds = torch.tensor([-2.0, -0.5, 0.4], dtype=torch.float64, requires_grad=True)
    inner = torch.tensor([0.0, 0.1, 0.3], dtype=torch.float64, requires_grad=True)
    target = torch.full((3,), 0.4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda *x: share_at_divergence(*x)[0], (odds, target, inner), eps=1e-5, atol=1e-4
    )


@pytest.mark.parametrize("placebo", ["random", "block", "permuted"])
def test_keys_that_one_head_cannot_see_are_keys_of_the_others(placebo: Any) -> None:
    """An edit that takes keys from head 0 changes no draw of heads 1 and above."""
    model, trace = load("qwen2"), a_trace()
    fake = ss.OddsEqualBridge([0], tau_max=0.9, placebo=placebo)
    redirect = HeadRedirect(["L0H0"], "template", mass=1.0)
    found = []
    for edit in (fake, EditGroup([redirect, fake])):
        patterns: list[torch.Tensor] = []

        def keep(pattern: torch.Tensor, hook: Any, into: Any = patterns) -> None:
            into.append(pattern.clone())

        with (
            torch.no_grad(),
            edit.attached(model, trace=trace),
            model.hooks(fwd_hooks=[("blocks.0.attn.hook_pattern", keep)]),
        ):
            model(trace.tokens[None])
        found.append(patterns[-1][0, 1:])
    assert torch.allclose(*found, atol=1e-6)
    assert cached_pass(model, [trace], fake, n_single=3).isfinite().all()
