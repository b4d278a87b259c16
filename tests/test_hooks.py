"""Exact token influence: against one backward pass per token, transformers alone, and
differences."""

from typing import Any

import pytest
import torch
from brute import one_backward_per_token, with_transformers
from tiny import ARCHS, BACKENDS, random_tokens, tiny_model, tiny_transformers

from step_saliency.models.convert import has_hooked
from step_saliency.options import QUANTITIES
from step_saliency.saliency.hooks import reduce_influence, reduce_influences
from step_saliency.saliency.objectives import (
    AnswerLoss,
    Custom,
    LogitDiff,
    LogOdds,
    NextToken,
    Objective,
    SequenceLoss,
)

N_TOKENS = 12


def load(arch: str, backend: str, **options: Any) -> Any:
    try:
        return tiny_model(arch, backend=backend, **options)
    except ValueError as error:
        if backend == "hooked":
            pytest.skip(f"no HookedTransformer of {arch}: {error}")
        raise


def influence(
    model: Any, tokens: torch.Tensor, objective: Objective, **options: Any
) -> torch.Tensor:
    layers = range(model.cfg.n_layers)
    maps = reduce_influence(
        model, tokens, objective, layers=layers, reduce=lambda layer: layer, **options
    )
    return torch.stack([maps[layer] for layer in layers])


def assert_equal(found: torch.Tensor, truth: torch.Tensor, tolerance: float) -> None:
    assert truth.max() > 1e-3, "a truth of zeros proves nothing"
    assert ((found - truth).abs().max() / truth.max()).item() < tolerance


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("arch", ARCHS)
def test_one_backward_pass_equals_one_per_token(arch: str, backend: str) -> None:
    # The experts of GPT-OSS multiply in single precision only.
    dtype, tolerance = (torch.float32, 1e-5) if arch == "gpt_oss" else (torch.float64, 1e-10)
    model = load(arch, backend, dtype=dtype, n_layers=2)
    tokens = random_tokens(9)[0]
    truth = one_backward_per_token(model, tokens, NextToken())
    assert_equal(influence(model, tokens, NextToken()), truth, tolerance)


@pytest.mark.parametrize("backend", BACKENDS)
def test_log_odds_equals_one_backward_per_token(backend: str) -> None:
    model = tiny_model("qwen2", backend=backend, dtype=torch.float64)
    tokens = random_tokens(N_TOKENS)[0]
    truth = one_backward_per_token(model, tokens, LogOdds())
    assert_equal(influence(model, tokens, LogOdds()), truth, 1e-10)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("arch", ARCHS)
