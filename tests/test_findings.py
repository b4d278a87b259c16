"""The page of findings says what the tables say, and no number of it is typed."""

import inspect
import json
import os
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from jinja2 import nodes
from safetensors import safe_open

import step_saliency
from analyses.claims.page import BEGIN
from analyses.claims.table import claims_table
from analyses.claims.tally import one_each
from analyses.findings import depth, facts, wording
from analyses.findings.page import CLAIMS, TEMPLATES, environment, render, section
from analyses.findings.sources import SOURCES
from analyses.findings.tables import Results, Source, one_row

RESULTS = Path(__file__).parents[1] / "results"
NEWER = (
    "| attention by the length of what is written",
    "| gradient at the scores",
    "| tokens of the key step",
)
"""Lines that stand on the page where their table has the rows."""
CUT = {"scope": "all", "fraction": None, "measure": "rho_kl"}
NUMBER = r"([+-][\d.e+-]+)"
LINE = re.compile(rf"^\| (.+?) \| (?:estimate|control) \| {NUMBER} \[{NUMBER}, {NUMBER}\] ")
MARKED = re.compile(r"<!-- (\w+) -->\n.*?<!-- end of \1 -->\n", re.DOTALL)
NAMES = re.compile(
    r"R1-Distill|Qwen2.5-Coder-0.5B-Instruct|SmolLM2-135M|smollm2-135m|smollm2|SmolLM2|GSM8K|p-values"
)
IN_WORDS = r"two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twice|\w+teen"
IN_WORDS += r"|(?:twen|thir|for|fif|six|seven|eigh|nine)ty(?:-\w+)?"
WORD = re.compile(rf"\b(?:{IN_WORDS})\b", re.IGNORECASE)
PROSE_NUMBER = re.compile(rf"[-−]?\d[\d.,]*\d|\d|\b(?:none|one|{IN_WORDS})\b", re.IGNORECASE)


IN_CONDITIONS = ["eight", "two", "192", "0.8", "four", "two", "eight", "two", "eight", "384"]
"""Sizes of votes, limits, numbers of heads and strengths that a condition is named by."""


def typed(text: str) -> list[str]:
    """Numbers in a text, in digits or words."""
    plain = NAMES.sub("", text)
    return re.findall(r"\d", plain) + WORD.findall(plain)


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
    lines = [
        line
        for line in re.findall(
            r"^\| (?!measured).+ \| (?:estimate|control) \|", render(RESULTS), re.MULTILINE
        )
        if not line.startswith(NEWER)
    ]
    page = render(tmp_path)
    assert page.count("| not run |") == len(lines) > 150
    assert "`ablation/summary` was not run." in page


def test_lines_of_newer_rows_stand_where_the_table_has_them(tmp_path: Path) -> None:
    shutil.copytree(RESULTS / "faithfulness", tmp_path / "faithfulness")
    file = tmp_path / "faithfulness" / "summary.parquet"
    table = pd.read_parquet(file)
    newer = ["attention_norm", "score_gradient", "key_length"]
    plain = table[~table["method"].isin(newer)]
    added = [
        plain[plain["method"] == like].assign(method=name)
        for name, like in zip(newer, ["attention", "gradient", "distance"], strict=True)
    ]
    claim = next(claim for claim in CLAIMS if claim.name == "cut_edges")
    lines = []
    for rows in ([plain], [plain, *added]):
        pd.concat(rows, ignore_index=True).to_parquet(file)
        os.utime(file, ns=(len(lines) + 1, len(lines) + 1))
        lines.append(section(environment(), claim, tmp_path)["measured"].splitlines())
    missing, all_there = lines
    assert set(missing) < set(all_there)
    assert len(all_there) - len(missing) == 4
    row = one_row(added[0], {**CUT, "method": "attention_norm", "pool": "mass"}, name="x")
    assert any(
        "what is written" in line and f"{row['estimate']:+.3g}" in line for line in all_there
    )


def test_a_row_must_be_the_only_one() -> None:
    table = pd.DataFrame({"condition": ["a", "a", "b"], "layer": [None, 1.0, None]})
    assert one_row(table, {"condition": "a", "layer": None}, name="t").name == 0
    with pytest.raises(ValueError, match="2 rows of t"):
        one_row(table, {"condition": "a"}, name="t")
    with pytest.raises(ValueError, match="no column 'head'"):
        one_row(table, {"head": 1}, name="t")


