"""Aggregates of the map against loops over steps; what an edit cannot reach stays as it was."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import step_saliency as ss
from analyses.instruments.step_maps import READINGS, step_map, step_maps
from analyses.material.problems import read_items
from analyses.mediation import aggregates as module
from analyses.mediation.aggregates import (
    AGGREGATES,
    FAKE,
    AggregateSettings,
    aggregate_tables,
    aggregates,
    measured,
)
from step_saliency.trace import Trace
from tests.shuffled import BOUNDS, N_SETS, rejected
from tests.tiny import BACKENDS, random_tokens, tiny_model

REGIONS = ["template", *["question"] * 2, *["thinking"] * 4, *["summary"] * 2]
STARTS = [0, 2, 5, 9, 12, 16, 20, 24, 27]
FAST: dict[str, Any] = {"n_resamples": 50, "n_permutations": 499}


@pytest.fixture(scope="module")
def trace() -> Trace:
    return Trace.from_tokens(random_tokens(31)[0], starts=STARTS, regions=REGIONS)


def by_loops(maps: torch.Tensor, layers: list[int], row_of: dict[int, list[int]]) -> float:
    """Mean over rows and layers of the share on some steps, beyond that of a uniform row."""
    counted = range(1, len(REGIONS))
    values = []
    for layer in layers:
        for i, keys in row_of.items():
            row = maps[layer, i].double()
            share = sum(float(row[j]) for j in keys) / sum(float(row[j]) for j in counted)
            values.append(share - len(keys) / i)  # mean pooling: each of steps 1 to i alike
    return float(np.mean(values))


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_aggregates_by_loops(backend: Any, reading: Any, trace: Trace) -> None:
    model = tiny_model("qwen2", backend=backend, n_layers=6)
    saliency = step_map(model, trace, reading)
    found = aggregates(saliency).set_index(["aggregate", "band"])["value"]
    rows = {
        "thinking_self": {i: [i] for i in (4, 5, 6)},
        "question_mass": {i: [1, 2] for i in (4, 5, 6)},
        "summary_self": {7: [7], 8: [7, 8]},
        "summary_self_last": {7: [5, 6, 7], 8: [5, 6, 7, 8]},
    }
    layers = {"shallow": [0, 1], "deep": [4, 5], "middle": [2, 3]}
    for name, row_of in rows.items():
        for band in (AGGREGATES[name], "middle"):
            expected = by_loops(saliency.maps, layers[band], row_of)
            assert found[name, band] == pytest.approx(expected, abs=1e-6), (name, band)


@pytest.mark.parametrize("backend", BACKENDS)
def test_readings_together_are_those_alone(backend: Any, trace: Trace) -> None:
    model = tiny_model("llama", backend=backend)
    together = step_maps(model, trace)
    for reading in READINGS:
        assert torch.equal(together[reading].maps, step_map(model, trace, reading).maps)
    assert together["attention"].objective == "attention"


def test_momentum_of_deep_layers_leaves_the_attention_of_shallow_ones() -> None:
    model = ss.load_model("reasoner")
    settings = AggregateSettings(n=2, n_maps=2)
    values = measured(model, read_items(settings), settings, readings=["attention"])
    assert set(values["condition"]) == {"baseline", "oeb", "smi", "both", FAKE}
    wide = values[values["band"] == "shallow"].pivot(
        index=["problem", "aggregate"], columns="condition", values="value"
    )
    assert (wide["smi"] == wide["baseline"]).all()
    assert (wide["both"] == wide["oeb"]).all()
    question = wide.xs("question_mass", level="aggregate")
    assert (question["oeb"] > question["baseline"]).all()
    tables = aggregate_tables(values, **FAST)
    assert set(tables) == {"summary", "placebos", "levels"}
    assert set(tables["levels"]["band"]) == {"shallow", "deep", "middle", "difference"}


def drawn(rng: np.random.Generator, effect: float = 0.0) -> pd.DataFrame:
    """Aggregates of 60 problems that differ by problem, with an effect of StepFlow alone."""
    level = rng.normal(size=60)
    tables = []
    for condition in ("baseline", "both", FAKE):
        for band in ("shallow", "middle"):
            value = level + rng.normal(size=60) + effect * (condition == "both")
            tables.append(
                pd.DataFrame(
                    {
                        "problem": [f"p{i}" for i in range(60)],
                        "condition": condition,
                        "reading": "loss",
                        "aggregate": "thinking_self",
                        "band": band,
                        "value": value,
                    }
                )
            )
    return pd.concat(tables, ignore_index=True)


def test_a_planted_change_is_found_against_none_and_against_the_placebo() -> None:
    tables = aggregate_tables(drawn(np.random.default_rng(1), effect=-1.0), **FAST)
    both = tables["summary"].query("condition == 'both'").iloc[0]
    assert both["upper"] < -0.3
    assert tables["placebos"].iloc[0]["upper"] < -0.3


def test_answers_without_two_thinking_steps_leave_nothing(monkeypatch: Any) -> None:
    short = Trace.from_tokens([5, 6, 7], starts=[0, 1], regions=["question", "thinking"])
    monkeypatch.setattr(module, "greedy_answers", lambda *_: [short])
    monkeypatch.setattr(module, "condition_flows", lambda *_: {"baseline": None})
    monkeypatch.setattr(module, "_cut", lambda model, item, answer: answer)
    settings = AggregateSettings(n=1)
    values = measured(None, read_items(settings), settings)
    assert values.empty
    assert module.summarise(values, settings) == {}


@pytest.mark.nightly
def test_power_for_half_a_standard_deviation() -> None:
    """As large as what StepFlow does to the pattern is said to be; against none and the placebo."""
    rng = np.random.default_rng(3)
    found = []
    for _ in range(60):
        tables = aggregate_tables(drawn(rng, effect=-0.75), **FAST)
        both = tables["summary"].query("condition == 'both'")
        found.append([(table["p"] <= 0.05).all() for table in (both, tables["placebos"])])
    assert (np.mean(found, axis=0) > 0.8).all()


@pytest.mark.nightly
def test_false_positive_rate() -> None:
    rng = np.random.default_rng(2)
    tables = (aggregate_tables(drawn(rng), **FAST) for _ in range(N_SETS))

    def p_values(of_set: dict[str, pd.DataFrame]) -> np.ndarray:
        levels = of_set["levels"].query("band == 'difference'")
        return np.concatenate([of_set["summary"]["p"], of_set["placebos"]["p"], levels["p"]])

    assert BOUNDS[0] <= rejected(tables, p_values) <= BOUNDS[1]
