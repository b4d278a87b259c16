"""What changed between results: what differs is found and named, rounding is not."""

import pandas as pd
import pytest

from analyses.running.changes import changes, main, table_changes

BEFORE = pd.DataFrame(
    {
        "metric": ["lock_in", "decay", "decay"],
        "layer": [0, 0, 1],
        "estimate": [0.5, 0.25, None],
        "n": [3, 3, 3],
    }
)


def found(**columns):
    return [
        (c.quantity, c.rows, c.where, c.before, c.after)
        for c in table_changes("a/summary", BEFORE, BEFORE.assign(**columns))
    ]


def test_the_row_that_changed_most_is_named():
    assert found(estimate=[0.6, 0.75, None]) == [("estimate", "2 of 3", "decay 0", "0.25", "0.75")]


def test_a_number_that_appears_is_the_largest_change():
    assert found(estimate=[0.6, 0.25, 0.1]) == [("estimate", "2 of 3", "decay 1", "nan", "0.1")]


def test_rounding_and_new_columns_are_no_change():
    assert found(estimate=BEFORE["estimate"] * (1 + 1e-9), more=[1.0, 2.0, 3.0]) == []


def test_other_rows_are_named_as_such():
    (change,) = table_changes("a/summary", BEFORE, BEFORE.iloc[:2])
    assert (change.quantity, change.rows) == ("rows", "3 to 2")
    (change,) = table_changes("a/summary", BEFORE, BEFORE.assign(layer=[0, 0, 2]))
    assert change.quantity == "rows"


def test_folders_are_held_against_each_other(tmp_path, capsys):
    for name, table in (("before", BEFORE), ("after", BEFORE.assign(estimate=0.25))):
        (tmp_path / name / "depth").mkdir(parents=True)
        table.to_parquet(tmp_path / name / "depth" / "summary.parquet")
    BEFORE.to_parquet(tmp_path / "after" / "depth" / "new.parquet")
    (change,) = changes(tmp_path / "before", tmp_path / "after")
    assert (change.table, change.rows) == ("depth/summary", "2 of 3")
    main([str(tmp_path / "before"), str(tmp_path / "after"), "--why", "A reason."])
    page = capsys.readouterr().out
    assert "\n\nA reason.\n\n| table |" in page
    assert "| depth/summary | estimate | 2 of 3 | decay 1 | nan | 0.25 |" in page


def test_unlabelled_tables_can_be_compared():
    plain = pd.DataFrame({"value": [1.0, 2.0]})
    (change,) = table_changes("a/b", plain, plain * 2)
    assert (change.rows, change.where) == ("2 of 2", "")
    assert not list(table_changes("a/b", plain, plain))
    assert change.before == pytest.approx("2")
