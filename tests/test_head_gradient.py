"""Heads ranked by one gradient: the gradient is that of finite differences, the tests are fair."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import step_saliency as ss
from analyses.head_steering.doses import BridgeDoses, kl_of
from analyses.head_steering.gradient import (
    bridge_gains,
    gradient_table,
    random_heads,
    ranked,
)
from analyses.head_steering.steering import bridge_on
from analyses.instruments.margins import FirstError, first_error
from step_saliency.intervene import StepLabels
from step_saliency.intervene.matching import effects_on
from step_saliency.intervene.oeb import odds_equal_scores, visible_keys
from step_saliency.tasks import make_problems
from tests.shuffled import N_SETS, rejected, within_bounds
from tests.tiny import BACKENDS

FAST: dict[str, Any] = {"n_resamples": 50, "n_permutations": 499}


def an_error(model: Any) -> FirstError:
    problem = make_problems(1, level="easy", seed=4)[0]
    found = first_error(model, problem, problem.corrupt("recall", seed=1).response)
    assert found is not None
    return found


def margin_at(model: Any, at: FirstError, layer: int, head: int, share: float) -> float:
    """Margin with a share of the bridge's shift added to the scores of one head."""
    groups = bridge_on([(layer, head)], tau_max=0.3).groups(
        StepLabels.from_traces([at.trace]), len(at.trace)
    )

    def add(scores: torch.Tensor, hook: Any) -> torch.Tensor:
        edited, _ = odds_equal_scores(scores, groups[:, None], tau_max=0.3)
        moved = torch.where(visible_keys(scores), edited - scores, 0.0)
        chosen = torch.zeros(scores.shape[1]).index_fill(0, torch.tensor([head]), 1.0)
        return scores + share * chosen[:, None, None] * moved

    tokens = at.trace.tokens[None]
    hooks = [(f"blocks.{layer}.attn.hook_attn_scores", add)]
    with torch.no_grad(), model.hooks(fwd_hooks=hooks):
        row = model(tokens, attention_mask=torch.ones_like(tokens))[0, at.position].double()
    return float(row[at.right] - row[at.written])


@pytest.mark.parametrize("backend", BACKENDS)
def test_gains_are_those_of_finite_differences(backend: Any) -> None:
    model = ss.load_model("reasoner", backend=backend)
    at = an_error(model)
    gains = bridge_gains(model, at, tau_max=0.3)
    assert gains.abs().max() > 0.01
    strongest = ranked(gains.abs()[None])[:4]
    for layer, head in strongest:
        step = 0.02
        slope = (
            margin_at(model, at, layer, head, step) - margin_at(model, at, layer, head, -step)
        ) / (2 * step)
        assert float(gains[layer, head]) == pytest.approx(slope, rel=0.05, abs=2e-3)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_heads_in_order_of_their_mean_gain() -> None:
    gains = torch.tensor([[[0.0, 3.0], [1.0, 2.0]], [[0.0, 1.0], [5.0, 0.0]]])
    assert ranked(gains) == [(1, 0), (0, 1), (1, 1), (0, 0)]
    rng = np.random.default_rng(0)
    drawn = [tuple(sorted(random_heads((3, 2), 2, rng))) for _ in range(200)]
    assert len(set(drawn)) == 15, "every pair of six comes up"


def test_random_heads_are_matched_in_dose() -> None:
    model = ss.load_model("reasoner")
    traces = [p.trace(model.tokenizer) for p in make_problems(40, level="easy", seed=6)]
    best = bridge_on([(0, 1), (1, 2)], tau_max=0.3)
    doses = BridgeDoses(model, traces[:24])
    kl = kl_of(effects_on(model, best, traces[:24]))
    fake = doses.matched([(3, 0), (5, 1)], kl, tau_max=0.3)
    assert fake is not None
    held_out = [kl_of(effects_on(model, edit, traces[24:])) for edit in (best, fake.edit)]
    assert held_out[1] == pytest.approx(held_out[0], rel=0.05)
    assert BridgeDoses(model, traces[:2]).matched([(3, 0)], 50.0, tau_max=0.3) is None


def values_of(
    rng: np.random.Generator, *, top: float = 0.0, n_problems: int = 40, draws: int = 20
) -> pd.DataFrame:
    """Margins under no edit, the best heads and random sets; sets differ a little by themselves."""
    base = rng.normal(-4, 1, n_problems)
    names = ["top-2", *(f"random-2-{i}" for i in range(draws))]
    rows = [pd.DataFrame({"condition": "baseline", "value": base, "k": pd.NA})]
    for name in names:
        own = 0.3 * rng.standard_t(4, n_problems) + (top if name == "top-2" else 0.0)
        rows.append(pd.DataFrame({"condition": name, "value": base + own, "k": 2}))
    table = pd.concat([frame.assign(problem=range(n_problems)) for frame in rows])
    return table.astype({"k": "Int64"})


def test_planted_heads_are_found_and_idle_ones_are_not() -> None:
    rng = np.random.default_rng(0)
    planted = gradient_table(values_of(rng, top=0.4), **FAST).set_index("contrast")
    assert planted.loc["top - random", "lower"] > 0.1
    assert planted.loc["rank", "estimate"] == pytest.approx(1 / 21)
    idle = gradient_table(values_of(rng), **FAST).set_index("contrast")
    assert idle.loc["top - random", "lower"] < 0 < idle.loc["top - random", "upper"]
    assert idle.loc["rank", "estimate"] > 1 / 21


def test_sets_that_differ_are_told_from_the_best_by_their_rank() -> None:
    """The best are a set like any other, each of which does its own to all problems alike."""
    rng = np.random.default_rng(4)
    rates = {"interval": 0, "rank": 0}
    for _ in range(100):
        values = values_of(rng, n_problems=30)
        own = {name: 0.2 * rng.normal() for name in values["condition"].unique()}
        values["value"] += values["condition"].map(own | {"baseline": 0.0})
        table = gradient_table(values, **FAST).set_index("contrast")
        rates["interval"] += table.loc["top - random", "p"] <= 0.05
        rates["rank"] += table.loc["rank", "estimate"] <= 0.05
    assert rates["rank"] <= 10
    assert rates["interval"] > 30


@pytest.mark.nightly
def test_false_positive_rate_and_power() -> None:
    """Power for a margin as much higher as the bridge raises it at the paper's strength."""
    rng = np.random.default_rng(2)

    def p_values(table: pd.DataFrame) -> np.ndarray:
        return table.loc[table["contrast"] == "top - random", "p"].to_numpy()

    nulls = (gradient_table(values_of(rng), **FAST) for _ in range(N_SETS))
    rates = {"top - random": rejected(nulls, p_values)}
    assert within_bounds(rates), rates
    planted = (gradient_table(values_of(rng, top=0.163), **FAST) for _ in range(N_SETS))
    assert rejected(planted, p_values) > 0.5
