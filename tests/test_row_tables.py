"""Tables of rows: CSV and TSV one row after the other, as pandas reads them, and odd tables."""

import csv
import gzip
import io
import tracemalloc
from collections.abc import Iterable
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from step_saliency.runs.inputs import read_input
from step_saliency.runs.inputs.containers import read_file

AWKWARD = (
    'say ""no""',
    'a "quoted" word',
    '"',
    "one\ntwo\r\nthree\rfour",
    "\n",
    "a,b;c\td",
    " spaces ",
    "",
    "\u2028 and \x85 end no line",
    "déjà 字 \U0001d400",
    "#7",
    "NA",
    "1,234.5",
)


def write(path: Path, text: str, *, mark: bool = False) -> Path:
    data = text.encode("utf-8-sig" if mark else "utf-8")
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def table(rows: Iterable[tuple[str, ...]], **dialect: Any) -> str:
    place = io.StringIO(newline="")
    csv.writer(place, **dialect).writerows(rows)
    return place.getvalue()


@pytest.mark.parametrize("mark", [False, True])
@pytest.mark.parametrize(
    ("quoting", "end"),
    [(csv.QUOTE_MINIMAL, "\n"), (csv.QUOTE_MINIMAL, "\r\n"), (csv.QUOTE_ALL, "\r")],
)
@pytest.mark.parametrize(
    ("name", "delimiter"),
    [("in.csv", ","), ("in.csv", ";"), ("in.tsv", "\t"), ("in.csv.gz", ","), ("in.tsv.gz", "\t")],
)
def test_cells_are_those_of_pandas(
    name: str, delimiter: str, end: str, quoting: Any, mark: bool, tmp_path: Path
) -> None:
    cells = [("id", "question", "response")]
    cells += [(str(i), text, AWKWARD[-i]) for i, text in enumerate(AWKWARD)]
    text = table(cells, delimiter=delimiter, lineterminator=end, quoting=quoting)
    file = write(tmp_path / name, text, mark=mark)
    rows = [row for _, row in read_file(file)]
    options: dict[str, Any] = {"dtype": str, "keep_default_na": False, "encoding": "utf-8-sig"}
    frame = pd.read_csv(file, sep=delimiter, **options)
    assert frame.shape == (len(AWKWARD), 3)
    assert rows == [
        {name: cell or None for name, cell in row.items()} for row in frame.to_dict("records")
    ]


def test_delimiters_in_quotes_are_text(tmp_path: Path) -> None:
    file = write(tmp_path / "in.csv", '\n"question; in words; all",answer\nq,1\n')
    assert list(read_file(file)) == [(3, {"question; in words; all": "q", "answer": "1"})]


def test_rows_come_before_the_file_ends(tmp_path: Path) -> None:
    text = "question,answer\n" + "q,1\n" * 30_000 + 'q,"never closed\nand so on\n'
    for name in ("in.csv", "in.csv.gz"):
        rows = read_file(write(tmp_path / name, text))
        assert next(rows) == (2, {"question": "q", "answer": "1"})
        with pytest.raises(ValueError, match="no whole CSV: lines 30002 to 30003: "):
            list(rows)


def test_a_large_table_takes_little_memory(tmp_path: Path) -> None:
    text = table([("question", "response"), *[(f"q\n{i}", f"r {i} " * 60) for i in range(8_000)]])
    for name in ("in.csv", "in.csv.gz"):
        file = write(tmp_path / name, text)
        tracemalloc.start()
        assert sum(1 for _ in read_file(file)) == 8_000
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 1_000_000 < len(text) / 3


def test_a_bad_byte_is_named_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "in.csv"
    file.write_bytes("question,answer\nà,1\n".encode() + b'q,"x\ny \xe9"\n')
    rows = read_file(file)
    assert next(rows)[1] == {"question": "à", "answer": "1"}
    with pytest.raises(ValueError, match=r"in\.csv is not UTF-8 \(byte 0xe9 in line 4\); save it"):
        next(rows)


def test_long_cells_are_read_and_the_limit_of_others_stays(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    file = write(tmp_path / "in.csv", f"question,answer\n{'q' * (limit + 1)},1\nq,2\n")
    rows = read_file(file)
    assert len(next(rows)[1]["question"]) == limit + 1
    assert csv.field_size_limit() == limit
    assert [row["answer"] for _, row in rows] == ["2"]


TABLE = "question,answer\nq,1\nr,2\n"
READ = [{"question": "q", "answer": "1"}, {"question": "r", "answer": "2"}]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("in.csv", TABLE),
        ("in.CSV", TABLE),
        ("in.csv", gzip.compress(TABLE.encode())),
        ("in.csv.gz", TABLE),
        ("in.CSV.GZ", gzip.compress(TABLE.encode())),
        ("in.tsv", gzip.compress(TABLE.replace(",", "\t").encode())),
        ("in.csv", TABLE.replace(",", "\t")),
        ("in.csv", TABLE.replace("\n", ",\n")),
        ("in.csv", TABLE.replace("1\n", "1,\n").replace("2\n", "2,,\n")),
        ("in.csv", TABLE.replace("\n", "\r\n")),
        ("in.csv", "\n\n" + TABLE),
        ("in.csv", '{"question": "q", "answer": "1"}\n{"question": "r", "answer": "2"}\n'),
    ],
    ids=[
        "plain", "capitals", "gzip without its name", "gzip by name alone", "gzip in capitals",
        "tsv in gzip", "tabs", "trailing commas", "in rows alone", "crlf", "empty lines", "JSON",
    ],
)  # fmt: skip
def test_one_table_in_many_files(name: str, data: str | bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data.encode() if isinstance(data, str) else data)
    assert [row for _, row in read_file(tmp_path / name)] == READ
    assert len(read_input(tmp_path).rows) == 2, "files of a folder are found in capitals too"


