"""Tables of rows, CSV and TSV: one row after the other, as pandas reads them, errors by line."""

import csv
import gzip
import io
import tracemalloc
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

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
