"""Files, folders and data sets that rows come in, whole and damaged."""

import gzip
import json
import os
import sys
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest
from row_forms import FORMS, OWN, QUESTION, TEXT, WRONG, lines

from step_saliency.runs.inputs import Input, read_input

ROWS = [{**OWN, "id": "a"}, {**OWN, "id": "b", "response": WRONG}]
INSPECT = FORMS["inspect"][0]


def written(path: Path, data: bytes | str) -> Path:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def check(source: Input) -> None:
    assert [row.id for row in source.rows] == ["a", "b"]
    assert [row.says.response for row in source.rows] == [TEXT, WRONG]


@pytest.mark.parametrize(
    "data",
    [
        lines(*ROWS).encode("utf-8-sig"),
        lines(*ROWS).replace("\n", "\r\n").encode(),
        ("\n\n" + lines(*ROWS) + "\n  \n").encode(),
        json.dumps(ROWS).encode(),
        json.dumps(ROWS, indent=2).encode("utf-8-sig"),
        ("[\n" + ",\n".join(json.dumps(row) for row in ROWS) + "\n]\n").encode(),
        gzip.compress(lines(*ROWS).encode()),
        gzip.compress(json.dumps(ROWS, indent=1).encode()),
    ],
    ids=["bom", "crlf", "empty lines", "array", "indented", "rows in lines", "gzip", "gzip array"],
)  # fmt: skip
def test_json_in_its_forms(data: bytes, tmp_path: Path) -> None:
    check(read_input(written(tmp_path / "in.jsonl", data)))


def test_parquet(tmp_path: Path) -> None:
    file = tmp_path / "in.parquet"
    extra = {"responses": [[TEXT, WRONG], None], "level": [1.0, float("nan")]}
    frame = pd.DataFrame(ROWS)
    frame.to_parquet(file)
    check(read_input(file))
    frame.drop(columns="response").assign(**extra).to_parquet(file)
    rows = read_input(file).rows
    assert [row.id for row in rows] == ["a#0", "a#1", "b"]
    assert "responses must be text, got null" in str(rows[2].error)


def test_parquet_in_gzip(tmp_path: Path) -> None:
    pd.DataFrame(ROWS).to_parquet(tmp_path / "in.parquet")
    packed = gzip.compress((tmp_path / "in.parquet").read_bytes())
    check(read_input(written(tmp_path / "in.parquet.gz", packed)))


def test_no_value_in_a_frame_is_no_gold_answer(tmp_path: Path) -> None:
    row = {"question": "q", "response": TEXT}
    frame = pd.DataFrame([{**row, "answer": 1.0}, {**row, "answer": None}])
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, frame.to_dict("records"))))
    assert [row.gold for row in read_input(tmp_path / "in.jsonl").rows] == ["1.0", None]


def test_results_in_a_folder_are_no_input(tmp_path: Path) -> None:
    written(tmp_path / "in.jsonl", lines(*ROWS))
    (tmp_path / "out" / "traces").mkdir(parents=True)
    manifest = json.dumps({"format": "step-saliency-run/1", "settings": {}}, indent=2)
    written(tmp_path / "out" / "manifest.json", manifest)
    written(tmp_path / "out" / "traces" / "a.jsonl", lines({"question": "never"}))
    written(tmp_path / "manifest.json", lines({**OWN, "id": "c"}))
    assert [row.id for row in read_input(tmp_path).rows] == ["a", "b", "c"]


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b", "\x1c"])
def test_only_line_feeds_end_lines(mark: str, tmp_path: Path) -> None:
    rows = [{**row, "question": f"first{mark}second"} for row in ROWS]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    source = read_input(written(tmp_path / "in.jsonl", text))
    assert [row.error for row in source.rows] == [None, None] or mark < " "
    if mark >= " ":
        check(source)
        assert source.rows[0].question == f"first{mark}second"


def test_one_indented_object(tmp_path: Path) -> None:
    row, _ = FORMS["completion"]
    (only,) = read_input(written(tmp_path / "in.json", json.dumps(row, indent=2))).rows
    assert only.says.response == TEXT


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (lines(*ROWS).encode("utf-16"), "UTF-16; save it as UTF-8"),
        (lines(*ROWS).encode("utf-16-le"), "UTF-16"),
        (b"\x28\xb5\x2f\xfd" + b"x" * 50, "Zstandard"),
        (gzip.compress(lines(*ROWS).encode())[:60], "cut short or damaged"),
        (b"\x1f\x8b" + b"no gzip at all", "cut short or damaged"),
        (b"PAR1" + b"x" * 90 + b"PAR1", "no whole parquet"),
        (json.dumps(ROWS, indent=2)[:-20].encode(), "no whole JSON"),
        (b"PK\x03\x04 and nothing", "cannot be unpacked"),
        (b"\x00" * 100, "binary"),
        (b"", "no rows"),
        (b"[]", "no rows"),
    ],
    ids=[
        "utf-16", "utf-16 without mark", "zstandard", "cut gzip", "no gzip", "no parquet",
        "cut json", "no zip", "zeros", "empty", "empty array",
    ],
)  # fmt: skip
def test_files_that_cannot_be_read_are_refused_by_name(
    data: bytes, message: str, tmp_path: Path
) -> None:
    file = written(tmp_path / "in.jsonl", data)
    with pytest.raises(ValueError, match=message) as refusal:
        read_input(file)
    assert str(file) in str(refusal.value)