def test_the_readme_quotes_the_page() -> None:
    """Intervals anywhere but in the parts between marks, which tests of their own hold."""
    readme = (RESULTS.parent / "README.md").read_text(encoding="utf-8")
    prose = " ".join(MARKED.sub("", readme).split())
    assert BEGIN.strip() not in prose
    quoted = re.findall(rf"{NUMBER} (\[[^\]]+\])", prose)
    assert len(quoted) == len(re.findall(r"\[[+-]?[\d.]+, ", prose)) > 20
    page = render(RESULTS)
    missing = [pair for pair in quoted if " ".join(pair) not in page]
    assert not missing


@pytest.mark.parametrize(
    "file", sorted(TEMPLATES.rglob("*.jinja")), ids=lambda file: file.name.partition(".")[0]
)
def test_no_number_is_typed_in_a_template(file: Path) -> None:
    tree = environment().parse(file.read_text(encoding="utf-8"))
    prose = "".join(data.data for data in tree.find_all(nodes.TemplateData))
    assert not typed(prose)
    for call in tree.find_all(nodes.Call):
        labels = [
            text.value
            for argument in call.args
            for text in [argument, *argument.find_all(nodes.Const)]
            if isinstance(text, nodes.Const) and isinstance(text.value, str)
        ]
        assert not typed("".join(labels))
    outputs = [value for output in tree.find_all(nodes.Output) for value in output.nodes]
    filtered = [value.node for value in tree.find_all(nodes.Filter)]
    constants = [v.value for v in (*outputs, *filtered) if isinstance(v, nodes.Const)]
    assert not typed("".join(map(str, constants)))


def test_the_scan_finds_numbers() -> None:
    assert typed("SmolLM2 gains 4 points") == ["4"]
    assert typed("a vote of Eight, of sixty problems") == ["Eight", "sixty"]
    assert not typed("one of the heads of R1-Distill")


def changed_tables(results: Path, folder: Path) -> None:
    """Copies of the tables in which every result is another."""
    shutil.copytree(results, folder)
    for file in folder.rglob("*.parquet"):
        table = pd.read_parquet(file)
        for column in table.columns:
            table[column] = _changed(column, table)
        table.to_parquet(file)
    for file in folder.rglob("manifest.json"):
        manifest = json.loads(file.read_text(encoding="utf-8"))
        for name, value in manifest["settings"].items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                manifest["settings"][name] = value * 21
        file.write_text(json.dumps(manifest), encoding="utf-8")


def _changed(column: str, table: pd.DataFrame) -> pd.Series:
    values = table[column]
    if column in ("n", "n_pairs", "corrected", "broken", "n_parts", "n_draws", "n_flow", "n_local"):
        return values * 3 + 2
    if column in ("tau_max", "alpha", "detectable", "mean_reference"):
        return values * 21
    if column in ("auroc", "ties", "dose_ratio", "moved_ratio", "mean", "flow", "local"):
        return values * 0.7
    if column in ("real", "lowest", "highest"):
        return values * 0.7 + 0.05
    if column == "reference_share":
        return values * 0.6 + 0.1
    if column.startswith("p_") or column == "p":  # no p-value of the page stays as it was
        return 0.9 - 0.9 * values
    if column.endswith("_layers"):
        return values.map(lambda text: " ".join(map(str, range(40, 41 + len(text.split())))))
    if column in ("estimate", "lower", "upper"):
        if "site" in table.columns:
            keys = ["kind", "direction", "site", "role", "head"]
            below = table.groupby(keys, dropna=False)[column].shift(1)
            return below.fillna(values) + 0.023
        return values * 1.7 + 0.031 + values**2 / 1000
    return values