def test_equals_transformers_in_float32(arch: str, backend: str) -> None:
    model = load(arch, backend, n_layers=2)
    tokens = random_tokens(9)[0]
    own = tiny_transformers(arch, n_layers=2, n_heads=4, n_kv_heads=2, d_head=12, d_model=32)
    assert_equal(
        influence(model, tokens, NextToken()), with_transformers(own, tokens, NextToken()), 1e-5
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_entries_are_derivatives(backend: str) -> None:
    """A weight moved by a little moves the loss of its own row by gradient times the move."""
    # Bridges of models with root-mean-square norms compute parts in float32 whatever their type.
    model = tiny_model("gpt2-like", backend=backend, dtype=torch.float64)
    tokens = random_tokens(N_TOKENS)[0]
    maps = influence(model, tokens, NextToken())

    def loss(layer: int, head: int, query: int, key: int, step: float) -> float:
        def move(pattern: torch.Tensor, hook: Any) -> torch.Tensor:
            moved = pattern.clone()
            moved[0, head, query, key] *= 1 + step
            return moved

        with model.hooks(fwd_hooks=[(f"blocks.{layer}.attn.hook_pattern", move)]), torch.no_grad():
            logits = model(tokens.unsqueeze(0), return_type="logits")[0]
        at_query = torch.tensor([query])
        return NextToken().position_losses(logits[at_query], tokens, at_query).item()

    for layer, head, query, key in [(0, 1, 7, 3), (1, 0, 10, 10), (2, 3, 5, 0), (0, 2, 9, 9)]:
        slope = (loss(layer, head, query, key, 1e-5) - loss(layer, head, query, key, -1e-5)) / 2e-5
        assert maps[layer, head, query, key].item() == pytest.approx(abs(slope), rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "objective",
    [
        SequenceLoss(),
        AnswerLoss((9, 11)),
        LogitDiff(20, 30),
        LogitDiff(20, position=6),
        Custom(lambda logits, tokens: logits[-1, tokens[0]]),
    ],
    ids=lambda objective: objective.name,
)
def test_scalar_objectives_equal_autograd(backend: str, objective: Objective) -> None:
    model = tiny_model("llama", backend=backend, dtype=torch.float64)
    tokens = random_tokens(N_TOKENS)[0]
    names = [f"blocks.{layer}.attn.hook_pattern" for layer in range(3)]
    seen: dict[str, torch.Tensor] = {}

    def keep(pattern: torch.Tensor, hook: Any) -> None:
        seen[hook.name] = pattern

    with model.hooks(fwd_hooks=[(name, keep) for name in names]):
        logits = model(tokens.unsqueeze(0), return_type="logits")[0]
    loss = objective.total(logits, tokens)
    patterns = [seen[name] for name in names]
    gradients = torch.autograd.grad(loss, patterns)
    truth = torch.stack([(a * g).abs()[0] for a, g in zip(patterns, gradients, strict=True)])
    assert_equal(influence(model, tokens, objective), truth.detach(), 1e-10)


def test_sequence_mixes_in_later_tokens() -> None:
    """Negative control: the scripts' objective is not the exact one times a constant."""
    model = tiny_model("qwen2", dtype=torch.float64)
    tokens = random_tokens(N_TOKENS)[0]
    exact = influence(model, tokens, NextToken())
    scripts = influence(model, tokens, SequenceLoss()) * (N_TOKENS - 1)
    last_layer = (scripts[-1] - exact[-1]).abs().max() / exact[-1].max()
    first_layer = (scripts[0] - exact[0]).abs().max() / exact[0].max()
    assert last_layer < 1e-6, "in the last layer nothing later reads the residual"
    assert first_layer > 0.01


@pytest.mark.parametrize("backend", BACKENDS)
def test_quantities_multiply(backend: str) -> None:
    model = tiny_model("qwen2", backend=backend, dtype=torch.float64)
    tokens = random_tokens(N_TOKENS)[0]
    parts = [influence(model, tokens, NextToken(), quantity=q) for q in ("attention", "gradient")]
    assert_equal(parts[0] * parts[1], influence(model, tokens, NextToken()), 1e-12)
    assert torch.allclose(parts[0].sum(-1), torch.ones(1, dtype=torch.float64))


@pytest.mark.parametrize("backend", BACKENDS)
def test_several_quantities_are_those_of_one_each_from_one_pass(backend: str) -> None:
    model = tiny_model("qwen2", backend=backend, dtype=torch.float64)
    tokens, layers = random_tokens(N_TOKENS)[0], [2, 0]
    options: dict[str, Any] = {"layers": layers, "reduce": lambda layer: layer}
    passes: list[int] = []
    with model.hooks(fwd_hooks=[("hook_embed", lambda x, hook: passes.append(x.shape[1]))]):
        together = reduce_influences(model, tokens, NextToken(), quantities=QUANTITIES, **options)
    assert passes == [N_TOKENS]
    for quantity, of_layers in zip(QUANTITIES, together, strict=True):
        alone = reduce_influence(model, tokens, NextToken(), quantity=quantity, **options)
        assert set(of_layers) == set(alone) == set(layers)
        for layer in layers:
            assert torch.equal(of_layers[layer], alone[layer])
    with pytest.raises(ValueError, match="quantity='mass'"):
        reduce_influences(model, tokens, NextToken(), quantities=["mass"], **options)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layers", [[2], [1], [2, 0]])
def test_selected_layers_are_the_same_maps(backend: str, layers: list[int]) -> None:
    model = tiny_model("qwen2", backend=backend, dtype=torch.float64)
    tokens = random_tokens(N_TOKENS)[0]
    whole = influence(model, tokens, NextToken())
    some = reduce_influence(model, tokens, NextToken(), layers=layers, reduce=lambda layer: layer)
    assert set(some) == set(layers)
    for layer in layers:
        assert_equal(some[layer], whole[layer], 1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_hooks_of_others_take_part_and_stay(backend: str) -> None:
    """An edit of scores that depends on the row, as an intervention makes, stays exact."""
    model = tiny_model("qwen2", backend=backend, dtype=torch.float64)
    tokens = random_tokens(N_TOKENS)[0]

    def sharpen(scores: torch.Tensor, hook: Any) -> torch.Tensor:
        return scores * 1.5 + scores[..., :1].tanh()

    plain = influence(model, tokens, NextToken())
    with model.hooks(fwd_hooks=[("blocks.1.attn.hook_attn_scores", sharpen)]):
        edited = influence(model, tokens, NextToken())
        truth = one_backward_per_token(model, tokens, NextToken())
        again = influence(model, tokens, NextToken())
    assert_equal(edited, truth, 1e-10)
    assert torch.equal(edited, again)
    assert (edited - plain).abs().max() > 1e-3
    assert torch.equal(influence(model, tokens, NextToken()), plain)


@pytest.mark.parametrize("backend", BACKENDS)
def test_model_is_left_as_it_was(backend: str) -> None:
    model = tiny_model("qwen2", backend=backend)
    tokens = random_tokens(N_TOKENS)[0]
    before = model(tokens.unsqueeze(0), return_type="logits")
    flags = [parameter.requires_grad for parameter in model.parameters()]
    with torch.no_grad():
        influence(model, tokens, NextToken())
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(model(tokens.unsqueeze(0), return_type="logits"), before)
    assert not any(point.fwd_hooks or point.bwd_hooks for point in model.hook_dict.values())


@pytest.mark.parametrize("backend", BACKENDS)
def test_works_in_inference_mode(backend: str) -> None:
    model = tiny_model("qwen2", backend=backend)
    tokens = random_tokens(N_TOKENS)[0]
    expected = influence(model, tokens, NextToken())
    with torch.inference_mode():
        assert torch.equal(influence(model, tokens, NextToken()), expected)


def test_logits_that_are_not_finite_are_refused() -> None:
    model = tiny_model("qwen2")
    with torch.no_grad():
        next(model.parameters())[20] = torch.nan
    tokens = random_tokens(N_TOKENS)[0]
    tokens[4] = 20
    with pytest.raises(ValueError, match="logits are not finite"):
        influence(model, tokens, NextToken())
    assert not any(point.fwd_hooks or point.bwd_hooks for point in model.hook_dict.values())


def test_both_classes_agree() -> None:
    if not has_hooked():
        pytest.skip("this TransformerLens has no HookedTransformer to compare with")
    tokens = random_tokens(N_TOKENS)[0]
    maps = [
        influence(tiny_model("qwen2", backend=backend), tokens, NextToken()) for backend in BACKENDS
    ]
    assert_equal(maps[0], maps[1], 1e-5)