def test_an_array_of_other_things_is_one_bad_row(tmp_path: Path) -> None:
    (row,) = read_input(written(tmp_path / "in.jsonl", "[1, 2]")).rows
    assert "a list, not an object" in str(row.error)
    data = json.dumps([ROWS[0], None, 3])
    _, none, number = read_input(written(tmp_path / "in.jsonl", data)).rows
    assert none.error == "line 2 is null, not an object"
    assert number.error == "line 3 is the number 3, not an object"


def test_a_line_in_another_encoding_is_its_own_failure(tmp_path: Path) -> None:
    bad = json.dumps({**OWN, "question": "déjà"}, ensure_ascii=False).encode("latin-1")
    data = lines(ROWS[0]).encode() + bad + b"\n" + lines(ROWS[1]).encode()
    rows = read_input(written(tmp_path / "in.jsonl", data)).rows
    assert [row.error is None for row in rows] == [True, False, True]
    assert "line 2 is not UTF-8" in str(rows[1].error)
    assert "save the file as UTF-8" in str(rows[1].error)


def test_logs_of_inspect(tmp_path: Path) -> None:
    second = {**INSPECT, "epoch": 2, "scores": {"match": {"value": "I"}}}
    log = {"version": 2, "status": "success", "eval": {"task": "t"}, "samples": [INSPECT, second]}
    one_line = read_input(written(tmp_path / "log.json", json.dumps(log)))
    indented = read_input(written(tmp_path / "log2.json", json.dumps(log, indent=2)))
    with zipfile.ZipFile(tmp_path / "log.eval", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("header.json", "{}")
        archive.writestr("samples/4_epoch_1.json", json.dumps(INSPECT))
        archive.writestr("samples/4_epoch_2.json", json.dumps(second))
    for source in (one_line, indented, read_input(tmp_path / "log.eval")):
        assert source.summary == "2 rows read as inspect-ai samples"
        assert [row.id for row in source.rows] == ["4#0", "4#1"]
        assert [row.stated_correct for row in source.rows] == [True, False]
        assert {row.says.response for row in source.rows} == {TEXT}
        assert {row.gold for row in source.rows} == {"14"}
    with pytest.raises(ValueError, match="no samples"):
        read_input(written(tmp_path / "log.json", json.dumps({**log, "samples": []})))


def test_long_texts_of_inspect_are_put_back(tmp_path: Path) -> None:
    messages = [
        {"role": "user", "content": "attachment://q"},
        {"role": "assistant", "content": "attachment://r"},
    ]
    sample = {**INSPECT, "messages": messages, "attachments": {"q": QUESTION, "r": TEXT}}
    (row,) = read_input(written(tmp_path / "in.jsonl", lines(sample))).rows
    assert (row.question, row.says.response) == (QUESTION, TEXT)


def test_inspect_is_asked_where_it_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Sample:
        def model_dump(self, mode: str) -> dict[str, Any]:
            return INSPECT if mode == "json" else {}

    class Log:
        samples = (Sample(),)

    asked: list[tuple[str, bool]] = []
    package, module = ModuleType("inspect_ai"), ModuleType("inspect_ai.log")
    package.__spec__ = type(sys.__spec__)("inspect_ai", None)

    def read_eval_log(path: str, resolve_attachments: bool) -> Log:
        asked.append((path, resolve_attachments))
        return Log()

    module.read_eval_log = read_eval_log  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "inspect_ai", package)
    monkeypatch.setitem(sys.modules, "inspect_ai.log", module)
    (row,) = read_input(written(tmp_path / "x.eval", b"PK\x03\x04")).rows
    assert asked == [(str(tmp_path / "x.eval"), True)]
    assert row.says.response == TEXT


def test_a_folder_of_files(tmp_path: Path) -> None:
    written(tmp_path / "one.jsonl", lines({**OWN}))
    written(tmp_path / "two.jsonl.gz", gzip.compress(lines({**OWN}).encode()))
    written(tmp_path / "README.md", "about")
    rows = read_input(tmp_path).rows
    assert [row.id for row in rows] == ["one-00001", "two-00001"]
    empty = tmp_path / "x"
    empty.mkdir()
    with pytest.raises(ValueError, match="without data files"):
        read_input(empty)


def test_saved_data_sets(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_list(ROWS)
    data.save_to_disk(tmp_path / "single")
    check(read_input(tmp_path / "single"))
    datasets.DatasetDict({"train": data}).save_to_disk(tmp_path / "dict")
    check(read_input(tmp_path / "dict"))
    datasets.DatasetDict({"train": data, "test": data}).save_to_disk(tmp_path / "two")
    with pytest.raises(ValueError, match="several splits"):
        read_input(tmp_path / "two")


def test_a_data_set_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    asked: list[tuple[str | None, ...]] = []

    def load_dataset(path: str, name: str | None = None, *, split: str | None = None) -> Any:
        asked.append((path, name, split))
        if path == "nobody/nothing":
            raise FileNotFoundError("not on the hub")
        if path == "somebody/several" and name is None:
            raise ValueError("Config name is missing.\nPick one of ['plain', 'hard']\nExample: ...")
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    check(read_input(Path("somebody/traces:test")))
    assert asked == [("somebody/traces", None, "test")]
    check(read_input(Path("somebody/several:hard:train")))
    assert asked[1:] == [("somebody/several", "hard", "train")]
    with pytest.raises(ValueError, match=r"\['plain', 'hard'\]; give one: NAME:CONFIG:SPLIT"):
        read_input(Path("somebody/several"))
    with pytest.raises(ValueError, match="no data set of that name"):
        read_input(Path("nobody/nothing"))


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(ValueError, match=r"pipe\.jsonl"):
        read_input(tmp_path / "pipe.jsonl")
