"""Names of rows: several responses of one id are samples ``ID#0``, ``ID#1``, ...; no name twice."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from step_saliency.runs.inputs.rows import Row


def unique_names(rows: Sequence[Row]) -> tuple[list[Row], list[str]]:
    """Rows under names of their own, and notes on those whose name is not what they say.

    An id that ends in ``#NUMBER`` while another row has what stands before it would be taken for a
    sample of that row; it gets its line number too.
    """
    counts = Counter(row.id for row in rows if not row.error)
    numbers = _Numbers()
    taken: set[str] = set()
    named: list[Row] = []
    changed: list[str] = []
    for row in rows:
        name = row.id
        base, mark, number = name.rpartition("#")
        if mark and number.isdecimal() and base in counts and not row.error:
            name = f"{name} (line {row.line})"
            changed.append(row.id)
        number_of_row = None if row.error else numbers.number(row)
        if number_of_row is not None and (counts[row.id] > 1 or row.sample):
            name = f"{name}#{number_of_row}"
        while name in taken:
            name = f"{name} (line {row.line})"
        taken.add(name)
        named.append(replace(row, id=name))
    return named, [*_renamed(changed), *_sample_note(named, counts)]


class _Numbers:
    """Numbers of samples by id: those of a line follow those of the lines before it.

    A response that was left out of its line keeps its number for itself.
    """

    def __init__(self) -> None:
        self._first: dict[str, int] = {}
        self._last: dict[str, Row] = {}
        self._next: Counter[str] = Counter()

    def number(self, row: Row) -> int:
        last = self._last.get(row.id)
        if last is None or last.line != row.line or last.sample >= row.sample:
            self._first[row.id] = self._next[row.id]
        self._last[row.id] = row
        number = self._first[row.id] + row.sample
        self._next[row.id] = number + 1
        return number


def _renamed(changed: Sequence[str]) -> list[str]:
    if not changed:
        return []
    return [
        f"ids that look like samples of another row have their line beside them: {changed[0]!r:.60}"
        + (f" and {len(changed) - 1} more" if len(changed) > 1 else "")
    ]


def _sample_note(rows: Sequence[Row], counts: Counter[str]) -> list[str]:
    several = [name for name, n in counts.items() if n > 1]
    if not several:
        return []
    n = sum(counts[name] for name in several)
    return [
        f"{n:,} responses of {len(several):,} ids are samples: {several[0]!r:.60} has "
        f"{counts[several[0]]}, named {several[0]!r:.40}#0 and so on"
    ]
