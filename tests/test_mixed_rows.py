"""Rows with right and wrong samples are picked, in order, by name."""

import json
from pathlib import Path

import pandas as pd
import pytest

from analyses.material.mixed import main, mixed_problems
from analyses.material.problems import file_items

RIGHT = {0: [0, 0], 1: [1, 0], 2: [1, 1], 3: [0, 1], 4: [1, 0]}


def written(folder: Path) -> tuple[Path, Path]:
    """A file of five rows, and samples of them."""
    data = folder / "rows.jsonl"
    rows = [{"question": f"What is {i} and 1?", "answer": f"#### {i + 1}"} for i in RIGHT]
    data.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    names = [item.id for item in file_items(str(data))]
    samples = [
        {"problem": names[i], "condition": "baseline", "method": "sample", "is_correct": bool(x)}
        for i, some in RIGHT.items()
        for x in some
    ]
    others = [
        {"problem": names[0], "condition": condition, "method": method, "is_correct": True}
        for condition, method in (("both", "sample"), ("baseline", "vote"))
    ]
    (folder / "run").mkdir()
    pd.DataFrame([*samples, *others]).to_parquet(folder / "run" / "values.parquet")
    return data, folder / "run"


def test_the_first_mixed_rows_keep_their_names(tmp_path: Path) -> None:
    data, run = written(tmp_path)
    out = tmp_path / "mixed.jsonl"
    main(["--answers", str(run), "--data", str(data), "--n", "2", "--out", str(out)])
    picked, every = file_items(str(out)), file_items(str(data))
    assert [item.id for item in picked] == [every[1].id, every[3].id]
    assert [item.question for item in picked] == [every[1].question, every[3].question]
    assert [item.row.gold for item in picked if item.row] == ["#### 2", "#### 4"]
    assert len(mixed_problems(pd.read_parquet(run / "values.parquet"))) == 3


def test_runs_follow_each_other_and_answers_of_an_ablation_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, run = written(tmp_path)
    later = tmp_path / "later"
    later.mkdir()
    more, other = written(later)
    more = more.rename(later / "more.jsonl")
    values = pd.read_parquet(other / "values.parquet")
    values["problem"] = values["problem"].str.replace("rows", "more")
    answers = values[values["method"] == "sample"].drop(columns="method").assign(kind="answers")
    losses = answers.assign(kind="losses", is_correct=None)
    pd.concat([answers, losses]).to_parquet(other / "values.parquet")
    out = tmp_path / "mixed.jsonl"
    both = ["--answers", str(run), str(other), "--data", str(data), str(more)]
    main([*both, "--n", "5", "--out", str(out)])
    first, second = file_items(str(data)), file_items(str(more))
    expected = [*(first[i].id for i in (1, 3, 4)), *(second[i].id for i in (1, 3))]
    assert [item.id for item in file_items(str(out))] == expected
    with pytest.raises(SystemExit):
        main([*both[:-1], "--n", "5", "--out", str(out)])
    assert "2 results and 1 files" in capsys.readouterr().err


def test_too_few_and_rows_of_another_file_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, run = written(tmp_path)
    options = ["--answers", str(run), "--out", str(tmp_path / "x.jsonl")]
    with pytest.raises(SystemExit):
        main([*options, "--data", str(data), "--n", "4"])
    assert "n=4: 3 problems have right and wrong samples" in capsys.readouterr().err
    other = tmp_path / "other.jsonl"
    other.write_text(data.read_text())
    with pytest.raises(SystemExit):
        main([*options, "--data", str(other), "--n", "1"])
    assert "is no row of the file" in capsys.readouterr().err
    assert not (tmp_path / "x.jsonl").exists()
