"""The table of a run: estimates, differences, votes, chance, published numbers; and settings."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from step_saliency.benchmark.command.arguments import run as run_command
from step_saliency.benchmark.command.page import MARK, BenchmarkTable
from step_saliency.benchmark.command.plan import make_plan
from step_saliency.benchmark.command.published import DEEPSEEK, PUBLISHED
from step_saliency.benchmark.command.settings import (
    RESPONSES,
    BenchmarkSettings,
    keep_settings,
    read_settings,
)
from step_saliency.benchmark.command.table import chance_of, make_table
from step_saliency.benchmark.command.votes import voted_rows
from step_saliency.benchmark.conditions import CONDITIONS
from step_saliency.benchmark.presets import PRESETS
from step_saliency.benchmark.scale.units import (
    done_keys,
    note_done,
    open_units,
    units_of,
)
from step_saliency.benchmark.suites.suites import SUITES
from step_saliency.cli import main
from step_saliency.options import Draws

R1 = "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B"
DRAWS = Draws(n_resamples=500, n_permutations=2000)


def rows_of(
    right: dict[str, np.ndarray], suite: str = "aime24", answers: Any = None
) -> pd.DataFrame:
    """Rows of problems x samples that are right or wrong, by condition."""
    rows = [
        {
            "model": R1,
            "suite": suite,
            "condition": condition,
            "problem": f"p{problem}",
            "sample": sample,
            "problems": len(values),
            "is_correct": bool(value),
            "verdict": "right" if value else "wrong",
            "is_correct_as_script": None,
            "answer": ("1" if value else "0") if answers is None else answers[problem][sample],
            "stop": "stop" if sample else "max_tokens",
            "input_tokens": 10,
            "output_tokens": 100 + sample,
            "reasoning_tokens": 50,
            "seconds": 2.0,
        }
        for condition, values in right.items()
        for problem, samples in enumerate(values)
        for sample, value in enumerate(samples)
    ]
    return pd.DataFrame(rows)


def settings_of(**changes: Any) -> BenchmarkSettings:
    return BenchmarkSettings(**{"model": R1, "suites": ("aime24",), **changes})


def cell(table: BenchmarkTable, condition: str) -> Any:
    (row,) = table.cells[table.cells["condition"] == condition].itertuples(index=False)
    return row


def test_cells_by_hand() -> None:
    baseline = np.array([[1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]] * 4)
    flow = np.array([[1, 1, 1, 0], [0, 1, 0, 0], [1, 1, 1, 1]] * 4)
    rows = rows_of({"baseline": baseline, "stepflow": flow})
    table = make_table(rows, settings_of(samples=4), draws=DRAWS)
    first, second = cell(table, "baseline"), cell(table, "stepflow")
    assert first.estimate == pytest.approx(50)
    assert second.difference == pytest.approx(100 * 2 / 12)
    assert (second.corrected, second.broken) == (8, 0)
    assert second.p_holm <= 0.05
    assert first.n == 12
    assert (first.responses, first.samples) == (48, 4)
    assert first.truncated == pytest.approx(25)
    assert first.tokens == pytest.approx(101.5)
    assert math.isnan(first.difference)
    assert first.lower < 50 < first.upper
    assert "50.0" in str(table)


def test_published_numbers_stand_beside() -> None:
    rows = rows_of({"baseline": np.array([[1, 0]] * 30), "oeb": np.array([[1, 0]] * 30)})
    table = make_table(rows, settings_of(samples=2), draws=DRAWS)
    known, unknown = cell(table, "baseline"), cell(table, "oeb")
    assert known.published == 54.0
    assert known.distance == pytest.approx(-4)
    assert known.reading == "chance"
    assert math.isnan(unknown.published)
    assert unknown.reading == ""
    assert unknown.source is None
    far = make_table(
        rows_of({"baseline": np.ones((30, 2), int)}), settings_of(samples=2), draws=DRAWS
    )
    assert cell(far, "baseline").reading == "apart"
    other = make_table(rows, settings_of(model="reasoner", samples=2), draws=DRAWS)
    assert other.cells["published"].isna().all()
    assert "published" not in str(other)


def test_numbers_that_were_not_seen_at_their_source_are_marked() -> None:
    suites, half = ("aime24", "math500"), np.array([[1, 0]] * 9)
    rows = pd.concat(rows_of({"baseline": half}, suite=suite) for suite in suites)
    shown = str(make_table(rows, settings_of(suites=suites), draws=DRAWS))
    assert f"54.0{MARK}" in shown
    assert f"92.8{MARK}" not in shown
    assert "92.8" in shown
    (note,) = [line for line in shown.splitlines() if line.startswith(f"{MARK} ")]
    assert "the paper itself was not read" in note
    assert f"the same in {DEEPSEEK}" in shown
    both = rows_of({"baseline": half, "oeb": half})
    assert "no published number is known here" in str(make_table(both, settings_of(), draws=DRAWS))


def test_a_page_says_what_its_columns_mean_and_what_is_missing() -> None:
    baseline, flow = np.ones((6, 4), int), np.array([[1, 0, 1, 1]] * 6)
    rows = rows_of({"baseline": baseline, "stepflow": flow}, suite="livecodebench")
    rows["is_correct_as_script"] = rows["is_correct"]
    settings = settings_of(
        suites=("livecodebench",), samples=4, conditions=("baseline", "stepflow")
    )
    whole = str(make_table(rows, settings, draws=DRAWS))
    assert "LiveCodeBench, 6 problems x 4 samples" in whole
    assert "as main programs: baseline 100.0, stepflow 75.0" in whole
    assert "missing" not in whole
    head = whole.splitlines()[3]
    for column in head.replace("p (Holm)", "").split():
        assert column == "condition" or f"\n{column:11}" in whole
    part = str(make_table(rows[:-3], settings, draws=DRAWS))
    assert "missing    3 responses of livecodebench under stepflow" in part
    assert "6 problems x 3.5" in part


def test_a_response_without_a_program_counts_as_a_wrong_main_program() -> None:
    rows = rows_of({"baseline": np.array([[1]] * 5 + [[0]] * 5)}, suite="livecodebench")
    rows["is_correct_as_script"] = [True] * 5 + [None] * 5
    settings = settings_of(suites=("livecodebench",), samples=1, conditions=("baseline",))
    assert cell(make_table(rows, settings, draws=DRAWS), "baseline").as_script == 50
    other = rows_of({"baseline": np.ones((3, 1), int)})
    assert math.isnan(cell(make_table(other, settings_of(), draws=DRAWS), "baseline").as_script)


def test_cells_of_a_suite_do_not_depend_on_the_others() -> None:
    draw = np.random.default_rng(0)
    few = rows_of({name: (draw.random((6, 4)) < 0.6).astype(int) for name in ("baseline", "smi")})
    many = rows_of({name: np.ones((50, 1), int) for name in ("baseline", "smi")}, suite="math500")
    settings = settings_of(suites=("aime24", "math500"), samples=4)
    alone = make_table(few, settings, draws=DRAWS).cells
    beside = make_table(pd.concat([few, many]), settings, draws=DRAWS).cells
    numbers = ["estimate", "lower", "upper", "difference", "difference_lower", "p"]
    pd.testing.assert_frame_equal(alone[numbers], beside[numbers][:2])


def test_a_table_goes_without_a_baseline_that_failed() -> None:
    """Where it is there the others are compared with it."""
    ones = np.ones((3, 2), int)
    rows = pd.concat(
        [
            rows_of({"oeb": ones, "smi": ones}),
            rows_of({"baseline": ones, "oeb": 1 - ones}, suite="aime25"),
        ]
    )
    settings = settings_of(suites=("aime24", "aime25"), samples=2)
    table = make_table(rows, settings, draws=DRAWS)
    cells = table.cells.set_index(["suite", "condition"])
    assert cells["difference"].isna().tolist() == [True, True, True, False]
    assert cells.loc[("aime25", "oeb"), "difference"] == -100
    assert table.missing["aime24", "baseline"] == 6


def test_problems_and_suites_without_a_response_are_missing() -> None:
    rows = rows_of({"baseline": np.ones((2, 16), int)}).assign(problems=30)
    settings = settings_of(suites=("aime24", "math500"), conditions=("baseline",))
    lacks = make_table(rows, settings, draws=DRAWS).missing
    assert lacks == {("aime24", "baseline"): 28 * 16, ("math500", "baseline"): 500}
    few = settings_of(suites=("aime24", "math500"), conditions=("baseline",), problems=7)
    assert make_table(rows, few, draws=DRAWS).missing["math500", "baseline"] == 7


def test_pairs_of_a_difference_are_named_where_they_are_fewer() -> None:
    rows = rows_of({"baseline": np.array([[1, 0]] * 3), "smi": np.array([[1, 1]] * 30)})
    settings = settings_of(samples=2, conditions=("baseline", "smi"))
    table = make_table(rows, settings, draws=DRAWS)
    assert cell(table, "smi").n_pairs == 6
    assert "\npairs " in str(table)
    whole = rows_of({"baseline": np.array([[1, 0]] * 3), "smi": np.array([[1, 1]] * 3)})
    assert "\npairs " not in str(make_table(whole, settings, draws=DRAWS))


def test_a_run_of_another_protocol_says_so() -> None:
    rows = rows_of({"baseline": np.array([[1, 0]] * 4)})
    changes = {"problems": 4, "max_tokens": 500, "data": {"aime24": "a.jsonl"}}
    shown = str(make_table(rows, settings_of(samples=2, **changes), draws=DRAWS))
    (line,) = [line for line in shown.splitlines() if line.startswith("protocol ")]
    for part in ("problems=4", "max_tokens=500", "aime24 from a file"):
        assert part in line
    assert "protocol " not in str(make_table(rows, settings_of(samples=2), draws=DRAWS))
    unknown = settings_of(model="reasoner", samples=2, problems=4)
    assert "protocol " not in str(make_table(rows, unknown, draws=DRAWS))
    code = rows_of({"baseline": np.array([[1]] * 4)}, suite="livecodebench")
    assert "livecodebench not from 2024-08-01 to 2025-02-01" in str(
        make_table(code, settings_of(suites=("livecodebench",)), draws=DRAWS)
    )


def test_votes_that_cannot_be_had_are_named() -> None:
    rows = rows_of({"baseline": np.ones((9, 1), int)}, suite="math500")
    settings = settings_of(
        suites=("math500", "livecodebench"), conditions=("baseline", "self_consistency_8")
    )
    for said in (str(make_table(rows, settings, draws=DRAWS)), str(make_plan(settings))):
        assert (
            "math500 has no self_consistency_8: 8 samples of a problem vote, and it has 1" in said
        )
        assert "livecodebench has no self_consistency_8: programs have no vote" in said


def test_every_published_number_has_a_source() -> None:
    names = {preset.published for preset in PRESETS}
    for (model, suite, condition), number in PUBLISHED.items():
        assert model in names
        assert suite in SUITES
        assert condition in CONDITIONS
        assert 0 < number.percent < 100
        assert number.source
        assert number.checked
        assert number.is_verified == (number.checked == DEEPSEEK)
        assert not number.is_verified or condition == "baseline"


@pytest.mark.parametrize(("problems", "samples"), [(30, 16), (198, 8), (40, 2)])
def test_chance_is_what_two_runs_differ_by(problems: int, samples: int) -> None:
    """By simulation: two runs on the same problems stay below it in 95% of cases."""
    draw = np.random.default_rng(0)
    share = draw.beta(0.6, 0.5, size=problems)
    runs = draw.random((2, 400, problems, samples)) < share[:, None]
    apart = 100 * np.abs(runs[0].mean((1, 2)) - runs[1].mean((1, 2)))
    limits = [
        chance_of(rows_of({"baseline": run}).assign(place=lambda rows: rows["problem"]))
        for run in runs[0, :20]
    ]
    assert 0.91 < (apart <= np.mean(limits)).mean() < 0.985


def test_votes_by_hand() -> None:
    answers = [["5", "7", "5", "5"], [None, None, "2", "2"], [None, None, None, None]]
    right = np.array([[1, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0]])
    rows = rows_of({"baseline": right}, answers=answers)
    two = voted_rows(rows, 2, name="self_consistency_2")
    got = {(row.problem, row.sample): (row.is_correct, row.answer) for row in two.itertuples()}
    assert got["p0", 0] == (True, "5")  # a tie: the earlier one
    assert got["p0", 1] == (True, "5")
    assert got["p1", 0][0] is False
    assert got["p1", 1] == (True, "2")
    four = voted_rows(rows, 4, name="self_consistency_4")
    assert four["is_correct"].tolist() == [True, True, False]
    assert four["output_tokens"].tolist() == [100 + 101 + 102 + 103] * 3
    assert voted_rows(rows, 8, name="self_consistency_8").empty
    code = voted_rows(rows.assign(suite="livecodebench"), 2, name="self_consistency_2")
    assert code.empty


def test_equal_answers_written_in_two_ways_vote_together() -> None:
    answers = [["\\frac{1}{2}", "3", "0.5", "3.5"]]
    rows = rows_of({"baseline": np.array([[1, 0, 1, 0]])}, answers=answers)
    assert voted_rows(rows, 4, name="v")["is_correct"].tolist() == [True]


def test_votes_stand_in_the_table() -> None:
    draw = np.random.default_rng(1)
    rows = rows_of({"baseline": (draw.random((20, 8)) < 0.7).astype(int)})
    settings = settings_of(conditions=("baseline", "self_consistency_4"), samples=8)
    row = cell(make_table(rows, settings, draws=DRAWS), "self_consistency_4")
    assert row.samples == 2
    assert row.difference == pytest.approx(row.estimate - 100 * rows["is_correct"].mean())


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"suites": ()}, "empty"),
        ({"suites": ("aime24", "aime2024")}, "twice"),
        ({"suites": ("aime",)}, "suite='aime' is unknown"),
        ({"conditions": ("stepflow",)}, "lack the baseline"),
        ({"conditions": ("baseline", "flow")}, "condition='flow' is unknown"),
        ({"samples": 0}, "samples=0"),
        ({"samples": "all"}, "samples='all'"),
        ({"problems": 0}, "problems=0"),
        ({"max_tokens": 0}, "max_tokens=0"),
        ({"data": {"gsm8k": "a.jsonl"}}, "not among the suites"),
        ({"temperature": -3}, "temperature=-3 is below 0"),
        ({"temperature": math.nan}, "temperature=nan is no number"),
        ({"top_p": 2}, "top_p=2 is not in"),
        ({"tau_max": 2}, r"tau_max=2.* is not in \[0, 1"),
        ({"alpha": -1}, "alpha=-1"),
        ({"seed": -1}, "seed=-1"),
        ({"release": "v9"}, "release='v9' is none of"),
        ({"start": "2024-13-01"}, "'2024-13-01' is no date"),
        ({"start": "2025-01-01", "end": "2024-01-01"}, "start='2025-01-01' is after end="),
        ({"sandbox": "none"}, "sandbox='none' is unknown"),
        (
            {"model": "openai/gpt-oss-20b", "conditions": ("baseline", "hint")},
            r"\['hint'\] put words in place of </think>, which models of preset gpt-oss-20b do not",
        ),
    ],
)
def test_bad_settings(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        settings_of(**changes)


def test_a_folder_keeps_its_settings(tmp_path: Path) -> None:
    settings = settings_of(samples=4, data={"aime24": "a.jsonl"})
    keep_settings(tmp_path, settings)
    assert read_settings(tmp_path) == settings
    keep_settings(tmp_path, settings_of(samples=4, data={"aime24": "a.jsonl"}, batch_size=3))
    with pytest.raises(ValueError, match="samples: 4 then, 8 now"):
        keep_settings(tmp_path, settings_of(samples=8, data={"aime24": "a.jsonl"}))
    with pytest.raises(ValueError, match="no folder of a benchmark run"):
        read_settings(tmp_path / "other")


def test_what_cuts_or_rounds_differently_is_another_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = settings_of(engine="vllm", max_length=4000)
    keep_settings(tmp_path / "a", short)
    with pytest.raises(ValueError, match="max_length: 4000 then, 34000 now"):
        keep_settings(tmp_path / "a", settings_of(engine="vllm", max_length=34_000))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    keep_settings(tmp_path / "b", settings_of())
    keep_settings(tmp_path / "b", settings_of(device="cuda"))  # nothing is decoded yet
    (tmp_path / "b" / RESPONSES).mkdir()
    keep_settings(tmp_path / "b", settings_of(device="cuda"))
    with pytest.raises(ValueError, match=r"dtype: 'torch\.bfloat16' then, 'torch\.float32' now"):
        keep_settings(tmp_path / "b", settings_of(device="cpu"))
    keep_settings(tmp_path / "c", settings_of(dtype="bfloat16"))
    (tmp_path / "c" / RESPONSES).mkdir()
    keep_settings(tmp_path / "c", settings_of(dtype="bfloat16", device="cuda"))


def test_a_file_that_changed_is_another_run(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"id": 1, "problem": "2+2", "answer": 4}\n')
    settings = settings_of(suites=("math500",), data={"math500": str(file)})
    keep_settings(tmp_path / "out", settings)
    (tmp_path / "out" / RESPONSES).mkdir()
    keep_settings(tmp_path / "out", settings)
    before = units_of(settings)
    file.write_text('{"id": 1, "problem": "2+3", "answer": 5}\n')
    assert not {unit.key for unit in before} & {unit.key for unit in units_of(settings)}
    with pytest.raises(ValueError, match=r"math500: .* then, .* now"):
        keep_settings(tmp_path / "out", settings)


def test_units_are_the_run_and_no_more(tmp_path: Path) -> None:
    settings = settings_of(model="reasoner", suites=("reasoner",), samples=4, batch_size=4)
    units = units_of(settings)
    assert [len(unit.ids) for unit in units] == [8] * 20
    assert len({unit.key for unit in units}) == 20
    places = {(unit.condition, name) for unit in units for name in unit.ids}
    assert len(places) == 4 * 40
    assert units == units_of(settings_of(**{**vars(settings), "device": "cpu"}))
    other = units_of(settings_of(**{**vars(settings), "seed": 1}))
    assert not {unit.key for unit in units} & {unit.key for unit in other}
    note_done(tmp_path, "a", units[0])
    note_done(tmp_path, "b", units[0])
    note_done(tmp_path, "b", units[3])
    assert done_keys(tmp_path) == {units[0].key, units[3].key}
    assert open_units(tmp_path, settings) == [*units[1:3], *units[4:]]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--model and --out must be given"),
        (["table"], "write `benchmark table DIR`"),
        (["draw", "x"], "'draw x' is no action"),
        (["--model", "reasoner", "--out", "OUT", "--suites", "aime"], "suite='aime' is unknown"),
        (["--model", "reasoner", "--out", "OUT", "--samples", "x"], "neither 'paper' nor"),
        (["--model", "reasoner", "--out", "OUT", "--data", "x"], "NAME=VALUE"),
        (
            [
                "--model",
                "reasoner",
                "--out",
                "OUT",
                "--suites",
                "gsm8k",
                "--data",
                "gsm8k=/no.jsonl",
            ],
            "there is no file /no.jsonl",
        ),
    ],
)
def test_bad_command_lines(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word.replace("OUT", str(tmp_path / "out")) for word in words]
    assert main(["benchmark", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_dry_run_writes_the_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    words = ["--model", R1, "--out", str(out), "--dry-run"]
    assert main(["benchmark", *words]) == 0
    shown = capsys.readouterr().out
    assert shown.strip() == (out / "plan.txt").read_text().strip()
    assert "livecodebench" in shown
    assert sorted(file.name for file in out.iterdir()) == ["benchmark.json", "plan.txt"]


def test_without_inspect_it_says_what_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    words = ["--model", "reasoner", "--suites", "reasoner", "--out", str(tmp_path)]
    assert main(["benchmark", *words]) == 2
    assert "step-saliency[benchmarks]" in capsys.readouterr().err
    assert run_command is not None
