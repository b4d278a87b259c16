"""Length: what drifts with it under no effect at all, and which comparisons hold it fixed."""

import itertools
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from maps import make_saliency, make_trace, random_maps
from null_traces import null_diagnosis, null_sample
from statsmodels.formula.api import ols

from step_saliency.diagnosis import compare, diagnose
from step_saliency.diagnosis.same_step import contrast_at_steps
from step_saliency.options import Draws

DRAWS = Draws(n_resamples=300, n_permutations=300)
LIMITS = Path(__file__).parents[1] / "docs" / "limits.md"
STEPS = (2, 5, 10, 20, 40, 80)


def drift_rows() -> list[str]:
    """The table of the documentation, computed."""
    by_steps = {n: null_diagnosis(n, 20) for n in STEPS}
    values = {
        "`lock_in`": [d.lock_in[0] for d in by_steps.values()],
        "`lock_in_normalised`": [d.lock_in_normalised[0] for d in by_steps.values()],
        "lock-in of the second thinking row": [d.rows.lock_in[0, 1] for d in by_steps.values()],
        "`decay`": [d.decay[0] for d in by_steps.values()],
        "`decay_normalised`": [d.decay_normalised[0] for d in by_steps.values()],
        "decay of the first summary row": [d.rows.decay[0, 0] for d in by_steps.values()],
        "`decay_index`": [d.decay_index for d in by_steps.values()],
    }
    return [
        f"| {name} | " + " | ".join(f"{float(x):.2f}" for x in row) + " |"
        for name, row in values.items()
    ]


def test_the_documentation_says_what_drifts_under_a_fixed_kernel():
    text = LIMITS.read_text(encoding="utf-8")
    assert [row for row in drift_rows() if row not in text] == []


@pytest.mark.parametrize("length", [5, 20, 40])
def test_a_row_at_the_same_step_index_does_not_drift_with_the_number_of_steps(length):
    short, long = null_diagnosis(5, length), null_diagnosis(30, length)
    torch.testing.assert_close(short.rows.lock_in, long.rows.lock_in[:, :5])
    assert long.lock_in[0] - short.lock_in[0] > 0.05


def test_a_row_at_the_same_step_index_does_drift_with_the_length_of_steps():
    rows = [null_diagnosis(5, length).rows.lock_in[0, 4].item() for length in (5, 20, 40)]
    assert rows[0] + 0.05 < rows[1] < rows[2]


def test_normalised_excess_is_that_of_rows_written_out():
    trace = make_trace("_QTTTSS", lengths=[1, 3, 2, 4, 1, 2, 3])
    diagnosis = diagnose(make_saliency(random_maps(trace, 1), trace, last_row=True))
    shares = random_maps(trace, 1)[0].double()
    shares[:, 0] = 0
    shares = shares / shares.sum(1, keepdim=True)
    lock_ins = [
        (shares[i, [j for j in (i - 1, i) if j >= 2]].sum() - u) / (1 - u)
        for i, u in ((2, 1 / 2), (3, 2 / 3), (4, 2 / 4))
    ]
    decays = [(shares[i, 2:5].sum() - u) / (1 - u) for i, u in ((5, 3 / 5), (6, 3 / 6))]
    assert diagnosis.lock_in_normalised.item() == pytest.approx(float(sum(lock_ins) / 3))
    assert diagnosis.decay_normalised.item() == pytest.approx(float(sum(decays) / 2))


def test_normalised_excess_is_0_for_a_uniform_map_and_1_for_a_local_one():
    trace = make_trace("QTTTTSS")
    uniform = torch.ones(1, 7, 7).tril()
    assert diagnose(make_saliency(uniform, trace)).lock_in_normalised.item() == pytest.approx(0)
    assert diagnose(make_saliency(uniform, trace)).decay_normalised.item() == pytest.approx(0)
    local = torch.eye(7)[None] + 1e-9 * uniform
    assert diagnose(make_saliency(local, trace)).lock_in_normalised.item() == pytest.approx(1)


