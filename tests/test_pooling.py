"""Pooling: against loops over pairs of positions, and by hand."""

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from step_saliency.saliency.pooling import (
    defined_pairs,
    mean_over_layers,
    normalise,
    step_layout,
    sum_tokens,
)

POOLS = ("mean", "mass", "block_mean", "sum")


def by_loops(
    influence: torch.Tensor, step_ids: list[int], *, pool: str, rows: str, last_row: bool
) -> torch.Tensor:
    """The definition, pair by pair."""
    n_tokens, n_steps = len(step_ids), step_ids[-1] + 1
    queries = range(n_tokens if last_row else n_tokens - 1)
    row_step = {t: step_ids[t] if rows == "query" else step_ids[t + 1] for t in queries}
    result = [[0.0] * n_steps for _ in range(n_steps)]
    entries = influence.tolist()
    for i, j in itertools.product(range(n_steps), repeat=2):
        in_row = [t for t in queries if row_step[t] == i]
        in_column = [k for k in range(n_tokens) if step_ids[k] == j]
        pairs = [(t, k) for t in in_row for k in in_column if k <= t]
        total = sum(entries[t][k] for t, k in pairs)
        below = {
            "mean": len(pairs),
            "mass": len(in_row),
            "block_mean": len(in_row) * len(in_column),
            "sum": 1,
        }[pool]
        result[i][j] = total / max(below, 1)
    return torch.tensor(result, dtype=influence.dtype)


@st.composite
def layouts(draw: st.DrawFn) -> tuple[list[int], int]:
    lengths = draw(st.lists(st.integers(1, 5), min_size=1, max_size=6))
    return [i for i, length in enumerate(lengths) for _ in range(length)], draw(st.integers(0, 99))


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize(
    ("rows", "last_row"), [("query", False), ("target", False), ("query", True)]
)
@settings(max_examples=25, deadline=None)
@given(case=layouts())
def test_equals_the_definition(
    case: tuple[list[int], int], pool: str, rows: str, last_row: bool
) -> None:
    step_ids, seed = case
    generator = torch.Generator().manual_seed(seed)
    n_tokens = len(step_ids)
    influence = torch.rand(n_tokens, n_tokens, generator=generator, dtype=torch.float64).tril()
    if not last_row:
        influence[-1] = 0
    layout = step_layout(torch.tensor(step_ids), rows=rows, last_row=last_row)
    found = normalise(sum_tokens(influence, layout), layout, pool)
    truth = by_loops(influence, step_ids, pool=pool, rows=rows, last_row=last_row)
    assert torch.allclose(found, truth, atol=1e-12)


def test_by_hand() -> None:
    """Steps of 2, 1 and 2 tokens; row 4 predicts nothing."""
    influence = torch.arange(1.0, 26.0).reshape(5, 5).tril()
    layout = step_layout(torch.tensor([0, 0, 1, 2, 2]))
    totals = sum_tokens(influence, layout)
    assert totals.tolist() == [
        [1 + 6 + 7, 0, 0],
        [11 + 12, 13, 0],
        [16 + 17, 18, 19],
    ]
    assert layout.pair_counts.tolist() == [[3, 0, 0], [2, 1, 0], [2, 1, 1]]
    assert normalise(totals, layout, "mean")[2].tolist() == [16.5, 18, 19]
    assert normalise(totals, layout, "mass")[2].tolist() == [33, 18, 19]
    assert normalise(totals, layout, "block_mean")[2].tolist() == [16.5, 18, 9.5]
    assert normalise(totals, layout, "block_mean")[0, 0].item() == 14 / 4


def test_rows_by_target_shift_by_one() -> None:
    layout = step_layout(torch.tensor([0, 0, 1, 2, 2]), rows="target")
    assert layout.row_steps.tolist() == [0, 1, 2, 2, -1]
    assert defined_pairs(layout).tolist() == [
        [True, False, False],
        [True, False, False],
        [True, True, True],
    ]


def test_last_position_counts_in_no_mean() -> None:
    """A step that is the last position alone has an empty row and nothing defined."""
    layout = step_layout(torch.tensor([0, 0, 1]))
    influence = torch.ones(3, 3).tril()
    means = normalise(sum_tokens(influence, layout), layout, "mean")
    assert means.tolist() == [[1, 0], [0, 0]]
    assert defined_pairs(layout).tolist() == [[True, False], [False, False]]


def test_uniform_influence_has_uniform_mean() -> None:
    """`mean` undoes the length of steps; `block_mean` does not, below the diagonal it does."""
    layout = step_layout(torch.tensor([0] * 3 + [1] * 7 + [2] * 2))
    influence = torch.ones(12, 12).tril()
    totals = sum_tokens(influence, layout)
    assert torch.equal(normalise(totals, layout, "mean"), torch.ones(3, 3).tril())
    block = normalise(totals, layout, "block_mean")
    assert block[1, 0] == 1
    assert block[1, 1] < 0.6


def test_sum_adds_up_to_the_whole() -> None:
    influence = torch.rand(4, 9, 9).tril()
    influence[:, -1] = 0
    layout = step_layout(torch.tensor([0, 0, 1, 1, 1, 2, 3, 3, 3]))
    assert torch.allclose(sum_tokens(influence, layout).sum((-1, -2)), influence.sum((-1, -2)))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"rows": "key"}, "rows='key' is unknown"),
        ({"rows": "target", "last_row": True}, "does not have"),
    ],
)
def test_bad_rows(options: dict, match: str) -> None:
    step_ids = torch.tensor([0, 1])
    with pytest.raises(ValueError, match=match):
        step_layout(step_ids, **options)


def test_bad_pool() -> None:
    layout = step_layout(torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="choose one of mean, mass"):
        normalise(torch.zeros(2, 2), layout, "max")


@pytest.mark.parametrize("window", [None, 1, 3, 8, 13, 14, 100])
@pytest.mark.parametrize("rows", ["query", "target"])
def test_pairs_within_a_window_are_those_that_are_counted_one_by_one(
    rows: Any, window: int | None
) -> None:
    step_ids = torch.tensor([0, 0, 1, 2, 2, 2, 2, 3, 4, 4, 4, 4, 4, 5])
    layout = step_layout(step_ids, rows=rows, last_row=rows == "query")
    padded = replace(layout, key_steps=torch.where(torch.arange(14) < 2, -1, layout.key_steps))
    for each in (layout, padded):
        counted = torch.zeros(6, 6, dtype=torch.long)
        for t, k in itertools.product(range(14), repeat=2):
            i, j = int(each.row_steps[t]), int(each.key_steps[k])
            if i >= 0 and j >= 0 and k <= t and t - k < (window or 14):
                counted[i, j] += 1
        assert each.pairs_within(window).equal(counted)


def test_the_mean_over_layers_is_of_those_that_see_a_pair() -> None:
    """Two layers, the second with a window of one position: the far pair is the first one's."""
    layout = step_layout(torch.tensor([0, 1, 2]), last_row=True)
    maps = torch.tensor([[[1.0, 0, 0], [2, 4, 0], [6, 8, 3]], [[3.0, 0, 0], [0, 2, 0], [0, 0, 5]]])
    mean = mean_over_layers(maps, defined_pairs(layout, [None, 1]))
    assert mean.tolist() == [[2, 0, 0], [2, 3, 0], [6, 8, 4]]
