"""Sure predictions, bfloat16 and float16: what a type costs, and no more."""

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import BACKENDS, Arch, Backend, tiny_model, tiny_tokenizer, tiny_transformers
from transformers import AutoModelForCausalLM

import step_saliency as ss
from step_saliency.intervene.expected import ExpectedRows
from step_saliency.models.precision import Widened
from step_saliency.models.reference import (
    check_reference_model,
    load_reference,
    reference_model,
)
from step_saliency.saliency import log_odds
from step_saliency.saliency.hooks import reduce_influence
from step_saliency.saliency.log_odds import cross_entropy_of, log_odds_against
from step_saliency.saliency.objectives import NextToken
from step_saliency.saliency.pooling import step_layout, sum_tokens
from step_saliency.trace import Region, Step

OBJECTIVES = ("next_token", "log_odds", "sequence", "answer", "logit_diff")


@pytest.fixture(scope="module")
def reasoner() -> Callable[[torch.dtype], Any]:
    return cache(lambda dtype: ss.load_model("reasoner", dtype=dtype))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Folders of small random models."""

    @cache
    def save(arch: Arch, **shape: int) -> Path:
        folder = tmp_path_factory.mktemp(arch)
        tiny_transformers(arch, **shape).save_pretrained(folder)
        tiny_tokenizer().save_pretrained(folder)
        return folder

    return save


def solved(model: Any, seed: int = 0) -> ss.Trace:
    (problem,) = ss.tasks.make_problems(n=1, level="medium", seed=seed)
    return ss.Trace.from_text(
        model.tokenizer, question=problem.question, response=problem.solution, splitter="line"
    )


def traced(tokens: torch.Tensor, length: int) -> ss.Trace:
    """A trace of steps of one length."""
    steps = [
        Step(start, start + length, Region.THINKING, "") for start in range(0, len(tokens), length)
    ]
    return ss.Trace(tokens=tokens, steps=tuple(steps))


def test_digits_of_a_sure_prediction() -> None:
    """Where softmax minus one is nothing but rounding, against numbers worked out by hand."""
    logits = torch.tensor([[40.0, 0.0, 0.0], [90.0, 1.0, 2.0]], requires_grad=True)
    losses = cross_entropy_of(log_odds_against(logits, torch.tensor([0, 0])))
    losses.sum().backward()
    rest = 2 * torch.tensor(-40.0, dtype=torch.float64).exp()
    assert logits.grad is not None
    torch.testing.assert_close(losses[0].detach(), rest, rtol=1e-9, atol=0)
    expected = torch.stack([-rest, rest / 2, rest / 2]).float()
    torch.testing.assert_close(logits.grad[0], expected, rtol=1e-6, atol=0)
    assert (logits.grad[1] != 0).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_losses_and_gradients_against_softmax_in_float64(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(log_odds.SCRATCH, "cpu", 2 * 50 + 1)  # two rows at a time
    generator = torch.Generator().manual_seed(1)
    logits = (3 * torch.randn(7, 50, generator=generator)).to(dtype).requires_grad_()
    targets = torch.randint(50, (7,), generator=generator)
    weights = torch.rand(7, generator=generator, dtype=torch.float64)
    wide = logits.detach().double().requires_grad_()
    truth = torch.nn.functional.cross_entropy(wide, targets, reduction="none")
    losses = cross_entropy_of(log_odds_against(logits, targets))
    torch.testing.assert_close(losses, truth, rtol=1e-12, atol=1e-12)
    (gradient,) = torch.autograd.grad((weights * losses).sum(), logits)
    (exact,) = torch.autograd.grad((weights * truth).sum(), wide)
    assert gradient.dtype == dtype
    torch.testing.assert_close(gradient, exact.to(dtype))


def test_chunks_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, targets = torch.randn(9, 30), torch.arange(9)
    whole = log_odds_against(logits, targets)
    monkeypatch.setitem(log_odds.SCRATCH, "cpu", 1)
    assert log_odds_against(logits, targets).equal(whole)


def test_rows_of_sure_predictions_in_float32(reasoner: Any) -> None:
    """The largest error of a row is 1e-4 of it, however sure its prediction."""
    rows = {}
    for dtype in (torch.float32, torch.float64):
        model = reasoner(dtype)
        trace, layers = solved(model), range(model.cfg.n_layers)
        influence = reduce_influence(
            model, trace.tokens, NextToken(), layers=layers, reduce=lambda layer: layer.double()
        )
        rows[dtype] = torch.stack([influence[layer] for layer in layers])[..., :-1, :]
    truth = rows[torch.float64]
    size = truth.amax((1, 3))
    assert size.amin() < 1e-7 * size.amax()  # some rows are very sure
    error = (rows[torch.float32] - truth).abs().amax((1, 3))
    assert (error / size).max() < 1e-4


@pytest.mark.parametrize("objective", ["next_token", "sequence"])
@pytest.mark.parametrize("method", ["hooks", "streaming"])
def test_decay_of_sure_summaries_in_float32(reasoner: Any, objective: Any, method: Any) -> None:
    indices = []
    for dtype in (torch.float32, torch.float64):
        model = reasoner(dtype)
        sal = ss.step_saliency(model, solved(model, 3), objective=objective, method=method)
        indices.append(torch.as_tensor(ss.diagnose(sal).decay).double())
    torch.testing.assert_close(*indices, rtol=0, atol=1e-4)


@pytest.mark.nightly
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_bfloat16_maps_of_24_layers(backend: Backend, objective: Any) -> None:
    """Streaming errs at most twice as much as plain bfloat16 attention does."""
    shape = {"n_layers": 24, "d_model": 32}
    options = {"answer": [44, 45]} if objective in ("answer", "logit_diff") else {}
    maps = {}
    for dtype in (torch.bfloat16, torch.float64):
        model = tiny_model("qwen2", backend=backend, dtype=torch.bfloat16, **shape).to(dtype)
        tokens = torch.arange(48) * 7 % 80 + 5
        trace = traced(tokens, 4)
        for method in ("hooks", "streaming"):
            sal = ss.step_saliency(model, trace, objective=objective, method=method, **options)
            assert sal.maps.dtype in (torch.float32, torch.float64)
            maps[dtype, method] = sal.maps.double()
    truth = maps[torch.float64, "hooks"]
    plain = (maps[torch.bfloat16, "hooks"] - truth).norm()
    assert (maps[torch.bfloat16, "streaming"] - truth).norm() <= 2 * plain
    assert plain < 0.2 * truth.norm()


def test_half_precision_is_summed_in_float32() -> None:
    layout = step_layout(torch.zeros(1000, dtype=torch.long), last_row=True)
    totals = sum_tokens(torch.ones(1000, 1000, dtype=torch.bfloat16), layout)
    assert totals.dtype == torch.float32
    assert totals.item() == 1_000_000


@pytest.mark.parametrize("method", ["hooks", "streaming"])
def test_float16_is_refused_with_advice(method: Any) -> None:
    model = tiny_model("qwen2", dtype=torch.float16)
    trace = traced(torch.arange(20) + 5, 10)
    with pytest.raises(ValueError, match=r"float16.*dtype='bfloat16', or 'float32'"):
        ss.step_saliency(model, trace, method=method)
    with pytest.raises(ValueError, match="float16"):
        ss.token_map(model, trace, layer=0)
    pattern = ss.token_map(model, trace, layer=0, quantity="attention")
    torch.testing.assert_close(pattern.sum(-1), torch.ones(20), atol=1e-2, rtol=0)


def test_maps_are_made_in_inference_mode_but_not_of_weights_made_there() -> None:
    model, trace = tiny_model("qwen2", n_layers=2), traced(torch.arange(20) + 5, 10)
    expected = ss.step_saliency(model, trace).maps
    with torch.inference_mode():
        assert ss.step_saliency(model, trace).maps.equal(expected)
        made_inside = tiny_model("qwen2", n_layers=2)
    with pytest.raises(
        ValueError, match=r"made under torch\.inference_mode.*load the model outside"
    ):
        ss.step_saliency(made_inside, trace)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_doctor_says_that_maps_refuse_float16(backend: Backend) -> None:
    model = tiny_model("qwen2", backend=backend, dtype=torch.float16)
    report = ss.doctor(model, checks=["gradients", "finite_activations"])
    assert report.failed == ("gradients",)
    assert "load with dtype='bfloat16', or 'float32'" in str(report)
    widened = tiny_model("qwen2", backend=backend)
    assert ss.doctor(widened, checks=["gradients"]).passed


@pytest.mark.parametrize("backend", BACKENDS)
def test_rotations_are_not_rounded(saved: Any, backend: Backend) -> None:
    """A model read in bfloat16 turns queries and keys by the frequencies of float32."""
    folder = saved("qwen2")
    own = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    model = ss.load_model(folder, backend=backend, dtype="bfloat16")
    buffers = dict(reference_model(model).named_buffers())
    frequencies = [b for name, b in buffers.items() if name.endswith("inv_freq")]
    assert frequencies
    assert all(f.equal(own.model.rotary_emb.inv_freq) for f in frequencies)
    tokens = torch.arange(400).unsqueeze(0) % 80 + 5
    with torch.no_grad():
        plain = own(tokens).logits.float()
        logits = model(tokens, return_type="logits").float()
        exact = own.float()(tokens).logits
    assert (logits - exact).norm() <= 2 * (plain - exact).norm()


KINDS: tuple[Arch, ...] = ("qwen2", "llama", "gemma2", "gpt_oss")


def read_again(model: Any) -> Any:
    """The transformers model of weights that no change to the model reaches."""
    reference, reason = load_reference(model)
    assert reference is not None, reason
    return reference


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("arch", KINDS)
def test_the_reference_model_is_checked_in_every_type(
    saved: Any, arch: Arch, dtype: str, backend: Backend
) -> None:
    """The weights as loaded pass; a tenth of noise in one matrix of the MLP does not."""
    model = ss.load_model(saved(arch), backend=backend, dtype=dtype)
    reference, tokens = read_again(model), (torch.arange(32) * 11 % 80 + 5).tolist()
    check_reference_model(model, reference, tokens)
    weights = max(model.blocks[1].mlp.parameters(), key=torch.numel)
    generator = torch.Generator().manual_seed(0)
    noise = 1 + 0.1 * torch.randn(weights.shape, generator=generator)
    with torch.no_grad():
        weights.mul_(noise.to(weights.dtype))
    with pytest.raises(ValueError, match="after weights were changed"):
        check_reference_model(model, reference, tokens)


@pytest.mark.parametrize("backend", BACKENDS)
def test_small_changes_show_in_24_layers_of_bfloat16(saved: Any, backend: Backend) -> None:
    model = ss.load_model(saved("qwen2", n_layers=24), backend=backend, dtype="bfloat16")
    reference, tokens = read_again(model), (torch.arange(32) * 11 % 80 + 5).tolist()
    check_reference_model(model, reference, tokens)
    weights = next(p for p in model.blocks[12].mlp.parameters() if p.ndim == 2)
    generator = torch.Generator().manual_seed(0)
    noise = 1 + 0.03 * torch.randn(weights.shape, generator=generator)
    with torch.no_grad():
        weights.mul_(noise.to(weights.dtype))
    with pytest.raises(ValueError, match="after weights were changed"):
        check_reference_model(model, reference, tokens)


def test_a_wide_pass_leaves_the_weights(saved: Any) -> None:
    model = ss.load_model(saved("qwen2"), dtype="bfloat16")
    exact = reference_model(model)
    tokens = torch.arange(20).unsqueeze(0) + 5
    with torch.no_grad(), Widened():
        logits = exact(tokens).logits
    assert logits.dtype == torch.float32
    assert {parameter.dtype for parameter in exact.parameters()} == {torch.bfloat16}
    with torch.no_grad():
        torch.testing.assert_close(logits, exact.float()(tokens).logits)


@torch.no_grad()
def last_logits(model: Any, question: str, trace: ss.Trace, n_read: int, flow: Any) -> torch.Tensor:
    """Logits after the first tokens of a trace, with the flow in force, in float32."""
    tokens = trace.tokens[None, :n_read]
    n_prompt = len(trace.tokens) - trace.meta["response_tokens"]
    rows = ExpectedRows(questions=[question], n_prompt=[n_prompt])
    with nullcontext() if flow is None else flow.attached(model) as session:
        if session is not None:
            session.expect(rows)
        return model(tokens, return_type="logits")[0, -1].float()


@pytest.mark.nightly
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("with_flow", [False, True])
def test_bfloat16_decodes_fast_as_by_hooks(with_flow: bool, backend: Backend) -> None:
    """64 tokens of 20 prompts; where two texts part, both tokens are the best ones by float32, and
    no further apart there than bfloat16 rounds them."""
    model = ss.load_model("reasoner", backend=backend, dtype="bfloat16")
    exact = ss.load_model("reasoner", backend=backend, dtype="float32")
    questions = [p.question for p in ss.tasks.make_problems(n=20, level="medium", seed=5)]
    flow = ss.StepFlow.for_model(model) if with_flow else None
    options: dict[str, Any] = {"max_new_tokens": 64, "temperature": 0, "progress": False}
    hooked, fast = (
        ss.generate(model, questions, method=method, flow=flow, **options)
        for method in ("hooks", "fast")
    )
    answers = zip(questions, hooked, fast, strict=True)
    parted = [(q, a, b) for q, a, b in answers if not a.tokens.equal(b.tokens)]
    assert len(parted) <= 4
    for question, one, other in parted:
        n_common = min(len(one.tokens), len(other.tokens))
        n_same = int((one.tokens[:n_common] != other.tokens[:n_common]).int().argmax())
        logits = last_logits(exact, question, one, n_same, flow)
        picks = {int(one.tokens[n_same]), int(other.tokens[n_same])}
        best = logits.topk(2)
        assert picks == set(best.indices.tolist())
        gap, size = best.values[0] - best.values[1], best.values[0].abs()
        assert gap <= 2 * torch.finfo(torch.bfloat16).eps * size


def test_auto_says_why_it_is_slow(saved: Any) -> None:
    model = ss.load_model(saved("qwen2"), dtype="bfloat16")
    options: dict[str, Any] = {"max_new_tokens": 4, "n": 300, "progress": False}
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="decoding by the model's hooks")
        ss.generate(model, ["a b c"], method="auto", **options)
    model.blocks[1].hook_resid_post.add_perma_hook(lambda value, hook: value)
    with pytest.warns(UserWarning, match="does not run the model's hooks") as said:
        ss.generate(model, ["a b c"], method="auto", **options)
    assert len([one for one in said if "model's hooks, slower" in str(one.message)]) == 1