def test_every_number_moves_with_the_tables(tmp_path: Path, monkeypatch) -> None:
    before = render(RESULTS)
    changed_tables(RESULTS, tmp_path / "results")
    for given in (facts.PAPER, facts.STRONG):
        for name in given.keys() - {"venue"}:
            monkeypatch.setitem(given, name, given[name] * 7)
    monkeypatch.setitem(facts.PAPER, "venue", "ACL 2099")
    monkeypatch.setattr(facts, "SAMPLING_TEMPERATURE", 0.5)
    monkeypatch.setattr(facts, "parameters", lambda _name: 9e6)
    after = render(tmp_path / "results")
    assert len(before.splitlines()) == len(after.splitlines())
    stayed = []
    for old, new in zip(before.splitlines(), after.splitlines(), strict=True):
        if old.startswith("| "):
            cells = [line.split(" | ")[2:5] for line in (old, new)]
            stayed += [(old, a) for a, b in zip(*cells, strict=True) if a.strip() and a == b]
        else:
            found = [PROSE_NUMBER.findall(NAMES.sub("", line)) for line in (old, new)]
            assert len(found[0]) == len(found[1]), (old, new)
            stayed += [(old, a) for a, b in zip(*found, strict=True) if a == b]
    counted = (
        r"^(## )?\d+\. |^\| measured |^\(ACL \d+\) |^and for both |^Qwen2.5-Coder-0.5B-Instruct \("
    )
    left = [number for line, number in stayed if not re.search(counted, line)]
    assert [number for number in left if number.lower() not in ("one", "none")] == IN_CONDITIONS


def test_what_no_table_has_is_what_the_code_does() -> None:
    from analyses import depth_curves
    from analyses.compute_matched import ComputeSettings
    from analyses.mediation.around import AroundSettings
    from analyses.mediation.edits import ALPHA, TAU
    from step_saliency.intervene import OddsEqualBridge, StepMomentumInjection

    defaults = {
        "tau_max": inspect.signature(OddsEqualBridge).parameters["tau_max"].default,
        "alpha": inspect.signature(StepMomentumInjection).parameters["alpha"].default,
    }
    assert defaults == {name: facts.PAPER[name] for name in defaults}
    assert depth_curves.TEMPERATURE == facts.SAMPLING_TEMPERATURE
    assert AroundSettings().around_temperature == facts.SAMPLING_TEMPERATURE
    assert ComputeSettings().vote_temperature == facts.SAMPLING_TEMPERATURE
    assert facts.STRONG == {"tau_max": TAU, "alpha": ALPHA}
    weights = Path(step_saliency.__file__).parent / "models/bundled/reasoner/model.safetensors"
    with safe_open(weights, framework="numpy") as file:
        total = sum(file.get_tensor(name).size for name in file.keys())  # noqa: SIM118
    assert facts.parameters("reasoner") == total


def test_numbers_in_words() -> None:
    assert [wording.words(n) for n in (1, 12, 19, 20, 42, 60)] == [
        "one",
        "twelve",
        "nineteen",
        "twenty",
        "forty-two",
        "sixty",
    ]
    assert (wording.words(0, zero="none"), wording.words(0.4), wording.words(1000)) == (
        "none",
        "zero",
        "1,000",
    )
    assert (wording.times(2.0), wording.times(8)) == ("twice", "eight times")
    assert (wording.decimals(-4.107, 1), wording.percent(0.588)) == ("−4.1", "59%")
    assert (wording.up_to(1.4, 0.5), wording.up_to(1.5, 0.5)) == ("1.5", "1.5")
    assert wording.millions(1_530_752) == "1.5M"


def test_layers_in_words() -> None:
    assert wording.layers("0 1 2") == "0 to 2"
    assert wording.layers("6 7") == "6 and 7"
    assert wording.layers([5]) == "5"
    assert wording.layers([1, 3, 4]) == "1, 3 and 4"


def test_layers_that_a_curve_speaks_of() -> None:
    falling = {0: 1.0, 1: 0.9, 2: 0.3, 3: 0.95}
    assert depth.last_layer(falling, at_least=0.8) == 1
    assert depth.last_layer({0: 1.0, 1: 1.0}, at_least=0.8) == 1
    rising = {0: 0.0, 1: 0.9, 2: 0.1, 3: 0.85, 4: 1.0}
    assert depth.first_layer(rising, at_least=0.8) == 3
    assert depth.lowest_layer(rising) == 0
    assert depth.rising_layers(rising, by=0.2) == [1, 3]


