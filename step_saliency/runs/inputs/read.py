"""From an input to rows, and what is to be said: how they were read and what was left out."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from step_saliency.runs.inputs import hub
from step_saliency.runs.inputs.containers import Numbered, read_file
from step_saliency.runs.inputs.filters import without_repeats
from step_saliency.runs.inputs.lines import Line
from step_saliency.runs.inputs.names import IDS, at_path, with_plain_names
from step_saliency.runs.inputs.naming import unique_names
from step_saliency.runs.inputs.objects import (
    NAMES,
    NO_FIELDS,
    form_stamp,
    is_row,
    read_object,
    unread_fields,
)
from step_saliency.runs.inputs.reading import Reading
from step_saliency.runs.inputs.rows import Row
from step_saliency.runs.inputs.shapes import checked_text, described
from step_saliency.runs.inputs.tables import rows_of_object


@dataclass(frozen=True)
class Input:
    """Rows of an input.

    Attributes:
        rows: In order; what cannot be used has an ``error``.
        summary: How they were read, in one line.
        notes: What was left out or may not be as it seems, a line each.
    """

    rows: list[Row]
    summary: str
    notes: tuple[str, ...] = ()


def read_rows(path: Path, *, limit: int | None = None) -> list[Row]:
    """Rows of an input, see `read_input`."""
    return read_input(path, limit=limit).rows


def read_input(
    path: Path,
    *,
    limit: int | None = None,
    fields: Mapping[str, str] = NO_FIELDS,
    answer: bool = False,
) -> Input:
    """Read a file, a folder or a data set of Hugging Face.

    Args:
        path: JSON lines, a JSON array, parquet, Arrow, CSV, TSV, any of them in gzip; a log of
            inspect-ai; a folder of these or of a saved data set; or the name of a data set.
        limit: Take the first lines only.
        fields: Names of fields by role, see `step_saliency.runs.roles`.
        answer: Let the model answer also where a field may hold a response that was not read.

    Raises:
        ValueError: there is no such input, it cannot be read as a whole, or it has no rows.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit} is below 1")
    lines: list[Line] = []
    for stem, (number, value) in _values(path, fields):
        if limit is not None and len(lines) == limit:
            break
        lines.append(_read_line(value, number, stem, fields, answer))
    if not lines:
        raise ValueError(
            f"{path} has no rows; one JSON object a line is needed, or a table with rows below "
            "the names of its columns"
        )
    lines, repeated = without_repeats(lines)
    rows, renamed = unique_names(list(chain.from_iterable(line.rows for line in lines)))
    return Input(rows, _summary(lines), (*_notes(lines), *repeated, *renamed))


def _values(path: Path, fields: Mapping[str, str]) -> Iterator[tuple[str, Numbered]]:
    def read(file: Path) -> Iterator[Numbered]:
        return _unfolded(read_file(file), fields)

    if path.is_file():
        return ((hub.stem(path), numbered) for numbered in read(path))
    if path.is_dir():
        return hub.read_folder(path, read)
    if not path.exists() and hub.is_name(path):
        return hub.read_name(str(path))
    raise ValueError(f"there is no file {path}")


def _unfolded(values: Iterator[Numbered], fields: Mapping[str, str]) -> Iterator[Numbered]:
    """Values of a file, or, where they are one object that holds rows, these."""
    first = list(islice(values, 2))
    only = first[0][1] if len(first) == 1 else None
    rows = rows_of_object(only, lambda r: is_row(r, fields)) if isinstance(only, dict) else [only]
    return chain(first, values) if rows[0] is only else enumerate(rows, start=1)


