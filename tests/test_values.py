"""Value subspaces: what is removed is the component along them, and nothing else changes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from edit_passes import a_trace, activations, assert_same_in_every_pass, full_pass, load
from nights import mostly_at_night
from tiny import BACKENDS

from step_saliency.intervene.schedule import linear
from step_saliency.intervene.values import ValueProjection, principal_directions, projected

TRACE = a_trace()
LAYER = 1
Z = [f"blocks.{layer}.attn.hook_z" for layer in range(3)]
V = f"blocks.{LAYER}.attn.hook_v"
STEPS = TRACE.step_ids
BASIS_STEPS = {
    # step of the queries: steps whose values span its basis
    "previous": {2: [1], 3: [2], 4: [3], 5: [4], 7: [5], 8: [7]},
    "question": {step: [1] for step in (2, 3, 4, 5, 7, 8)},
    "thinking": {3: [2], 4: [2, 3], 5: [2, 3, 4], 7: [2, 3, 4, 5], 8: [2, 3, 4, 5]},
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("basis", BASIS_STEPS)
@pytest.mark.parametrize("strength", [-1.0, 0.7])
def test_against_a_singular_value_decomposition_by_hand(
    basis: str, strength: float, backend: str
) -> None:
    model = load("qwen2", backend)
    edit = ValueProjection([LAYER], basis=basis, rank=3, strength=strength)
    before = activations(model, TRACE, [*Z, V])
    after = activations(model, TRACE, Z, edit)
    values, z = before[V][0].double(), before[Z[LAYER]][0].double()
    expected = z.clone()
    for step, sources in BASIS_STEPS[basis].items():
        tokens = torch.isin(STEPS, torch.tensor(sources))
        for head in range(4):
            _, _, right = torch.linalg.svd(values[tokens, head // 2], full_matrices=False)
            along = right[: min(3, int(tokens.sum()))]
            rows = z[STEPS.eq(step), head]
            expected[STEPS.eq(step), head] = rows + strength * (rows @ along.T) @ along
    assert torch.allclose(after[Z[LAYER]][0].double(), expected, atol=1e-5)
    untouched = ~torch.isin(STEPS, torch.tensor(list(BASIS_STEPS[basis])))
    assert torch.equal(after[Z[LAYER]][0, untouched], before[Z[LAYER]][0, untouched])
    assert torch.equal(after[Z[0]], before[Z[0]])
    assert not torch.equal(after[Z[2]], before[Z[2]])


@pytest.mark.parametrize("backend", BACKENDS)
def test_chosen_heads_only(backend: str) -> None:
    model = load("qwen2", backend)
    before, after = (
        activations(model, TRACE, Z, edit)
        for edit in (None, ValueProjection([0, LAYER], heads={LAYER: [2]}))
    )
    assert torch.equal(after[Z[0]], before[Z[0]])
    others = [0, 1, 3]
    assert torch.equal(after[Z[LAYER]][:, :, others], before[Z[LAYER]][:, :, others])
    assert not torch.equal(after[Z[LAYER]][:, :, 2], before[Z[LAYER]][:, :, 2])


@pytest.mark.parametrize("backend", BACKENDS)
def test_strength_zero_changes_no_bit(backend: str) -> None:
    model = load("qwen2", backend)
    plain = full_pass(model, TRACE)
    for strength in (0.0, {1: 0.0}, linear(0, 0)):
        assert torch.equal(
            full_pass(model, TRACE, ValueProjection([0, 1], strength=strength)), plain
        )
    assert torch.equal(full_pass(model, TRACE, ValueProjection([0, 1], steps=[99])), plain)


def test_removed_is_orthogonal_and_removing_again_changes_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(20, 2, 8, generator=generator, dtype=torch.float64)
    z = torch.randn(5, 6, 8, generator=generator, dtype=torch.float64)
    directions = principal_directions(values, 3)
    assert torch.allclose(directions.mT @ directions, torch.eye(3).double(), atol=1e-12)
    removed = projected(z, directions, -1.0)
    along = torch.einsum("thd,hdr->thr", removed, directions.repeat_interleave(3, 0))
    assert along.abs().max() < 1e-12
    assert torch.allclose(projected(removed, directions, -1.0), removed, atol=1e-12)
    doubled = projected(z, directions, 1.0)
    assert torch.allclose(doubled + removed, 2 * z, atol=1e-12)


def test_fewer_values_than_the_rank_span_what_they_span() -> None:
    """Two tokens, one of them twice: two directions, however many are asked for."""
    values = torch.tensor([[[3.0, 4.0, 0.0]], [[0.0, 0.0, 2.0]], [[3.0, 4.0, 0.0]]])
    for rank in (3, None):
        found = principal_directions(values, rank)[0]
        assert torch.allclose(found[:, 0].abs(), torch.tensor([0.6, 0.8, 0.0]).double())
        assert torch.allclose(found[:, 1].abs(), torch.tensor([0.0, 0.0, 1.0]).double())
        assert not found[:, 2].any()
    z = torch.tensor([[[4.0, -3.0, 0.0]]])
    assert torch.allclose(projected(z, principal_directions(values, None), -1.0), z)
    assert not principal_directions(torch.zeros(2, 1, 3), 2).any(), "no values, no direction"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("basis", mostly_at_night(BASIS_STEPS, "question"))
def test_cached_equals_full_and_batch_equals_single(basis: str, backend: str) -> None:
    model = load("qwen2", backend)
    traces = [TRACE, a_trace(lengths=(1, 8, 3, 4, 4, 2, 1, 6, 2), seed=3)]
    edit = ValueProjection([0, 1, 2], basis=basis, rank=2, strength=linear(-1.0, 1.0))
    assert_same_in_every_pass(model, traces, edit)


@pytest.mark.parametrize("backend", BACKENDS)
def test_in_layers_with_windows_and_sinks(backend: str) -> None:
    """Values from before the window are still there to span the basis."""
    model = load("gpt_oss", backend)
    edit = ValueProjection([0, 1], basis="question", rank=2, strength=-1.0)
    assert_same_in_every_pass(model, [TRACE], edit)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: ValueProjection([]), "must name layers"),
        (lambda: ValueProjection([0], basis="summary"), "basis='summary'"),
        (lambda: ValueProjection([0], rank=0), "rank=0"),
        (lambda: ValueProjection([0], regions=["answer"]), "unknown region"),
        (lambda: ValueProjection([0], heads=[9]).attached(load("qwen2")), r"heads \[9\]"),
    ],
)
def test_bad_options(make: Callable[[], Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()