def test_metrics_are_the_means_of_their_rows():
    trace = make_trace("_QTTTTSS")
    diagnosis = diagnose(make_saliency(random_maps(trace, 8), trace, last_row=True))
    table = diagnosis.step_frame()
    means = table.groupby(["metric", "layer"])["value"].mean()
    frame = diagnosis.to_frame()
    for metric in ("lock_in", "decay", "lock_in_normalised", "decay_normalised"):
        values = frame[frame["metric"] == metric].set_index("layer")["value"]
        assert means[metric].to_numpy() == pytest.approx(values.to_numpy())
        index = f"{metric}_index"
        mean = table.loc[table["metric"] == index, "value"].mean()
        assert mean == pytest.approx(getattr(diagnosis, index))
        assert frame.loc[frame["metric"] == index, "value"].item() == getattr(diagnosis, index)


def test_a_trace_without_summary_has_rows_of_lock_in_only():
    trace = make_trace("QTTT")
    diagnosis = diagnose(make_saliency(random_maps(trace, 4), trace))
    assert set(diagnosis.step_frame()["metric"].str.startswith("lock_in")) == {True}
    assert math.isnan(diagnosis.decay_normalised_index)
    reasons = diagnosis.to_frame().set_index("metric")["reason"]
    assert reasons["decay_normalised_index"] == reasons["decay_index"]


def rates(n_samples: int, **options) -> pd.DataFrame:
    """How often each control calls traces without any effect different at 5%."""
    found = []
    for seed in range(n_samples):
        table, rows = null_sample(seed, n_problems=12, **options)
        result = compare(table, match=("length", "regression"), draws=DRAWS)
        result = result[result["metric"] == "lock_in_index"].set_index("control")
        steps = contrast_at_steps(
            rows[:, :, None],
            table["problem"].to_numpy(),
            ~table["is_correct"].to_numpy(bool),
            DRAWS,
        )
        both = pd.concat([result, steps.assign(control="step_index").set_index("control")])
        outside = (both["lower"] > 0) | (both["upper"] < 0)
        found.append(pd.DataFrame({"p_sign": both["p_sign"] <= 0.05, "outside": outside}))
    return pd.concat(found).groupby(level=0).mean()


@pytest.mark.nightly
def test_type_one_errors_of_the_controls_are_those_of_the_documentation():
    found = (100 * rates(200)["p_sign"]).round().astype(int)
    text = LIMITS.read_text(encoding="utf-8")
    for control, rate in found.items():
        assert f"{control}: {rate}%" in text, found


def test_longer_errors_are_a_finding_without_control_and_not_at_equal_length():
    found = rates(25)
    assert found.loc["none", "p_sign"] > 0.5
    assert (found.loc[["regression", "step_index"], "p_sign"] <= 0.2).all()


def test_the_regression_is_that_of_statsmodels_with_a_level_for_each_problem():
    table, _ = null_sample(3, n_problems=7)
    result = compare(table, match="regression", draws=DRAWS)
    row = result[result["control"] == "regression"].set_index("metric").loc["lock_in_index"]
    data = table.assign(error=1 - table["is_correct"].astype(int))
    fit = ols("value ~ error + np.log(n_tokens) + np.log(n_steps) + C(problem)", data).fit()
    assert row["estimate"] == pytest.approx(fit.params["error"])
    assert row["lower"] < row["estimate"] < row["upper"]
    assert (row["interval"], row["n"], row["n_traces"]) == ("clustered_t", 7, 42)
    exog = pd.DataFrame(fit.model.exog, columns=fit.model.exog_names)
    rest = exog.drop(columns="error").to_numpy()
    hat = rest @ np.linalg.pinv(rest)
    beyond = exog["error"] - hat @ exog["error"]
    residual = data["value"] - hat @ data["value"]
    scores = (beyond * residual).groupby(data["problem"]).sum().to_numpy()
    flipped = [abs(np.dot(s, scores)) for s in itertools.product((1, -1), repeat=7)]
    expected = np.mean(np.array(flipped) >= abs(scores.sum()) - 1e-12)
    assert row["p_sign"] == pytest.approx(expected)


def test_the_regression_finds_an_effect_beside_length():
    table, _ = null_sample(0, n_problems=20)
    table = table.assign(value=table["value"] + 0.05 * ~table["is_correct"])
    result = compare(table, match="regression", draws=DRAWS).set_index(["control", "metric"])
    row = result.loc[("regression", "lock_in_index")]
    assert row["lower"] < 0.05 < row["upper"]
    assert row["p_value"] < 0.01
    assert row["p_sign"] < 0.05