def _read_line(value: Any, number: int, stem: str, fields: Mapping[str, str], answer: bool) -> Line:
    name = f"{stem}-{number:05d}"
    if isinstance(value, ValueError):
        return Line([Row(name, number, {}, str(value))])
    if not isinstance(value, dict):
        what = "a list" if isinstance(value, list) else described(value)
        return Line([Row(name, number, {}, f"line {number} is {what}, not an object")])
    value = with_plain_names(value, NAMES)
    try:
        name = _id(value, fields, name)
        form, readings = read_object(value, fields, answer=answer)
        stamp = form_stamp(form, readings, fields)
        rows = [
            Row(name, number, value, reading=reading, form=stamp, sample=_sample(reading, place))
            for place, reading in enumerate(readings)
        ]
        assert rows[0].digest
        assert rows[0].problem
    except ValueError as error:
        return Line([Row(name, number, {}, f"line {number}: {error}")])
    except RecursionError:
        return Line([Row(name, number, {}, f"line {number} is nested too deeply to be read")])
    except Exception as error:  # a row may hold anything; it fails alone
        reason = f"{type(error).__name__}: {error}"
        return Line([Row(name, number, {}, f"line {number} cannot be read ({reason:.200})")])
    left_out = tuple(dict.fromkeys(note for reading in readings for note in reading.notes))
    return Line(rows, form.name, tuple(unread_fields(value, form, fields)), left_out)


def _sample(reading: Reading, place: int) -> int:
    return place if reading.sample is None else reading.sample


def _id(data: Mapping[str, Any], fields: Mapping[str, str], fallback: str) -> str:
    """The id of a row; one that says nothing is none.

    Raises:
        ValueError: it is neither text nor a number.
    """
    of_logs = ("custom_id", "doc_id") if {"custom_id", "resps"} & set(data) else ()
    names = (*IDS, *of_logs)
    if str(data.get("id")).startswith("batch_req"):  # the answer's; the request has its own
        names = (*of_logs, *IDS)
    for key in filter(None, (fields.get("id"), *names)):
        value = at_path(data, key)
        if value is None or value == "" or value != value:
            continue
        if isinstance(value, int | float) and not isinstance(value, bool):
            return str(value)
        if not isinstance(value, str):
            raise ValueError(f"{key} must be text or a number, got {described(value)}")
        if checked_text(value, key).strip():
            return value
    return fallback


def _summary(lines: Iterable[Line]) -> str:
    """Such as "1,000 rows read as OpenR1 generations (1,800 responses)"."""
    good = [line for line in lines if line.form]
    parts: list[str] = []
    for form, count in Counter(line.form for line in good).most_common():
        n = sum(len(line.rows) for line in good if line.form == form)
        parts.append(
            f"{_rows(count)} read as {form}" + (f" ({n:,} responses)" if n > count else "")
        )
    n_bad = sum(not line.form for line in lines)
    parts += [f"{_rows(n_bad)} not read (failures.parquet)"] if n_bad else []
    return "; ".join(parts)


def _notes(lines: Iterable[Line]) -> Iterator[str]:
    """What the summary does not say."""
    lines = list(lines)
    n_open = sum(row.kind == "problem" for line in lines if line.form for row in line.rows)
    if n_open:
        yield f"{_rows(n_open)} {'hold' if n_open > 1 else 'holds'} no response: the model answers"
    unread = Counter(name for line in lines for name in line.unread)
    if unread:
        fields = ", ".join(f"{name[:60]} ({_rows(n)})" for name, n in unread.most_common(8))
        yield f"not read, though it may hold a trace: {fields}; name the response with --field"
    left_out = Counter(note for line in lines for note in line.notes)
    for note, n in left_out.most_common(8):
        yield f"{note} ({_rows(n)})" if " read " in note else f"not read: {note} ({_rows(n)})"
    if len(left_out) > 8:
        yield f"not read: {len(left_out) - 8} more kinds of what is named above"
    unclear = [
        row
        for line in lines
        for row in line.rows
        if not row.error and row.stated is not None and row.stated_correct is None
    ]
    if unclear:
        yield (
            f"{_rows(len(unclear))}: the judgement that came with it is neither true nor false, "
            f"such as {described(unclear[0].stated)}; it counts as unknown"
        )


def _rows(n: int) -> str:
    return f"{n:,} row" if n == 1 else f"{n:,} rows"
