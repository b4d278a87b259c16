"""Rows of random names, types, nesting and unicode are read, or refused with a reason."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from row_forms import FORMS, OWN, TEXT

from step_saliency.runs.inputs import Row, read_input
from step_saliency.runs.inputs.names import GOLD, QUESTIONS, WORKED
from step_saliency.runs.inputs.plain import ONE, SEVERAL, THINKING

NAMES = st.sampled_from(
    sorted(
        {*QUESTIONS, *GOLD, *WORKED, *ONE, *SEVERAL, *THINKING, "id", "problem_id", "is_correct"}
        | {name for row, _ in FORMS.values() for name in row}
        | {"role", "content", "tokens", "steps", "starts", "regions", "trace", "type", "text"}
    )
) | st.text(max_size=8)
TEXTS = st.text(st.characters(codec=None), max_size=30) | st.just(TEXT)  # with lone surrogates
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(width=32) | TEXTS
    | st.integers(min_value=10**18, max_value=10**60)
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=8,
)
ROWS = st.dictionaries(NAMES, VALUES, max_size=6)


@st.composite
def damaged(draw: st.DrawFn) -> dict[str, Any]:
    """A row of a known form with some of its values replaced, at any depth."""
    row, _ = FORMS[draw(st.sampled_from(sorted(FORMS)))]
    whole: dict[str, Any] = json.loads(json.dumps(row))
    for _ in range(draw(st.integers(1, 2))):
        place: Any = whole
        for _ in range(draw(st.integers(0, 4))):
            below = list(place.values()) if isinstance(place, dict) else list(place)
            inner = [part for part in below if isinstance(part, dict | list) and part]
            place = draw(st.sampled_from(inner)) if inner else place
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if keys:
            place[draw(st.sampled_from(keys))] = draw(VALUES)
    return whole


def check(rows: list[dict[str, Any]], folder: Path) -> None:
    file = folder / "in.jsonl"
    texts = [json.dumps(row) for row in [{**OWN, "id": "first"}, *rows, {**OWN, "id": "last"}]]
    file.write_text("\n".join(texts), encoding="utf-8")
    source = read_input(file)
    assert len({row.id for row in source.rows}) == len(source.rows)
    assert {row.line for row in source.rows} == set(range(1, len(texts) + 1))
    assert source.rows[0].error is None
    for row in source.rows:
        check_row(row, source.notes)


def check_row(row: Row, notes: tuple[str, ...]) -> None:
    assert row.file_name
    if row.error:
        assert f"line {row.line}" in row.error
        assert "cannot be read (" not in row.error
        return
    says = row.says
    says.response.encode()
    row.question.encode()
    assert row.digest
    assert row.problem
    assert row.gold is None or row.gold.encode()
    assert row.stated_correct in (None, True, False)
    if row.kind in ("response", "messages"):
        assert says.response.strip()
    if row.kind == "problem":
        assert "</think>" not in json.dumps(
            {name: value for name, value in row.data.items() if name not in QUOTED}
        )


QUOTED = {*QUESTIONS, "prompt", "messages", "conversations", "system", "tools", "id", "trace_id",
          "unique_id", "is_correct", "correct", "symbolic_correct"}  # fmt: skip
"""Fields that may speak of thinking and hold no response."""

QUICK = settings(max_examples=150, suppress_health_check=list(HealthCheck))
NIGHTLY = settings(max_examples=10_000, suppress_health_check=list(HealthCheck))


@QUICK
@given(rows=st.lists(ROWS | damaged(), min_size=1, max_size=4))
def test_any_row(rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> None:
    check(rows, tmp_path_factory.getbasetemp())


@pytest.mark.nightly
@NIGHTLY
@given(row=ROWS | damaged())
def test_ten_thousand_rows(row: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    check([row], tmp_path_factory.getbasetemp())


@QUICK
@given(data=st.binary(max_size=200))
def test_any_bytes(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.getbasetemp() / "bytes.jsonl"
    file.write_bytes(data)
    with contextlib.suppress(ValueError):
        assert read_input(file).rows