@pytest.mark.parametrize("text", ["", "\n\n", "\ufeff", "question,answer\n"])
def test_a_table_without_rows_says_so(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"in\.csv has no rows"):
        read_input(write(tmp_path / "in.csv", text))


def test_one_row_and_one_column(tmp_path: Path) -> None:
    (row,) = read_input(write(tmp_path / "in.csv", "\nquestion\nWhat is 1+1?\n")).rows
    assert (row.id, row.line, row.question, row.error) == ("in-00003", 3, "What is 1+1?", None)


@pytest.mark.parametrize("cell", ["", "NaN", "nan", "None", "null", "NULL", "<NA>"])
def test_a_cell_that_is_missing_is_no_gold_answer(cell: str, tmp_path: Path) -> None:
    file = write(tmp_path / "in.csv", f"question,response,answer\nq,r,{cell}\nq,r,NA\n")
    assert [row.gold for row in read_input(file).rows] == [None, "NA"]


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".tsv"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
def test_other_encodings_are_named_in_gzip_too(encoding: str, ending: str, tmp_path: Path) -> None:
    expected = "UTF-32" if encoding == "utf-32" else "UTF-16"
    for name, pack in ((f"in{ending}", bytes), (f"in{ending}.gz", gzip.compress)):
        (tmp_path / name).write_bytes(pack(TABLE.encode(encoding)))
        with pytest.raises(ValueError, match=rf"{name} is {expected}"):
            read_input(tmp_path / name)


def test_what_is_packed_twice_is_named(tmp_path: Path) -> None:
    (tmp_path / "in.csv.gz").write_bytes(gzip.compress(gzip.compress(TABLE.encode())))
    with pytest.raises(ValueError, match="packed twice"):
        read_input(tmp_path / "in.csv.gz")


def arrow_file(path: Path, columns: pa.Table) -> Path:
    """A parquet or Arrow file, in gzip where it is named so."""
    place = io.BytesIO()
    if ".parquet" in path.name:
        pq.write_table(columns, place)
    else:
        with pa.ipc.new_file(place, columns.schema) as file:
            file.write_table(columns)
    data = place.getvalue()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


ARROW = ["in.parquet", "in.parquet.gz", "in.arrow", "in.arrow.gz"]


@pytest.mark.parametrize("name", ARROW)
def test_a_value_that_python_lacks_is_its_rows_fault(name: str, tmp_path: Path) -> None:
    when = pa.array([2**55, 0, 0], pa.timestamp("ms"))
    texts = pa.array([b"q", b"r\xff", b"s"]).view(pa.string())
    file = arrow_file(tmp_path / name, pa.table({"question": texts, "when": when}))
    late, torn, good = read_input(file).rows
    assert "line 1: column 'when' cannot be read" in str(late.error)
    assert "line 2: column 'question' cannot be read" in str(torn.error)
    assert (good.question, good.error) == ("s", None)


@pytest.mark.parametrize("name", ARROW)
def test_columns_of_one_name_are_refused(name: str, tmp_path: Path) -> None:
    columns = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["question"] * 2)
    with pytest.raises(ValueError, match=rf"{name} has more than one column 'question'"):
        read_input(arrow_file(tmp_path / name, columns))


def test_damage_within_a_parquet_file_is_named(tmp_path: Path) -> None:
    columns = pa.table({"question": [f"q{i}" for i in range(1000)]})
    file = arrow_file(tmp_path / "in.parquet", columns)
    data = bytearray(file.read_bytes())
    data[50:200] = b"\xaa" * 150
    file.write_bytes(bytes(data))
    with pytest.raises(ValueError, match=r"in\.parquet is (damaged|no whole parquet)"):
        read_input(file)


def test_gold_answers_of_other_types_are_taken_or_named(tmp_path: Path) -> None:
    answers = {
        "decimal": (pa.array([Decimal("14.50")]), "14.50"),
        "whole": (pa.array([2**62]), str(2**62)),
        "list of one": (pa.array([["14"]]), "14"),
        "missing": (pa.array([float("nan")]), None),
        "list": (pa.array([[14, 15]]), None),
        "truth": (pa.array([True]), None),
        "bytes": (pa.array([b"14"]), None),
        "date": (pa.array([date(2020, 1, 2)]), None),
    }
    for name, (answer, gold) in answers.items():
        columns = pa.table({"question": ["q"], "response": ["r"], "answer": answer})
        source = read_input(arrow_file(tmp_path / "in.parquet", columns))
        assert source.rows[0].gold == gold, name
        named = any("the gold answer in answer, which is no single" in n for n in source.notes)
        assert named is (gold is None and name != "missing"), name
