"""Means of diagnoses over traces, against means worked out by hand."""

import math

import pandas as pd
import pytest
from maps import make_saliency, make_trace, random_maps

from step_saliency.diagnosis import diagnose, mean_curves


def table(rows):
    """Values of one metric: problem, whether correct, value."""
    return pd.DataFrame(
        {
            "problem": [problem for problem, _, _ in rows],
            "trace": [f"t{i}" for i in range(len(rows))],
            "is_correct": pd.array([correct for _, correct, _ in rows], dtype="boolean"),
            "metric": "lock_in",
            "query_region": None,
            "key_region": None,
            "layer": 3,
            "head": None,
            "band": "shallow",
            "value": [value for _, _, value in rows],
        }
    )


ROWS = [("a", True, 1.0), ("a", True, 2.0), ("a", False, 6.0), ("b", True, 4.0), ("c", None, 8.0)]


def test_each_problem_counts_once_in_each_group():
    result = mean_curves(table(ROWS), n_resamples=100).set_index("group")
    assert result["estimate"].to_dict() == {"all": 5.0, "correct": 2.75, "error": 6.0}
    assert result["n"].to_dict() == {"all": 3, "correct": 2, "error": 1}
    assert result["n_traces"].to_dict() == {"all": 5, "correct": 3, "error": 1}


def test_intervals_need_two_problems_and_hold_what_they_estimate():
    result = mean_curves(table(ROWS), n_resamples=500).set_index("group")
    assert math.isnan(result.loc["error", "lower"])
    assert result.loc["all", "lower"] < 5 < result.loc["all", "upper"]
    assert result.loc["all", "lower"] >= 3
    assert result.loc["all", "upper"] <= 8


def test_copies_of_a_trace_change_nothing():
    once = mean_curves(table(ROWS), n_resamples=200)
    copied = mean_curves(table([*ROWS, ROWS[3], ROWS[3]]), n_resamples=200)
    columns = ["estimate", "lower", "upper", "n"]
    pd.testing.assert_frame_equal(once[columns], copied[columns])


def test_traces_of_two_problems_may_have_one_name():
    named = table(ROWS).assign(trace=["0", "1", "2", "0", "0"])
    twice = pd.concat([named, named], ignore_index=True)
    result = mean_curves(twice, n_resamples=20).set_index("group")
    assert result["n_traces"].to_dict() == {"all": 5, "correct": 3, "error": 1}


def test_missing_values_are_left_out():
    rows = [*ROWS, ("d", True, float("nan"))]
    pd.testing.assert_frame_equal(
        mean_curves(table(rows), n_resamples=50), mean_curves(table(ROWS), n_resamples=50)
    )


def test_curves_of_one_diagnosis_are_its_values():
    trace = make_trace("QTTTSS", id="only")
    diagnosis = diagnose(make_saliency(random_maps(trace, 4, 2), trace))
    result = mean_curves([diagnosis], n_resamples=10)
    lock_in = result[(result["metric"] == "lock_in") & result["head"].isna()]
    assert lock_in["estimate"].tolist() == pytest.approx(diagnosis.lock_in.tolist())
    of_head = result[(result["metric"] == "decay") & (result["head"] == 1)]
    assert of_head["estimate"].tolist() == pytest.approx(diagnosis.decay_heads[:, 1].tolist())


def test_nothing_to_average_is_refused():
    with pytest.raises(ValueError, match="no diagnoses"):
        mean_curves([])
