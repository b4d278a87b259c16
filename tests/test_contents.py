"""Changes of weights that no version counts: they are seen, and no model decodes or is mapped with
weights that it no longer has."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_hooks_of_others import totals
from test_shared_weights import prompt_of, saved, written
from test_streaming import make_trace
from tiny import BACKENDS, Arch, Backend, tiny_model, tiny_transformers
from torch import Tensor

import step_saliency as ss
from step_saliency.models.contents import ROW, contents_digest
from step_saliency.models.identity import WeightsState, all_weights_digest, is_changed
from step_saliency.models.reference import reference_model

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.uint8)
CHANGES: dict[str, Callable[[Tensor], Any]] = {
    "doubled": lambda x: x.mul_(2),
    "sign": lambda x: x.neg_(),
    "one number": lambda x: x.view(-1)[-1:].copy_(x.view(-1)[-1:] + 3),
    "a row": lambda x: x[1].copy_(x[0]),
    "rows change places": lambda x: x.copy_(x.flip(0)),
}


def drawn(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return (10 * values.abs() + 1).to(dtype) if dtype == torch.uint8 else values.to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(2, 1), (3, 5), (64, 4096), (2048, 8 * ROW + 3)])
@pytest.mark.parametrize("change", CHANGES)
def test_changes_show(change: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    if dtype == torch.uint8 and change == "sign":
        return
    if change == "rows change places" and shape[0] * shape[1] < 100:
        return  # within one sum
    tensor = drawn(shape, dtype)
    before = contents_digest([tensor])
    assert contents_digest([tensor.clone()]) == before
    CHANGES[change](tensor)
    assert contents_digest([tensor]) != before


def test_views_gaps_and_nothing_at_all() -> None:
    whole = drawn((40, 300), torch.float32)
    for view in (whole.T, whole[3:, 1:-2], whole[:, ::2], whole.view(20, 2, 300).permute(1, 2, 0)):
        before = contents_digest([view])
        view[0, 1] += 1
        assert contents_digest([view]) != before
    empty = [torch.zeros(0), torch.zeros(3, device="meta"), torch.tensor(True), torch.zeros(())]
    assert contents_digest(empty) == contents_digest(empty) != contents_digest([])
    assert contents_digest([whole[0], whole[1]]) != contents_digest([whole[1], whole[0]])


def test_threads_make_no_difference() -> None:
    tensor, n_threads = drawn((999, 1001), torch.bfloat16), torch.get_num_threads()
    digests = set()
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            digests.add(contents_digest([tensor]))
    finally:
        torch.set_num_threads(n_threads)
    assert len(digests) == 1


def double(weight: Tensor) -> None:
    weight.data.mul_(2)


def replace(weight: Tensor) -> None:
    weight.data = weight.data * 2


def write_by_numpy(weight: Tensor) -> None:
    weight.detach().numpy()[:] *= 2


UNCOUNTED = (double, replace, write_by_numpy)


@pytest.mark.parametrize("alter", UNCOUNTED)
def test_states_tell_of_changes_that_no_version_counts(alter: Any) -> None:
    model = tiny_transformers("qwen2")
    state, digest = WeightsState.of(model), all_weights_digest(model)
    assert state.is_still(model)
    weight = max(model.parameters(), key=torch.numel)
    version = weight._version
    alter(weight)
    assert weight._version == version
    assert not state.is_still(model)
    assert all_weights_digest(model) != digest


def test_weights_of_inference_tensors_too() -> None:
    with torch.inference_mode():
        model = tiny_transformers("qwen2")
        state = WeightsState.of(model)
        next(model.parameters()).mul_(2)
        assert not state.is_still(model)


def test_moving_a_model_changes_nothing(tmp_path: Path) -> None:
    model = ss.load_model(saved(tmp_path, "qwen2"))
    assert not is_changed(model.to(torch.float64))
    assert not is_changed(model.to(torch.float32))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("alter", UNCOUNTED)
@pytest.mark.parametrize("arch", ["qwen2", "gemma2"])
def test_a_model_decodes_with_the_weights_that_it_has(
    tmp_path: Path, arch: Arch, alter: Any, backend: Backend
) -> None:
    """Also where the prompt shows no difference: a token that it lacks."""
    model = ss.load_model(saved(tmp_path, arch), backend=backend)
    before = written(model, "fast")
    token = next(token for token in before if token not in prompt_of(model))
    reference_model(model)
    weight = next(iter(model.embed.parameters()))
    if alter is replace:
        weight.data = torch.where(torch.arange(len(weight))[:, None] == token, -3, 1) * weight.data
    else:
        row = weight.data[token] if alter is double else weight.detach().numpy()[token]
        row *= -3
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "decoding by the model's hooks")
        now = written(model, "auto")
    assert now == written(model, "hooks") != before


@pytest.mark.parametrize("alter", UNCOUNTED)
def test_a_map_is_of_the_weights_that_the_model_has(alter: Any) -> None:
    """A bridge splits joint projections, and the attention inside of it keeps the joint ones."""
    trace, model = make_trace(20), tiny_model("neox", backend="bridge")
    ss.step_saliency(model, trace, method="streaming")
    alter(model.blocks[1].attn.v.weight)
    with pytest.raises(ValueError, match=r"last residuals differ by \d.*method='hooks'"):
        ss.step_saliency(model, trace, method="streaming")
    assert totals(model, trace, "hooks").isfinite().all()
