"""Half precision in the fast loop: rows are held, and left alone, as by scores of float64."""

from typing import Any

import pytest
import torch
from tiny import tiny_tokenizer, tiny_transformers
from torch import nn

from step_saliency.intervene.expected import ExpectedRows
from step_saliency.intervene.fast import FastSession
from step_saliency.intervene.fast.call import AttentionCall, masked
from step_saliency.intervene.groups import KeyGroup
from step_saliency.intervene.oeb import OddsEqualBridge

HALF = (torch.bfloat16, torch.float16)
QUESTION = "What is 3 and 4?"
TAU = 0.3


class ByScores(OddsEqualBridge):
    """The same bridge as any edit of scores."""


def session_of(edit: OddsEqualBridge, n_thought: int) -> FastSession:
    """A session that has read a prompt and thinking, and then one token."""
    tokenizer = tiny_tokenizer()
    session = FastSession(tiny_transformers("qwen2"), [edit], tokenizer)
    question, mark = (tokenizer(text)["input_ids"] for text in (QUESTION, "<think>\n"))
    tokens = torch.tensor([[*question, *mark, *range(40, 40 + n_thought)]])
    session.expect(ExpectedRows(questions=[QUESTION], n_prompt=len(question), format="think"))
    for new, n_past in ((tokens[:, :-1], 0), (tokens[:, -1:], tokens.shape[1] - 1)):
        session.read(new, torch.ones_like(new, dtype=torch.bool), n_past=n_past)
    return session


def attended(session: FastSession, *tensors: torch.Tensor) -> torch.Tensor:
    module = nn.Identity()
    module.layer_idx = 0  # type: ignore[assignment]
    return session.attention(module, *tensors, None)[0]


@pytest.mark.parametrize("kind", [OddsEqualBridge, ByScores])
@pytest.mark.parametrize("dtype", HALF)
def test_rows_are_held_at_tau_and_others_left_alone(kind: Any, dtype: torch.dtype) -> None:
    """Large scores, which half precision would round by a tenth; values say where a key is."""
    session = session_of(kind([0], tau_max=TAU), n_thought=12)
    assert session.labels is not None
    groups = session.edits[0].groups(session.labels, 1)[0, 0]  # type: ignore[attr-defined]
    n_keys, n_heads = len(groups), 64
    generator = torch.Generator().manual_seed(0)
    query, key = (
        4 * torch.randn(1, n_heads, n, 8, generator=generator, dtype=torch.float64).to(dtype)
        for n in (1, n_keys)
    )
    value = torch.zeros(1, n_heads, n_keys, 3, dtype=dtype)
    for column, group in enumerate((KeyGroup.BRIDGE, KeyGroup.CURRENT, KeyGroup.OTHER)):
        value[:, :, groups == group, column] = 1
    masses = attended(session, query, key, value)[0, 0].double()
    scores = (query.double() @ key.double().mT)[0, :, 0] * 8**-0.5
    exact = scores.softmax(-1) @ value[0, 0].double()
    low = exact[:, 0] < TAU * (1 - 1e-3)
    high = exact[:, 0] > TAU * (1 + 1e-3)
    tolerance = 2 * torch.finfo(dtype).eps
    assert 15 < low.sum() < n_heads - 15
    torch.testing.assert_close(masses[high], exact[high], rtol=tolerance, atol=1e-3 * tolerance)
    feasible = low & (exact[:, 2] < 1 - 2 * TAU)
    assert feasible.any()
    held = torch.full_like(masses[feasible, 0], TAU)
    torch.testing.assert_close(masses[feasible, 0], held, rtol=tolerance, atol=0)
    torch.testing.assert_close(masses[low, 2], exact[low, 2], rtol=tolerance, atol=1e-3 * tolerance)


@pytest.mark.parametrize("dtype", HALF)
def test_masks_of_half_precision_hide_in_float32(dtype: torch.dtype) -> None:
    mask = torch.zeros(1, 1, 1, 4, dtype=dtype)
    mask[..., 1], mask[..., 2] = torch.finfo(dtype).min, float("-inf")
    hidden = masked(torch.randn(1, 2, 1, 4), mask)
    assert hidden[0, 0, 0].lt(torch.finfo(torch.float32).min / 4).tolist() == [0, 1, 1, 0]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", HALF)
def test_scores_on_the_gpu_are_those_of_float32(dtype: torch.dtype) -> None:
    tensors = [8 * torch.randn(2, heads, n, 64) for heads, n in ((8, 1), (2, 300), (2, 300))]
    half = [tensor.to("cuda", dtype) for tensor in tensors]
    module = nn.Identity()
    scores, exact = (
        AttentionCall(module, *three, None, {}).scores(slice(0, 1))
        for three in (half, [tensor.double() for tensor in half])
    )
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores.double(), exact, rtol=1e-4, atol=1e-3)