def test_traces_of_one_length_leave_the_plain_difference():
    table, _ = null_sample(0, n_problems=6)
    table = table.assign(n_steps=10, n_tokens=200)
    result = compare(table, match="regression", draws=DRAWS)
    result = result[result["metric"] == "lock_in_index"].set_index("control")
    assert result.loc["regression", "estimate"] == pytest.approx(result.loc["none", "estimate"])


def test_rows_at_the_same_step_are_compared_as_loops_would():
    rng = np.random.default_rng(0)
    steps = np.array([3, 5, 2, 4, 2, 3, 6])
    is_error = np.array([False, True, False, True, True, False, True])
    problems = np.array(list("aaaabbb"))
    values = np.where(np.arange(6) < steps[:, None], rng.normal(size=(7, 6)), np.nan)

    def difference(members, labels):
        total = weight = 0.0
        for s in range(6):
            there = [i for i in members if s < steps[i]]
            errors = [values[i, s] for i in there if labels[i]]
            corrects = [values[i, s] for i in there if not labels[i]]
            if errors and corrects:
                w = len(errors) * len(corrects) / len(there)
                total += w * (np.mean(errors) - np.mean(corrects))
                weight += w
        return total / weight if weight else 0.0

    def both(labels):
        return difference(range(4), labels), difference(range(4, 7), labels)

    row = contrast_at_steps(values[:, :, None], problems, is_error, DRAWS).iloc[0]
    assert row["estimate"] == pytest.approx(np.mean(both(is_error)))
    assert row["mean_error"] - row["mean_correct"] == pytest.approx(row["estimate"])
    assert (row["n"], row["n_traces"]) == (2, 7)
    statistics = []
    for a in itertools.combinations(range(4), 2):
        for b in itertools.combinations(range(4, 7), 2):
            labels = np.isin(np.arange(7), [*a, *b])
            statistics.append(abs(sum(both(labels))))
    expected = np.mean(np.array(statistics) >= abs(sum(both(is_error))) - 1e-12)
    assert row["exact"]
    assert row["p_value"] == pytest.approx(expected)
    wins = {
        p: [
            np.sign(values[i, s] - values[j, s]) / 2 + 0.5
            for i, j in itertools.product(np.flatnonzero(is_error), np.flatnonzero(~is_error))
            for s in range(6)
            if problems[i] == problems[j] == p and s < min(steps[i], steps[j])
        ]
        for p in "ab"
    }
    assert row["auroc"] == pytest.approx(np.mean([np.mean(w) for w in wins.values()]))
    assert row["n_pairs"] == sum(map(len, wins.values()))


def null_diagnoses():
    sizes = [(4, True), (6, True), (12, False), (16, False)]
    return [
        null_diagnosis(n + p, 6, id=f"{p}/{n}", meta={"problem": p, "is_correct": right})
        for p in range(4)
        for n, right in sizes
    ]


def test_compare_sets_rows_of_the_same_index_beside_the_plain_comparison():
    diagnoses = null_diagnoses()
    result = compare(diagnoses, match=("step_index", "regression"), draws=DRAWS)
    assert set(result["control"]) == {"none", "step_index", "regression"}
    index = result.set_index(["metric", "control"]).loc["lock_in_index"]
    assert index.loc["none", "lower"] > 0.02
    assert index.loc["step_index", "estimate"] == pytest.approx(0, abs=1e-6)
    normalised = result[result["control"].eq("step_index") & result["layer"].notna()]
    assert set(normalised["metric"]) == {
        "lock_in", "decay", "lock_in_normalised", "decay_normalised"
    }  # fmt: skip
    assert not result["interval_corrected"].any()
    assert set(result["interval"]) <= {"bootstrap", "clustered_t", "none"}


def test_other_controls_change_no_value_of_those_that_were_there():
    diagnoses = null_diagnoses()
    usual = compare(diagnoses, draws=DRAWS)
    several = compare(diagnoses, match=("length", "step_index", "regression"), draws=DRAWS)
    same = several[several["control"].isin(["none", "length"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(same, usual)


def test_a_match_that_cannot_be_is_refused():
    table, _ = null_sample(0, n_problems=3)
    with pytest.raises(ValueError, match="give the diagnoses"):
        compare(table, match="step_index")
    with pytest.raises(ValueError, match="caliper"):
        compare(table, match="caliper")
    with pytest.raises(ValueError, match="n_steps"):
        compare(table.drop(columns="n_steps"), match="regression")
