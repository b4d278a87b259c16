"""The pilot: its power against simulated tests, its masses against patterns, its tables."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.contingency_tables import mcnemar
from tiny import BACKENDS, random_tokens, tiny_model

import step_saliency as ss
from analyses.pilot import (
    ANALYSIS,
    PilotSettings,
    mass_table,
    power_table,
    run_unit,
    smallest_gain,
    strengths,
    summarise,
    units,
)
from analyses.running.settings import parse
from step_saliency.trace import Trace

REGIONS = ["template", "question", "question", "thinking", "thinking", "thinking", "summary"]
STARTS = [0, 2, 5, 9, 12, 16, 20]


@pytest.mark.parametrize(("flips", "points"), [(0.05, 2.5), (0.1, 3.5), (0.2, 5.0)])
def test_smallest_gain_of_660_problems(flips: float, points: float) -> None:
    assert 100 * smallest_gain(flips, 660) == pytest.approx(points, abs=0.15)


@pytest.mark.parametrize(("flips", "n"), [(0.1, 660), (0.3, 200)])
def test_smallest_gain_has_its_power_in_simulated_tests(flips: float, n: int) -> None:
    gain = smallest_gain(flips, n)
    rng = np.random.default_rng(0)
    shares = [(flips + gain) / 2, (flips - gain) / 2, 1 - flips]
    counts = rng.multinomial(n, shares, size=800)
    found = [
        mcnemar([[0, up], [down, 0]], exact=False, correction=False).pvalue < 0.05
        for up, down, _ in counts
    ]
    assert np.mean(found) == pytest.approx(0.8, abs=0.045)


def test_gains_that_no_flips_could_show() -> None:
    assert math.isnan(smallest_gain(0.0, 660))
    assert math.isnan(smallest_gain(0.005, 660))
    assert smallest_gain(0.1, 2_000) < smallest_gain(0.1, 660)
    table = power_table({"oeb": 0.02}, 660)
    assert table["flips_of"].tolist() == ["oeb", "5%", "10%", "20%", "30%"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_masses_by_hand(backend: Any) -> None:
    model = tiny_model("qwen2", backend=backend, n_layers=3)
    tokens = random_tokens(23)
    trace = Trace.from_tokens(tokens[0], starts=STARTS, regions=REGIONS)
    table = mass_table(model, [trace, trace]).set_index(["layer", "region"])
    _, cache = model.run_with_cache(tokens)
    ids = trace.step_ids.tolist()
    region = [REGIONS[i] for i in ids]
    for layer in range(3):
        pattern = cache[f"blocks.{layer}.attn.hook_pattern"][0].double().mean(0)
        for name, bridge in (("thinking", "question"), ("summary", "thinking")):
            rows = [t for t in range(23) if region[t] == name]
            sums = {"bridge": 0.0, "current": 0.0, "other": 0.0}
            for t in rows:
                for k in range(t + 1):
                    key = {bridge: "bridge", name: "current"}.get(region[k], "other")
                    sums[key] += float(pattern[t, k])
            row = table.loc[(layer, name)]
            assert row["n_rows"] == 2 * len(rows)
            for key, total in sums.items():
                assert row[key] == pytest.approx(total / len(rows), abs=1e-5)


def test_strengths_are_linear_in_alpha() -> None:
    doses = pd.DataFrame({"condition": ["smi"], "injected_norm": [0.008], "alpha": [0.06]})
    table = strengths(doses)
    assert table["share_of_norm"].tolist() == [0.008, 0.05, 0.1]
    assert table["alpha"].tolist() == pytest.approx([0.06, 0.375, 0.75])


def test_a_small_pilot() -> None:
    settings = parse(PilotSettings, "--n", "3", "--n-read", "2", "--level", "easy")
    model = ss.load_model("reasoner")
    values = pd.concat([run_unit(model, unit, settings) for unit in units(settings)])
    tables = summarise(values.reset_index(drop=True), settings)
    assert set(tables) == {"summary", "power", "doses", "strengths", "masses"}
    summary = tables["summary"].set_index(["outcome", "condition"])
    assert ("flips", "baseline") not in summary.index
    written = ss.generate(
        model,
        [problem.question for problem in ss.tasks.make_problems(3, "easy", 0)],
        temperature=0.0,
        max_new_tokens=settings.max_new_tokens,
        progress=False,
    )
    lengths = [trace.meta["response_tokens"] for trace in written]
    assert summary.loc[("n_tokens", "baseline"), "estimate"] == pytest.approx(np.mean(lengths))
    sums = tables["masses"][["bridge", "current", "other"]].sum(axis=1)
    assert sums.to_numpy(float) == pytest.approx(1.0, abs=1e-4)
    assert tables["doses"]["condition"].tolist() == ["oeb", "smi", "both", "both"]
    assert ANALYSIS.name == "pilot"
