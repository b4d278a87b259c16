"""Claims: the rule of the verdicts, the table from tables, and the table that is committed."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from analyses.claims import glance
from analyses.claims.__main__ import main
from analyses.claims.derived import derived_tables, length_contrasts
from analyses.claims.models import MODELS
from analyses.claims.of_answers import difficult_gains
from analyses.claims.of_maps import PLANTED_DECAY
from analyses.claims.page import BEGIN, END, quoted, table_lines, with_quote
from analyses.claims.reading import (
    BOTH_GAIN,
    OEB_GAIN,
    SMI_GAIN,
    UNCHECKED,
    Reading,
    against_rival,
    at,
)
from analyses.claims.readings import READINGS, readings_of
from analyses.claims.strata import CONTRAST, gains_by_difficulty, hard_minus_easy, strata_of
from analyses.claims.table import COLUMNS, claims_table, measured
from analyses.claims.tally import ESTIMATE, one_each, one_verdict
from analyses.claims.verdict import ControlKind, Effect, judge
from analyses.findings.tables import Source
from analyses.material.conditions import BASELINE

RESULTS = Path(__file__).parents[1] / "results"
ROW = {"estimate": 0.05, "lower": 0.03, "upper": 0.07, "n": 60}
PLACE = at(Source("some/summary"), condition="oeb")


def one_row_of(path: Path, rows: list[dict[str, Any]], reading: Reading) -> pd.Series:
    """The row of a reading, from a table ``some/summary`` with these rows."""
    (path / "some").mkdir(exist_ok=True)
    pd.DataFrame(rows).to_parquet(path / "some" / "summary.parquet")
    return claims_table(path, (reading,)).iloc[0]


@pytest.mark.parametrize(
    ("effect", "left", "margin", "matched", "verdict"),
    [
        ((2, 1, 3), (2, 1, 3), 0.0, True, "supported"),
        ((2, 1, 3), (2, 1, 3), 2.5, True, "supported"),
        ((2, 1, 3), (2, 1, 3), 3.0, True, "refuted"),
        ((2, 1, 3), (2, 1, 3), 0.0, False, "not shown"),
        ((2, 1, 3), None, 0.0, True, "not shown"),
        ((2, 1, 3), (1, -1, 3), 0.0, True, "not shown"),
        ((2, 1, 3), (-1, -2, -0.5), 0.0, True, "refuted"),
        ((2, 1, 3), (-1, -2, -0.5), 0.0, False, "not shown"),
        ((0, -1, 1), (0, -1, 1), 0.0, True, "not shown"),
        ((0, -1, 1), None, 1.5, False, "refuted"),
        ((0, -1, 2), None, 1.5, False, "not shown"),
        ((-2, -3, -1), None, 0.0, False, "refuted"),
        ((0, 0, 0), None, 1.5, False, "not shown"),
        ((2, float("nan"), float("nan")), None, 0.0, False, "not shown"),
        (None, (2, 1, 3), 0.0, True, "not shown"),
    ],
)
def test_the_rule(
    effect: tuple[float, ...] | None,
    left: tuple[float, ...] | None,
    margin: float,
    matched: bool,
    verdict: str,
) -> None:
    pair = [None if x is None else Effect(*x) for x in (effect, left)]
    assert judge(*pair, margin=margin, matched=matched).verdict == verdict


@pytest.mark.parametrize(
    ("p_effect", "p_left", "gain", "verdict"),
    [
        (None, None, None, "supported"),
        (0.05, 0.05, (1, 0.1, 2), "supported"),
        (0.061, 0.01, None, "not shown"),
        (0.01, 0.061, None, "not shown"),
        (0.01, 0.01, (-1.5, -5.5, 2.5), "not shown"),
        (0.01, 0.01, (1, 0, 2), "not shown"),
    ],
)
def test_supported_asks_for_holm_and_for_more_than_no_edit(
    p_effect: float | None,
    p_left: float | None,
    gain: tuple[float, ...] | None,
    verdict: str,
) -> None:
    pair = Effect(2, 1, 3, p_effect), Effect(2, 1, 3, p_left)
    against_none = None if gain is None else Effect(*gain)
    assert judge(*pair, matched=True, gain=against_none).verdict == verdict


@pytest.mark.parametrize(
    ("kind", "left", "matched", "verdict", "reason"),
    [
        ("placebo", (-2, -3, -1), True, "refuted", "the control does as much"),
        ("placebo of harm", (-2, -3, -1), True, "not shown", "it harms, but so does the control"),
        ("placebo of harm", (0.1, -1, 1), True, "not shown", "may be no more than the control"),
        ("placebo of harm", (2, 1, 3), True, "supported", "more than the matched control"),
        ("design", (-2, -3, -1), True, "not shown", "the designs disagree"),
        ("design", (0.1, -1, 1), True, "not shown", "by one design alone"),
        ("design", (2, 1, 3), True, "supported", "by both designs"),
        ("design", (2, 1, 3), False, "not shown", "the control is not matched"),
        ("design", (-2, -3, -1), False, "not shown", "the control is not matched"),
    ],
)
def test_only_a_placebo_that_does_as_much_refutes(
    kind: ControlKind, left: tuple[float, ...], matched: bool, verdict: str, reason: str
) -> None:
    found = judge(Effect(2, 1, 3), Effect(*left), matched=matched, kind=kind)
    assert found.verdict == verdict
    assert found.reason.startswith(reason)
    assert judge(Effect(-2, -3, -1), Effect(*left), kind=kind).verdict == "refuted"  # unmatched
    contrary = judge(Effect(-2, -3, -1), Effect(2, 1, 3), matched=True, kind=kind)
    assert contrary.verdict == ("not shown" if kind == "design" else "refuted")
    zero = judge(Effect(0, -1, 1), Effect(2, 1, 3), matched=True, kind=kind)
    assert zero.reason == "the interval holds zero and more than the margin"


def test_observed_differences_have_designs_and_planted_ones_placebos() -> None:
    kinds = {reading.claim: set() for reading in READINGS}
    for reading in READINGS:
        if reading.left is not None:
            kinds[reading.claim].add(reading.control_kind)
    of_kind = {
        kind: {claim for claim, some in kinds.items() if kind in some}
        for kind in ("design", "placebo of harm")
    }
    assert of_kind["design"] == {"shallow lock-in marks errors", "deep decay marks errors"}
    assert of_kind["placebo of harm"] == {
        "shallow lock-in causes errors", "lock-in in deep layers harms",
        PLANTED_DECAY,
    }  # fmt: skip
    assert all(len(some) <= 1 for some in kinds.values())


@pytest.mark.parametrize(
    ("left_in_tokens", "verdict"), [((-2.4, -4.5, -0.4), "not shown"), ((-1, -3, 1), "supported")]
)
def test_pairs_that_still_differ_in_length_are_not_matched(
    tmp_path: Path, left_in_tokens: tuple[float, ...], verdict: str
) -> None:
    tokens = dict(zip(("estimate", "lower", "upper"), left_in_tokens, strict=True))
    rows = [{**ROW, "condition": "oeb"}, {**ROW, **tokens, "condition": "tokens"}]
    balance = at(Source("some/summary"), condition="tokens")
    reading = Reading("a", "x", "loss", PLACE, control="pairs", left=PLACE, matched=True,
                      control_kind="design", balance=balance)  # fmt: skip
    row = one_row_of(tmp_path, rows, reading)
    assert (row["verdict"], row["control_matched"]) == (verdict, verdict == "supported")
    still = "its pairs still differ in length, by -2.4 [-4.5, -0.4] tokens"
    assert (still in row["reason"]) == (verdict == "not shown")


@pytest.mark.parametrize(
    ("effect", "left", "margin", "kind", "verdict", "reason"),
    [
        ((-2, -3, -1, 0.01), None, 0.0, "placebo", "refuted", "more than 0 is ruled out"),
        ((-2, -3, -1, 0.06), None, 0.0, "placebo", "not shown", "less, but p = 0.06"),
        ((-2, -3, -1, 0.06), None, 0.5, "placebo", "refuted", "more than 0.5 is ruled out"),
        ((2, 1, 3, 0.01), (-2, -3, -1, 0.01), 0.0, "placebo", "refuted", "the control does"),
        ((2, 1, 3, 0.01), (-2, -3, -1, 0.06), 0.0, "placebo", "not shown", "the control does"),
        ((2, 1, 3, 0.01), (-2, -3, -1, 0.06), 0.5, "placebo", "refuted", "the control does"),
        ((-2, -3, -1, 0.01), (-2, -3, -1, 0.01), 0.0, "design", "refuted", "more than 0 is"),
        ((-2, -3, -1, 0.01), (-2, -3, 1, 0.01), 0.0, "design", "not shown", "less by one design"),
        ((-2, -3, -1, 0.01), (-2, -3, -1, 0.06), 0.0, "design", "not shown", "less by one"),
        ((-2, -3, -1, 0.01), (-2, -3, 1, 0.01), 0.5, "design", "refuted", "more than 0.5 is"),
        ((-2, -3, -1, 0.01), (2, 1, 3, 0.01), 0.5, "design", "not shown", "the designs disagree"),
    ],
)
def test_the_opposite_of_a_claim_asks_for_as_much_as_the_claim(
    effect: tuple[float, ...],
    left: tuple[float, ...] | None,
    margin: float,
    kind: ControlKind,
    verdict: str,
    reason: str,
) -> None:
    """An effect below a margin above 0 is ruled out by its interval, whatever it is against 0."""
    pair = [None if x is None else Effect(*x) for x in (effect, left)]
    found = judge(*pair, margin=margin, matched=True, kind=kind)
    assert found.verdict == verdict
    assert found.reason.startswith(reason)


def test_all_doubts_are_named() -> None:
    found = judge(Effect(6.5, 1, 12, 0.09), Effect(6.5, 1, 12, 0.09), matched=True,
                  gain=Effect(-1.5, -5.5, 2.5))  # fmt: skip
    assert "p = 0.09 after Holm's correction" in found.reason
    assert "against no edit the gain is -1.5 [-5.5, +2.5]" in found.reason


def test_a_claim_of_less_is_judged_with_its_sign_turned() -> None:
    assert Effect(-2, -3, -1, 0.5).signed(-1) == Effect(2, 1, 3, 0.5)
    with pytest.raises(ValueError, match=r"margin=-1"):
        judge(Effect(2, 1, 3), margin=-1)


def test_what_is_nothing_is_hardly_ever_supported_and_what_is_there_mostly_is() -> None:
    """Means of 60 problems: no effect, an effect that the placebo has too, one of its own."""
    rng = np.random.default_rng(0)
    half = norm.ppf(0.975) / np.sqrt(60)

    def share(effect: float, own: float, verdict: str) -> float:
        found = rng.normal([effect, own], 1 / np.sqrt(60), (2000, 2))
        pairs = [[Effect(x, x - half, x + half) for x in row] for row in found]
        return float(
            np.mean([judge(*p, margin=0.1, matched=True).verdict == verdict for p in pairs])
        )

    assert share(0, 0, "supported") < 0.01
    assert share(0.8, 0, "supported") == pytest.approx(0.025, abs=0.012)
    assert share(0.8, 0.8, "supported") > 0.95
    assert share(0.8, 0.8, "refuted") < 0.01
    assert share(-0.3, -0.3, "refuted") > 0.8


def a_folder(path: Path) -> Path:
    (path / "some").mkdir()
    rows = pd.DataFrame(
        {
            "condition": ["oeb", "placebo"],
            "estimate": [0.05, 0.04],
            "lower": [0.03, 0.01],
            "upper": [0.07, 0.07],
            "n": [100, 90],
        }
    )
    rows.to_parquet(path / "some" / "summary.parquet")
    return path


def test_rows_come_from_tables_and_what_is_missing_says_so(tmp_path: Path) -> None:
    source = Source("some/summary", scale=100)
    here, there = at(source, condition="oeb"), at(source, condition="placebo")
    readings = (
        Reading("a", "a gain", "accuracy", here, control="c", left=there, matched=True),
        Reading("a", "a loss", "accuracy", here, sign=-1),
        Reading("b", "another", "accuracy", at(source, condition="smi")),
        Reading("b", "elsewhere", "accuracy", at(Source("other/summary"))),
        Reading("c", "never", "accuracy", untestable="no such thing"),
        Reading("c", "nowhere", "accuracy"),
    )
    table = claims_table(a_folder(tmp_path), readings)
    assert list(table.columns) == list(COLUMNS)
    assert table["verdict"].tolist() == [
        "supported", "refuted", "not shown", "not shown", "not testable here", "not shown",
    ]  # fmt: skip
    assert table["reason"].tolist()[2:] == [
        "some/summary was not run with smi",
        "other/summary was not run",
        "no such thing",
        "no analysis has it",
    ]
    assert table.loc[0, ["estimate", "lower", "upper"]].tolist() == pytest.approx([5, 3, 7])
    assert table.loc[0, "control_lower"] == pytest.approx(1)
    assert table["n"].tolist()[:2] == [100, 100]
    assert len(measured(table)) == 2


def test_a_table_without_the_column_is_an_error_and_no_missing_run(tmp_path: Path) -> None:
    reading = Reading("a", "x", "accuracy", at(Source("some/summary"), conditions="oeb"))
    with pytest.raises(ValueError, match="no column 'conditions'"):
        claims_table(a_folder(tmp_path), (reading,))


def test_every_claim_of_the_paper_has_a_reading() -> None:
    text = " ".join(f"{r.claim} {r.statement} {r.untestable}" for r in READINGS).lower()
    for word in (
        "lock-in", "decay", "before the first", "decides the first", "after the first",
        "oeb", "smi", "alpha 0.01", "alpha 1", "tau_max 0.05", "tau_max 0.6", "more than the sum",
        "third", "half", "hard", "conceptual", "wait", "plan-and-solve", "hint", "steering",
        "self-intensity", "vote of 2 with stepflow - vote of 4", "temperature 0.6",
        "question", "summary looks at itself", "planted", "budget forcing", "few heads",
    ):  # fmt: skip
        assert word in text, word
    kinds = {r.reading for r in READINGS if r.claim == "shallow lock-in marks errors"}
    assert kinds == {"loss", "log-odds", "attention"}


def test_strata_by_hand() -> None:
    samples = pd.DataFrame(
        {
            "problem": np.repeat(["a", "b", "c", "d"], 4),
            "is_correct": [0, 0, 0, 0, 1, 0, 0, 0, 1, 1, 0, 0, 1, 1, 1, 0],
        }
    )
    assert strata_of(samples).to_dict() == {
        "a": "hard", "b": "hard", "c": "middling", "d": "easy",
    }  # fmt: skip


def test_a_gain_on_hard_problems_is_found_there_and_luck_is_none() -> None:
    """Strata come from other samples, so that no gain falls back to the mean."""
    rng = np.random.default_rng(1)
    skill = rng.beta(1, 1, 400)
    names = [f"p{i}" for i in range(400)]
    samples = pd.DataFrame(
        {
            "problem": np.repeat(names, 8),
            "is_correct": (rng.random((400, 8)) < skill[:, None]).ravel(),
        }
    )
    helped = np.where(skill < 0.2, skill + 0.5, skill)
    answers = pd.concat(
        pd.DataFrame(
            {"problem": names, "condition": name, "is_correct": (rng.random(400) < rate) * 1.0}
        )
        for name, rate in (("baseline", skill), ("both", helped), ("idle", skill))
    )
    table = gains_by_difficulty(answers, samples, n_resamples=500, n_permutations=499)
    rows = table.set_index(["condition", "stratum"])
    assert rows.loc[("both", "hard"), "lower"] > 0.2
    contrast = rows.loc[("both", CONTRAST)]
    means = rows.loc["both", "estimate"]
    assert contrast["estimate"] == pytest.approx(means["hard"] - means["easy"])
    assert contrast["lower"] > 0.2
    assert contrast["p"] < 0.001
    idle = rows.loc["idle"]
    assert ((idle["lower"] < 0) & (idle["upper"] > 0)).all()


def test_hard_minus_easy_without_a_flip_has_no_interval() -> None:
    names = list("abcdef")
    samples = pd.DataFrame({"problem": names, "is_correct": [0, 0, 0, 1, 1, 1]})
    answers = pd.concat(
        pd.DataFrame({"problem": names, "condition": condition, "is_correct": right})
        for condition, right in (("baseline", 0.0), ("idle", 0.0), ("both", [1.0, 0, 0, 0, 0, 0]))
    )
    table = gains_by_difficulty(answers, samples, n_resamples=50, n_permutations=49)
    rows = table[table["stratum"] == CONTRAST].set_index("condition")
    assert rows.loc["idle", "interval"] == "none"
    assert rows.loc["idle", ["lower", "upper", "p"]].isna().all()
    assert rows.loc["both", "estimate"] == pytest.approx(1 / 3)
    assert rows.loc["both", "lower"] < 0 < rows.loc["both", "upper"]


def flipped_gains(tmp_path: Path, right: dict[str, float]) -> pd.Series:
    """The row of OEB's gains where each tenth answer of a stratum flips, whatever it was.

    Args:
        right: Share of greedy answers that is right in strata of 200 problems each.
    """
    names = {stratum: [f"{stratum}{i}" for i in range(200)] for stratum in ("hard", "easy")}
    samples = pd.DataFrame(
        [(name, stratum == "easy") for stratum, some in names.items() for name in some],
        columns=["problem", "is_correct"],
    )
    plain = {
        name: i < 200 * right[stratum]
        for stratum, some in names.items()
        for i, name in enumerate(some)
    }
    flipped = {name: is_right ^ (int(name[4:]) % 10 == 0) for name, is_right in plain.items()}
    conditions = {BASELINE: plain, "oeb": flipped, "oeb-layers-kl": plain}
    answers = pd.concat(
        pd.DataFrame({"problem": list(some), "condition": name, "is_correct": list(some.values())})
        for name, some in conditions.items()
    ).astype({"is_correct": float})
    tables = [
        gains_by_difficulty(
            answers, samples, baseline=reference, n_resamples=20, n_permutations=19
        ).assign(reference=reference)
        for reference in (BASELINE, "oeb-layers-kl")
    ]
    (tmp_path / "claims").mkdir(exist_ok=True)
    pd.concat(tables).to_parquet(tmp_path / "claims" / "difficulty.parquet")
    return claims_table(tmp_path, tuple(difficult_gains([("oeb", "oeb-layers-kl")]))).iloc[0]


@pytest.mark.parametrize(
    ("hard", "easy"), [(0.0, 1.0), (0.0, 0.6), (0.4, 1.0), (0.09, 0.6), (0.4, 0.91)]
)
def test_flips_of_answers_that_were_all_wrong_or_all_right_say_nothing(
    tmp_path: Path, hard: float, easy: float
) -> None:
    row = flipped_gains(tmp_path, {"hard": hard, "easy": easy})
    assert row["control_lower"] > 0
    assert row["verdict"] == "not testable here"
    assert f"{hard:.0%} of the answers to hard problems and {easy:.0%}" in row["reason"]


def test_gains_are_judged_where_answers_leave_room(tmp_path: Path) -> None:
    row = flipped_gains(tmp_path, {"hard": 0.5, "easy": 0.5})
    assert (row["verdict"], row["estimate"]) == ("not shown", 0)
    table = pd.read_parquet(tmp_path / "claims" / "difficulty.parquet")
    rows = table[table["reference"] == BASELINE].set_index(["condition", "stratum"])
    assert rows.loc[("oeb", CONTRAST), ["hard_share", "easy_share"]].tolist() == [0.5, 0.5]
    assert rows["reference_share"].dropna().tolist() == [0.5] * 4


def test_hard_minus_easy_rejects_as_often_as_it_says() -> None:
    """Answers drawn twice by the same skill, 20% and 70% right: nothing is gained anywhere."""
    rng = np.random.default_rng(3)
    stratum = np.repeat(["hard", "easy"], 80)
    skill = np.repeat([0.2, 0.7], 80)

    def p_value() -> float:
        plain, edited = (rng.random((2, 160)) < skill).astype(float)
        gains = pd.DataFrame({"stratum": stratum, "gain": edited - plain, "reference": plain})
        return hard_minus_easy(gains, 0.95)["p"]

    rejected = sum(p_value() < 0.05 for _ in range(1000))
    assert abs(rejected - 50) < 3 * np.sqrt(1000 * 0.05 * 0.95)


def test_the_committed_table_is_what_the_tables_say() -> None:
    for name, frame in derived_tables(RESULTS).items():
        pd.testing.assert_frame_equal(frame, pd.read_parquet(RESULTS / f"{name}.parquet"))
    fresh = claims_table(RESULTS)
    committed = pd.read_csv(RESULTS / "claims" / "claims.csv")
    assert committed["verdict"].tolist() == fresh["verdict"].tolist()
    assert committed["reason"].tolist() == fresh["reason"].tolist()
    np.testing.assert_allclose(committed["estimate"], fresh["estimate"].astype(float), rtol=1e-5)
    assert (RESULTS / "claims" / "claims.md").read_text().endswith(table_lines(fresh))


def test_the_readme_quotes_the_table() -> None:
    """Between the marks stands what ``python -m analyses.claims --page README.md`` writes there."""
    page = (RESULTS.parent / "README.md").read_text(encoding="utf-8")
    if BEGIN not in page:
        pytest.skip("the README quotes no claims")
    assert page == with_quote(page, claims_table(RESULTS))


def test_a_quote_has_one_row_of_each_claim_and_model_and_takes_the_place_of_the_old() -> None:
    source = Source("some/summary", scale=100)
    here, there = at(source, condition="oeb"), at(source, condition="placebo")
    readings = (
        Reading("a", "no control", "accuracy", here),
        Reading("a", "with control", "accuracy", here, control="c", left=there, matched=True),
        Reading("b", "measured", "accuracy", here),
        Reading("b", "never", "accuracy", untestable="no such thing"),
        Reading("c", "nowhere", "accuracy"),
        Reading("d", "never", "accuracy", untestable="no such thing"),
    )
    table = claims_table(RESULTS, readings).assign(estimate=[1.0, 1, 1, None, None, None])
    table["control_matched"] = [None, True, None, None, None, None]
    for name, left in (("estimate", 2.0), ("lower", 1.0), ("upper", 3.0)):
        table[f"control_{name}"] = [None, left, None, None, None, None]
    quote = quoted(table)
    rows = [line.strip("| ").split(" | ") for line in quote.splitlines()[2:]]
    assert [(row[0], row[2], row[-1]) for row in rows] == [
        ("a", "accuracy: with control", "2 not shown"),
        ("b", "accuracy: measured", "1 not shown, 1 not testable here"),
        ("d", "accuracy: never", "1 not testable here"),
    ]
    assert [row[4] for row in rows] == ["c +2 [+1, +3]", "", ""]
    page = f"x\n{BEGIN}old\n{END}y\n"
    assert with_quote(page, table) == f"x\n{BEGIN}{quote}{END}y\n"
    with pytest.raises(ValueError, match="has no lines '<!-- claims -->'"):
        with_quote("x\n", table)


def controlled(*rows: tuple[Any, ...]) -> pd.DataFrame:
    """A table of claims: verdict, control, whether it is matched and what it leaves, by row."""
    columns = ["verdict", "control", "control_matched", "control_estimate"]
    table = pd.DataFrame(rows, columns=columns).astype({"control_matched": object})
    return table.assign(claim="a", model="x", statement="s", reading="loss", estimate=2.0)


@pytest.mark.parametrize(
    ("rows", "verdict", "decides"),
    [
        ([("supported", "c", True, 1.0), ("supported", "d", True, 1.0)], "supported", "c"),
        ([("supported", "c", True, 1.0), ("not shown", "d", True, 0.1)], "not shown", "d"),
        ([("supported", "c", True, 1.0), ("refuted", "d", True, -1.0)], "refuted", "d"),
        ([("not shown", "c", False, 1.0), ("supported", "d", True, 1.0)], "supported", "d"),
        ([("not shown", "c", None, None), ("supported", "d", True, 1.0)], "supported", "d"),
        ([("not shown", "c", False, 1.0), ("not shown", "d", True, 0.1)], "not shown", "d"),
        ([("refuted", "c", None, None), ("refuted", "d", True, 1.0)], "refuted", "d"),
        ([("not testable here", "c", True, 1.0)] * 2, "not testable here", "c"),
    ],
)
def test_controls_of_one_estimate_are_one_verdict(
    rows: list[tuple[Any, ...]], verdict: str, decides: str
) -> None:
    table = controlled(*rows)
    assert one_verdict(table) == verdict
    (found,) = one_each(table).to_dict("records")
    assert (found["verdict"], found["control"]) == (verdict, decides)
    run = [control for _, control, _, left in rows if left is not None]
    assert [one["control"] for one in found["controls"]] == run


def test_readings_of_one_estimate_have_one_estimate() -> None:
    """Nothing is lumped together that was measured apart."""
    table = measured(claims_table(RESULTS))
    assert (table.groupby(ESTIMATE)["estimate"].nunique() == 1).all()
    assert (table.groupby(ESTIMATE)["table"].nunique() == 1).all()


def test_all_verdicts_at_a_glance() -> None:
    rows = [
        ("a", "x", "s", "supported", 1.0), ("a", "x", "s", "not shown", 1.0),
        ("a", "x", "t", "not shown", 1.0), ("a", "y", "s", "refuted", 1.0),
        ("b", "y", "s", "not testable here", 1.0), ("c", "y", "s", "not shown", 1.0),
        ("c", "y", "t", "not testable here", None), ("a", "y", "t", "not shown", None),
        ("a", "z", "s", "not shown", None),
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=["claim", "model", "statement", "verdict", "estimate"])
    table = table.assign(reading="loss", control_matched=None, control_estimate=None)
    text = glance.at_a_glance(table)
    assert text.splitlines() == [
        "| claim | x | y |",
        "|---|:---:|:---:|",
        "| a | 1 / 0 / 1 | 0 / 1 / 0 |",
        "| c | – | 0 / 0 / 1 |",
    ]
    quote = quoted(claims_table(RESULTS, ()))
    page = f"{glance.BEGIN}old\n{glance.END}y\n{BEGIN}old\n{END}"
    empty = claims_table(RESULTS, ())
    assert with_quote(page, empty) == (
        f"{glance.BEGIN}{glance.at_a_glance(empty)}{glance.END}y\n{BEGIN}{quote}{END}"
    )
    with pytest.raises(ValueError, match="end of verdicts"):
        with_quote(f"{glance.BEGIN}{BEGIN}{END}", empty)


def test_models_stand_side_by_side_and_each_has_folders_of_its_own(tmp_path: Path) -> None:
    for model in MODELS.values():
        folder = tmp_path / f"some{model.suffix}"
        folder.mkdir()
        row = {"condition": ["oeb"], "estimate": [0.05], "lower": [0.03], "upper": [0.07], "n": [9]}
        pd.DataFrame(row).to_parquet(folder / "summary.parquet")
    place = at(Source("other/summary"), Source("some/summary"), condition="oeb")
    readings = tuple(Reading("a", "x", "accuracy", place, model=name) for name in MODELS)
    table = claims_table(tmp_path, readings)
    assert table["table"].tolist() == [f"some{model.suffix}/summary" for model in MODELS.values()]
    assert set(MODELS) == {reading.model for reading in READINGS}
    of_reporter = readings_of("reporter")
    assert not any("no summary error" in reading.untestable for reading in of_reporter)


def test_a_model_that_solves_nothing_and_a_placebo_that_misses_its_dose(tmp_path: Path) -> None:
    folder = tmp_path / "some"
    folder.mkdir()
    rows = {
        "condition": ["oeb", "placebo", "weak", "able"],
        "estimate": [0.05, 0.04, 2 / 60, 0.5],
        "lower": [0.03, 0.01, 0.0, 0.4],
        "upper": [0.07, 0.07, 0.1, 0.6],
        "n": [60] * 4,
    }
    pd.DataFrame(rows).to_parquet(folder / "summary.parquet")
    doses = {"condition": ["near", "far"], "dose_ratio": [1.04, 0.9]}
    pd.DataFrame(doses).to_parquet(folder / "doses.parquet")
    source = Source("some/summary")
    here, there = at(source, condition="oeb"), at(source, condition="placebo")

    def verdict(**fields: Any) -> tuple[str, str, Any]:
        reading = Reading("a", "x", "accuracy", here, control="c", left=there, **fields)
        row = claims_table(tmp_path, (reading,)).iloc[0]
        return row["verdict"], row["reason"], row["control_matched"]

    dose = {name: at(Source("some/doses"), condition=name) for name in ("near", "far", "unknown")}
    assert verdict(matched=True, dose=dose["near"])[0] == "supported"
    assert verdict(matched=True, dose=dose["unknown"])[0] == "supported"
    found, reason, matched = verdict(matched=True, dose=dose["far"])
    assert (found, matched) == ("not shown", False)
    assert "the control's dose is off by -10%" in reason
    assert verdict(matched=True, floor=at(source, condition="able"))[0] == "supported"
    found, reason, _ = verdict(matched=True, floor=at(source, condition="weak"))
    assert (found, reason) == ("not testable here", "the model solves 2 of 60 problems")


@pytest.mark.parametrize(("p_holm", "verdict"), [(0.04, "supported"), (0.061, "not shown")])
def test_p_after_holm_is_read_from_the_table(tmp_path: Path, p_holm: float, verdict: str) -> None:
    reading = Reading("a", "x", "accuracy", PLACE, control="c", left=PLACE, matched=True)
    row = one_row_of(tmp_path, [{**ROW, "condition": "oeb", "p_holm": p_holm}], reading)
    assert (row["verdict"], row["p_holm"]) == (verdict, p_holm)


@pytest.mark.parametrize(
    ("rank", "verdict", "reason"),
    [
        (1 / 21, "supported", "more than the matched control"),
        (2 / 21, "not shown", "1 of 20 sets of the control do as much"),
        (1.0, "not shown", "20 of 20 sets of the control do as much"),
        (None, "not shown", "some/summary was not run with rank, 2"),
    ],
)
def test_a_set_is_held_against_each_set_of_its_control(
    tmp_path: Path, rank: float | None, verdict: str, reason: str
) -> None:
    rows: list[dict[str, Any]] = [{**ROW, "contrast": "top - none", "k": 2}]
    if rank is not None:
        rows.append({"contrast": "rank", "k": 2, "estimate": rank, "n": 20})
    place = at(Source("some/summary"), contrast="top - none", k=2)
    share = at(Source("some/summary"), contrast="rank", k=2)
    reading = Reading("a", "x", "accuracy", place, left=place, matched=True, rank=share)
    row = one_row_of(tmp_path, rows, reading)
    assert (row["verdict"], row["reason"]) == (verdict, reason)
    heads = [r for r in readings_of("qwen") if r.claim == "few heads carry the repair"]
    assert len(heads) == 2
    assert all(reading.rank is not None for reading in heads)


@pytest.mark.parametrize(
    ("few", "verdict"), [(1, "not testable here"), (9, "not testable here"), (10, "supported")]
)
def test_a_group_of_few_says_nothing(tmp_path: Path, few: int, verdict: str) -> None:
    groups = {"n_flow": "flow errors", "n_local": "local errors"}
    reading = Reading("a", "x", "error rate", PLACE, left=PLACE, matched=True, groups=groups)
    row = one_row_of(
        tmp_path, [{**ROW, "condition": "oeb", "n_flow": 266, "n_local": few}], reading
    )
    assert row["verdict"] == verdict
    assert ("(flow errors: 266, local errors: 1)" in row["reason"]) == (few == 1)


def test_better_than_a_rival_that_does_harm_is_not_better(tmp_path: Path) -> None:
    harm = {**ROW, "estimate": -0.01, "lower": -0.04, "upper": 0.02, "condition": "harmless"}
    rows = [{**ROW, "condition": "oeb"}, harm]
    gains = {name: at(Source("some/summary"), condition=name) for name in ("oeb", "harmless", "no")}
    found = {
        name: one_row_of(tmp_path, rows, against_rival("a", "x", PLACE, gain=gain))
        for name, gain in gains.items()
    }
    assert found["oeb"]["verdict"] == "supported"
    assert found["harmless"]["verdict"] == found["no"]["verdict"] == "not shown"
    assert "the rival may only do harm" in found["harmless"]["reason"]
    assert found["no"]["reason"] == "some/summary was not run with no"
    asked = [r for r in READINGS if r.claim == "StepFlow is better than its rivals" and r.effect]
    assert asked
    assert all(reading.gain is not None for reading in asked)


def test_every_rival_has_the_gain_over_no_edit_beside_it() -> None:
    rivals = [r for r in READINGS if r.control == "the rival itself"]
    assert len({r.claim for r in rivals}) == 3
    assert all(reading.gain is not None for reading in rivals)


@pytest.mark.parametrize(
    ("gain", "verdict"), [((0.03, 0.01, 0.05), "supported"), ((-0.01, -0.04, 0.02), "not shown")]
)
def test_a_wait_that_breaks_answers_makes_stepflow_no_better(
    tmp_path: Path, gain: tuple[float, ...], verdict: str
) -> None:
    (tmp_path / "claims_qwen").mkdir()
    intervals = {"StepFlow - 'Wait'": (0.7, 0.6, 0.8), "StepFlow - none": gain}
    rows = [
        {"contrast": name, "n": 300, **dict(zip(("estimate", "lower", "upper"), some, strict=True))}
        for name, some in intervals.items()
    ]
    pd.DataFrame(rows).to_parquet(tmp_path / "claims_qwen" / "contrasts.parquet")
    (reading,) = [r for r in readings_of("qwen") if "'Wait'" in r.statement]
    (found,) = claims_table(tmp_path, (reading,)).to_dict("records")
    assert (found["estimate"], found["verdict"]) == (pytest.approx(70), verdict)
    assert ("the rival may only do harm" in found["reason"]) == (verdict == "not shown")


@pytest.mark.parametrize(
    ("upper", "verdict", "reason"),
    [(0.07, "supported", ""), (0.01, "not testable here", "there is no gain to be robust")],
)
def test_what_is_no_gain_cannot_be_robust(
    tmp_path: Path, upper: float, verdict: str, reason: str
) -> None:
    rows = [{**ROW, "condition": "strong"}, {**ROW, "condition": "oeb", "upper": upper}]
    rows[1] |= {"lower": upper - 0.04, "estimate": upper - 0.02}
    strong = at(Source("some/summary"), condition="strong")
    own = Reading("a", "gain", "accuracy", PLACE, control="c", left=PLACE, matched=True)
    reading = Reading("b", "x", "accuracy", strong, left=strong, matched=True, needs=(own,))
    row = one_row_of(tmp_path, rows, reading)
    assert row["verdict"] == verdict
    assert row["reason"].startswith(reason)
    unknown = replace(own, effect=at(Source("other/summary")))
    row = one_row_of(tmp_path, rows, replace(reading, needs=(unknown,)))
    assert row["verdict"] == "supported"


def test_what_is_said_to_be_robust_is_said_of_a_gain() -> None:
    robust = [r for r in READINGS if "robust" in r.claim]
    assert {needed.claim for r in robust for needed in r.needs} == {"OEB helps", "SMI helps"}
    assert all(r.needs for r in robust)


def test_differences_between_ways_have_no_margin() -> None:
    better = {
        "both together help more than the sum", "a quarter of the layers is the right band",
        "gains are larger on hard problems", "StepFlow is better than its rivals",
        "StepFlow is worth more than as much compute",
        "StepFlow is worth twice the samples or the length",
    }  # fmt: skip
    assert {r.claim for r in READINGS if r.claim in better} == better
    assert {r.margin for r in READINGS if r.claim in better} == {0}
    gains = {r.claim: r.margin for r in READINGS if r.margin}
    assert (gains["OEB helps"], gains["SMI helps"]) == (OEB_GAIN, SMI_GAIN)
    assert set(gains.values()) == {OEB_GAIN, SMI_GAIN, BOTH_GAIN}


@pytest.mark.parametrize(
    ("kind", "verdicts"),
    [
        ("attention", ["not testable here", "not testable here", "supported"]),
        ("log-odds", ["supported"] * 3),
    ],
)
def test_attention_in_edited_layers_moves_by_definition(
    tmp_path: Path, kind: str, verdicts: list[str]
) -> None:
    readings = [r for r in readings_of("reporter") if "mends" in r.claim and r.reading == kind]
    assert [r.claim.split()[-2] for r in readings] == ["shallow", "shallow", "deep"]
    (tmp_path / "mediation_aggregates_reporter").mkdir()
    rows = [
        {"aggregate": r.effect[1]["aggregate"], "reading": kind, "condition": "both", "n": 100,
         "estimate": 0.05 * r.sign, "lower": 0.05 * r.sign - 0.01, "upper": 0.05 * r.sign + 0.01}
        for r in readings
        if r.effect is not None
    ]  # fmt: skip
    for name in ("summary", "placebos"):
        file = tmp_path / "mediation_aggregates_reporter" / f"{name}.parquet"
        pd.DataFrame(rows).to_parquet(file)
    found = claims_table(tmp_path, tuple(readings))
    assert found["verdict"].tolist() == verdicts
    assert found["estimate"].notna().all()


def test_the_summary_and_the_depth_of_its_look_are_two_claims(tmp_path: Path) -> None:
    """Deep layers look at it beyond a uniform row, which is no control; those between more."""
    readings = [r for r in readings_of("reporter") if "looks at itself" in r.claim]
    readings = [r for r in readings if r.reading == "loss"]
    (tmp_path / "mediation_aggregates_reporter").mkdir()
    file = tmp_path / "mediation_aggregates_reporter" / "levels.parquet"
    for n, verdicts in ((100, ["not shown", "refuted"]), (4, ["not testable here"] * 2)):
        rows = [
            {"aggregate": "summary_self_last", "reading": "loss", "band": band, "n": n,
             "estimate": x, "lower": x - 0.01, "upper": x + 0.01}
            for band, x in (("deep", 0.1), ("middle", 0.15), ("difference", -0.05))
        ]  # fmt: skip
        pd.DataFrame(rows).to_parquet(file)
        os.utime(file, ns=(n, n))
        assert claims_table(tmp_path, tuple(readings))["verdict"].tolist() == verdicts


def test_doses_of_halves_and_the_share_of_the_residual(tmp_path: Path) -> None:
    """The worse half counts; momentum adds in proportion to alpha; what is unknown says so."""
    (tmp_path / "some").mkdir()
    doses = {
        "condition": ["bridge", "direction", "smi"],
        "dose_ratio": [1.01, 0.98, None],
        "alpha": [None, 0.06, 0.06],
        "injected_norm": [None, 0.012, 0.012],
    }
    pd.DataFrame(doses).to_parquet(tmp_path / "some" / "doses.parquet")
    at_dose = {name: at(Source("some/doses"), condition=name) for name in doses["condition"]}
    fields: dict[str, Any] = {"control": "c", "left": PLACE, "matched": True}
    rows = [{**ROW, "condition": "oeb"}]

    def row(**more: Any) -> pd.Series:
        reading = Reading("a", "SMI", "accuracy", PLACE, **fields, **more)
        return one_row_of(tmp_path, rows, reading)

    halves = row(dose=at_dose["bridge"], other_dose=at_dose["direction"])
    assert (halves["dose_ratio"], halves["control"]) == (0.98, "c")
    assert row(dose=at_dose["bridge"])["dose_ratio"] == 1.01
    unknown = row(dose=at_dose["bridge"], other_dose=at(Source("other/doses"), condition="x"))
    assert unknown["dose_ratio"] is None
    assert unknown["control"] == f"c ({UNCHECKED})"
    strong = row(alpha=0.5, injected=at_dose["smi"])
    assert strong["statement"] == "SMI (about 10% of the residual's norm)"
    assert row(alpha=0.5, injected=at(Source("other/doses")))["statement"] == "SMI"


def test_placebos_gain_on_hard_problems_what_luck_gives_them(tmp_path: Path) -> None:
    """Of greedy answers that were wrong any change gains; the control gains as much."""
    names = [f"p{i}" for i in range(60)]
    conditions = {BASELINE: 0, "oeb": 12, "both": 12, "oeb-layers-kl": 12, "oeb-block-kl": 30}
    answers = pd.concat(
        pd.DataFrame(
            {"problem": names, "condition": name, "is_correct": [i < right for i in range(60)]}
        )
        for name, right in conditions.items()
    )
    few = answers[answers["condition"].isin([BASELINE, "oeb", "both"])]
    samples = pd.DataFrame(
        {"problem": names, "is_correct": False, "condition": BASELINE, "method": "sample"}
    ).assign(limit=None, k=1)
    for folder, table in (("ablation", few), ("ablation_matched", answers)):
        (tmp_path / folder).mkdir()
        table.to_parquet(tmp_path / folder / "values.parquet")
    (tmp_path / "compute_matched").mkdir()
    greedy = samples.assign(method="greedy", limit=10)
    pd.concat([samples, greedy]).to_parquet(tmp_path / "compute_matched" / "values.parquet")
    table = derived_tables(tmp_path)["claims/difficulty"]
    rows = table.set_index(["condition", "reference", "stratum"])["estimate"]
    assert rows["oeb", BASELINE, "hard"] == pytest.approx(0.2)
    assert rows["oeb-block-kl", BASELINE, "hard"] == pytest.approx(0.5)
    assert rows["oeb", "oeb-layers-kl", "hard"] == pytest.approx(0)
    assert rows["both", "oeb-block-kl", "hard"] == pytest.approx(-0.3)
    assert not rows.index.duplicated().any()


def test_two_runs_on_one_file_are_one_whole(tmp_path: Path) -> None:
    """Rows of both count once; what was run in the first alone takes no part."""
    right = {BASELINE: (10, 20), "both": (16, 26), "both-layers-kl": (13, 20), "oeb": (40, 0)}
    for folder, which, n in (("ablation", 0, 40), ("ablation_rest", 1, 60)):
        table = pd.concat(
            pd.DataFrame(
                {
                    "problem": [f"{folder}{i}" for i in range(n)],
                    "sample": 0,
                    "condition": name,
                    "is_correct": [i < counts[which] for i in range(n)],
                }
            )
            for name, counts in right.items()
            if counts[which]
        )
        (tmp_path / folder).mkdir()
        table.to_parquet(tmp_path / folder / "values.parquet")
    rows = derived_tables(tmp_path)["claims/whole"].set_index(["condition", "reference"])
    assert set(rows.index) == {
        ("both", BASELINE), ("both-layers-kl", BASELINE), ("both", "both-layers-kl"),
    }  # fmt: skip
    assert rows.loc[("both", BASELINE), "estimate"] == pytest.approx(0.12)
    assert rows.loc[("both", "both-layers-kl"), "estimate"] == pytest.approx(0.09)
    assert (rows["n"] == 100).all()
    assert (rows["p_holm"] >= rows["p"]).all()


def test_forks_are_held_against_the_placebo_that_is_named(tmp_path: Path) -> None:
    """Rows of another placebo stand beside it, and are not taken for it."""
    row = {"condition": "both", "place": "any", "estimate": 0.1, "lower": 0.05, "upper": 0.2,
           "n": 50, "p_holm": 0.01}  # fmt: skip
    rows = [
        row | {"contrast": "edit - baseline", "reference": BASELINE},
        row | {"contrast": "edit - placebo", "reference": "both-bridge-direction-kl"},
    ]
    reading = next(r for r in readings_of("qwen") if "wherever it is" in r.statement)
    folder = tmp_path / "fork_points_qwen"
    folder.mkdir()
    for placebos in (rows[1:], [*rows[1:], rows[1] | {"reference": "both-layers-kl"}]):
        pd.DataFrame([rows[0], *placebos]).to_parquet(folder / "summary.parquet")
        (found,) = claims_table(tmp_path, (reading,)).to_dict("records")
        assert found["estimate"] == 10
        assert pd.isna(found["control_estimate"]) == (len(placebos) == 1)
        assert (found["verdict"] == "supported") == (len(placebos) == 2)


def test_longer_answers_are_of_the_limit_that_was_asked_for() -> None:
    limits = [96, 192, 259, 384]
    contrasts = length_contrasts(pd.DataFrame({"limit": limits}))
    assert contrasts["StepFlow - 1.35 times as long"] == {
        "both greedy-192": 1, "baseline greedy-259": -1,
    }  # fmt: skip
    assert contrasts["StepFlow - longer"]["baseline greedy-384"] == -1
    assert contrasts["StepFlow - none"] == {"both greedy-192": 1, "baseline greedy-192": -1}
    assert len(length_contrasts(pd.DataFrame({"limit": [96, 192, 384]}))) == 3


def test_the_readme_quotes_a_control_that_leaves_a_working_model() -> None:
    """Random keys of the bridge's KL destroy the reporter: against them anything is better."""
    table = claims_table(RESULTS)
    for _, rows in table[table["claim"] == "OEB helps"].groupby("model"):
        matched_rows = rows[rows["control_matched"].eq(True)]
        if not matched_rows.empty:
            assert matched_rows["control"].iloc[0] in (
                "random layers of equal KL", "a contiguous block of keys of equal KL",
            )  # fmt: skip
            assert matched_rows["control_estimate"].iloc[0] < 5


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--results", str(a_folder(tmp_path))])
    assert "readings" in capsys.readouterr().out
    assert (pd.read_csv(tmp_path / "claims" / "claims.csv")["verdict"] != "supported").all()
