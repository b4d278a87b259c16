"""The page of findings says what the tables say."""

import re
from pathlib import Path

import pandas as pd
import pytest

from analyses.findings.findings import CLAIMS, one_row, render

RESULTS = Path(__file__).parents[1] / "results"
NUMBER = r"([+-][\d.e+-]+)"
LINE = re.compile(rf"^\| (.+?) \| (?:estimate|control) \| {NUMBER} \[{NUMBER}, {NUMBER}\] ")


def test_the_page_is_what_the_tables_give() -> None:
    assert (RESULTS / "FINDINGS.md").read_text(encoding="utf-8") == render(RESULTS)


def test_numbers_are_those_of_a_row_read_by_hand() -> None:
    table = pd.read_parquet(RESULTS / "ablation" / "summary.parquet").set_index("condition")
    rows = [found.groups() for line in render(RESULTS).splitlines() if (found := LINE.match(line))]
    by_name = {name: [float(x) for x in numbers] for name, *numbers in rows}
    shown = by_name["accuracy, tau_max 0.3 − none"]
    expected = table.loc["oeb-tau-0.3", ["estimate", "lower", "upper"]].astype(float) * 100
    assert shown == pytest.approx(list(expected), abs=0.05)
    assert all(lower <= estimate <= upper for estimate, lower, upper in by_name.values())


def test_what_was_not_run_is_told(tmp_path: Path) -> None:
    page = render(tmp_path)
    assert page.count("| not run |") == sum(len(claim.lines) for claim in CLAIMS)


def test_a_row_must_be_the_only_one() -> None:
    table = pd.DataFrame({"condition": ["a", "a", "b"], "layer": [None, 1.0, None]})
    assert one_row(table, {"condition": "a", "layer": None}, name="t").name == 0
    with pytest.raises(ValueError, match="2 rows of t"):
        one_row(table, {"condition": "a"}, name="t")
    with pytest.raises(ValueError, match="no column 'head'"):
        one_row(table, {"head": 1}, name="t")


def test_the_readme_quotes_the_page() -> None:
    readme = (RESULTS.parent / "README.md").read_text(encoding="utf-8")
    claims = readme.partition("**The paper's claims**")[2].partition("**Is a map right?**")[0]
    cuts = readme.partition("**Does a map foretell a cut?**")[2].partition("**Real traces.**")[0]
    quoted = re.findall(rf"{NUMBER} (\[[^\]]+\])", claims + cuts)
    assert len(quoted) > 20
    page = render(RESULTS)
    missing = [pair for pair in quoted if " ".join(pair) not in page]
    assert not missing