def test_labels_are_filled_from_the_row(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    table = pd.DataFrame(
        {
            "condition": ["top-4"],
            "oeb_layers": ["0 1"],
            "estimate": [0.5],
            "lower": [-0.75],
            "upper": [0.7],
        }
    )
    table.to_parquet(tmp_path / "mine" / "summary.parquet")
    row = Results(tmp_path).row(Source("mine/summary", scale=100), condition="top-4")
    text = wording.label("{number} heads of {oeb_layers}, {alpha}", row)
    assert text == "4 heads of 0 and 1, …"
    assert (row["estimate"], row["bound"]) == (50.0, 75.0)


READINGS_OF = {
    "shallow_lock_in": ("shallow lock-in marks errors",),
    "deep_decay": ("deep decay marks errors",),
    "summary_looks": ("the summary looks at itself and at the last steps",),
    "oeb": ("OEB helps",),
    "smi": ("SMI helps",),
    "both_edits": ("both together help", "both together help more than the sum"),
    "quarter_bands": ("a quarter of the layers is the right band",),
    "propagation_errors": (
        "flow errors are repaired more than local ones",
        "propagation errors are repaired more than conceptual ones",
    ),
    "compute": (
        "StepFlow is worth more than as much compute",
        "StepFlow is worth twice the samples or the length",
        "StepFlow helps a vote",
    ),
    "mended_pattern": (
        "StepFlow mends the pattern in shallow layers",
        "StepFlow mends the pattern in deep layers",
    ),
    "rivals": ("StepFlow is better than its rivals",),
    "hard_problems": ("gains are larger on hard problems",),
    "planted_lock_in": ("shallow lock-in causes errors", "lock-in in deep layers harms"),
    "few_heads": ("few heads carry the repair",),
    "cut_edges": ("the map tells which edges matter",),
    "reporter_edits": ("OEB helps", "SMI helps", "SMI repairs summary errors"),
    "reporter_lock_in": ("shallow lock-in marks errors",),
    "reporter_heads": ("few heads carry the repair",),
    "reporter_pattern": ("StepFlow mends the pattern in shallow layers",),
    "reporter_compute": (
        "StepFlow is worth more than as much compute",
        "StepFlow is worth twice the samples or the length",
        "StepFlow helps a vote",
    ),
    "smollm2_edits": ("OEB helps", "SMI helps", "both together help"),
    "qwen_edits": ("OEB helps", "SMI helps"),
    "qwen_compute": (
        "StepFlow is worth more than as much compute",
        "StepFlow is worth twice the samples or the length",
        "StepFlow helps a vote",
    ),
    "qwen_cut_edges": ("the map tells which edges matter",),
    "qwen_pattern": ("shallow lock-in marks errors", "deep decay marks errors"),
    "smollm2_cut_edges": ("the map tells which edges matter",),
}
"""Claims of the page, and those of the table of claims that ask the same."""


def contradiction(heading: str, verdicts: set[str]) -> str:
    """What a heading says and the verdicts do not; empty if they agree."""
    words = heading.lower()
    if re.search(r"\byes\b", words) and "supported" not in verdicts:
        return "yes, and nothing supports it"
    if re.match(r"(no|not)\b", words) and "supported" in verdicts:
        return "no, and something supports it"
    if re.match(r"not testable", words) and verdicts - {"not testable here"}:
        return "not testable, and something was tested"
    return ""


@pytest.mark.parametrize(
    ("heading", "verdicts", "agree"),
    [
        ("yes, of old", {"supported", "refuted"}, True),
        ("under the loss yes", {"not shown"}, False),
        ("no", {"refuted", "not shown"}, True),
        ("not shown", {"supported", "not shown"}, False),
        ("nothing of note", {"supported"}, True),
        ("not testable here", {"not testable here"}, True),
        ("not testable here", {"not shown"}, False),
        ("in part", {"supported", "refuted"}, True),
    ],
)
def test_what_contradicts_a_heading(heading: str, verdicts: set[str], agree: bool) -> None:
    assert (contradiction(heading, verdicts) == "") == agree


def test_headings_and_verdicts_do_not_contradict_each_other() -> None:
    estimates = one_each(claims_table(RESULTS))
    models = {claim.name: claim.model for claim in CLAIMS}
    assert READINGS_OF.keys() <= models.keys()
    assert {name for some in READINGS_OF.values() for name in some} <= set(estimates["claim"])
    found = {}
    for claim in CLAIMS:
        if claim.name in READINGS_OF:
            asked = estimates[estimates["claim"].isin(READINGS_OF[claim.name])]
            verdicts = set(asked.loc[asked["model"] == claim.model, "verdict"])
            heading = section(environment(), claim, RESULTS)["verdict"]
            found[heading] = contradiction(heading, verdicts)
    assert not {heading: wrong for heading, wrong in found.items() if wrong}


def test_every_source_is_used() -> None:
    text = "".join(file.read_text(encoding="utf-8") for file in TEMPLATES.rglob("*.jinja"))
    assert not [name for name in SOURCES if f'"{name}"' not in text]
