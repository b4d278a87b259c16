"""The table as it is printed: one block a suite, then what the columns and marks mean.

A published number is marked where it was not found in a table of whoever measured it, see
`published`. Responses that are missing are named by suite and condition, since the cells of a run
that is not done are of the responses that ended first, which are the short ones.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from step_saliency.benchmark.suites.suites import suite_of
from step_saliency.storage.files import write_text
from step_saliency.storage.tables import write_csv

MARK = "*"
COLUMNS = {
    "n": "problems x samples, where they are not those of all",
    "accuracy": "percent right, an answer that cannot be read counts as wrong [95% over problems]",
    "difference": "to the baseline, paired by problem and sample [95% over problems]",
    "pairs": "responses of the difference, where they are not those of the row",
    "p (Holm)": "sign flips over problems, corrected over all rows of the table",
    "seen": "difference that a run of this size has 80% power to see",
    "cut": "percent of responses that the length ended",
    "unread": "percent without an answer that can be read",
    "tokens": "of a response, on average",
    "seconds": "of a response, its share of the call that it was decoded in",
    "published": "percent right in the published table",
    "distance": "ours minus published",
}
READINGS = {
    "chance": "two runs of one model on these problems differ by that much by their samples alone "
    "(up to ± in 95% of pairs)",
    "problems": "more than samples do; the interval over problems has the published number in it",
    "apart": "more than both: another model, prompt, length, or grader?",
}


@dataclass(frozen=True)
class BenchmarkTable:
    """Cells of a run.

    Attributes:
        cells: One row a suite and condition: suite, condition, estimate, lower, upper, n,
            responses, samples, chance, truncated, unknown, tokens, seconds, as_script, difference,
            difference_lower, difference_upper, corrected, broken, n_pairs, p, p_holm, detectable,
            published, distance, reading, source, checked, verified. Shares and differences are in
            percent.
        model: Name of the model.
        missing: Responses that a finished run would have and this one has not, by suite and
            condition.
        unlike: Settings in which the run differs from the published protocol.
        notes: What else is to be said.
    """

    cells: pd.DataFrame
    model: str
    missing: Mapping[tuple[str, str], int]
    unlike: Sequence[str] = ()
    notes: Sequence[str] = ()

    def __str__(self) -> str:
        blocks = [f"{self.model}: percent right"]
        for suite, cells in self.cells.groupby("suite", sort=False):
            blocks.append(_block(str(suite), list(cells.itertuples(index=False))))
        blocks += ["\n".join(part) for part in (self._legend(), self._sources(), self._lacks())]
        return "\n\n".join(block for block in blocks if block)

    def write(self, out: Path) -> None:
        """Write ``table.csv`` and ``table.txt`` into a folder."""
        write_csv(out / "table.csv", self.cells)
        write_text(out / "table.txt", f"{self}\n")

    def _legend(self) -> list[str]:
        shown = set().union(*(_line(row) for row in self.cells.itertuples(index=False)))
        lines = [f"{name:11}{text}" for name, text in COLUMNS.items() if name in shown]
        readings = set(self.cells["reading"])
        return lines + [f"{name:11}{text}" for name, text in READINGS.items() if name in readings]

    def _sources(self) -> list[str]:
        known = self.cells.dropna(subset=["published"])
        pairs = known[["source", "checked", "verified"]].drop_duplicates()
        lines = [
            f"published  {source}; the same in {checked}"
            if is_verified
            else f"{MARK:11}{source}, by {checked}; the paper itself was not read"
            for source, checked, is_verified in pairs.itertuples(index=False)
        ]
        if 0 < len(known) < len(self.cells):
            lines.append("(blank)    no published number is known here")
        lines.sort(reverse=True)
        if self.unlike:
            lines.append(
                f"protocol   this run differs from the published one: {', '.join(self.unlike)}"
            )
        return lines

    def _lacks(self) -> list[str]:
        lines = [
            f"missing    {count} responses of {suite} under {condition}"
            for (suite, condition), count in self.missing.items()
        ]
        if lines:
            lines.append(
                "           the same command goes on; until then cells are of the short responses"
            )
        return lines + [f"note       {note}" for note in self.notes]


def _block(suite: str, rows: Sequence[Any]) -> str:
    of, whole = suite_of(suite), _size(rows[0])
    lines = [_line(row) if _size(row) == whole else {**_line(row), "n": _size(row)} for row in rows]
    names = ["condition", *COLUMNS]
    shown = pd.DataFrame([{name: line.get(name, "") for name in names} for line in lines])
    shown = shown.loc[:, (shown != "").any()]
    scripts = [
        f"{row.condition} {row.as_script:.1f}" for row in rows if not math.isnan(row.as_script)
    ]
    tail = [f"as main programs: {', '.join(scripts)}"] if scripts and of.kind == "code" else []
    return "\n".join([f"{of.title}, {whole} samples", shown.to_string(index=False), *tail])


def _size(row: Any) -> str:
    return f"{row.n} problem{'s' if row.n > 1 else ''} x {row.samples:.3g}"


def _line(row: Any) -> dict[str, str]:
    """Columns of a row, without those that it has nothing for."""
    is_marked = not math.isnan(row.published) and not row.verified
    columns = {
        "condition": str(row.condition),
        "accuracy": _interval(row, "estimate"),
        "difference": _interval(row, "difference"),
        "pairs": "" if row.n_pairs == row.responses else _number(row.n_pairs, "{:.0f}"),
        "p (Holm)": _p(row.p_holm),
        "seen": _number(row.detectable or math.nan, "±{:.1f}"),
        "cut": _number(row.truncated, "{:.1f}"),
        "unread": _number(row.unknown, "{:.1f}"),
        "tokens": _number(row.tokens, "{:,.0f}"),
        "seconds": _number(row.seconds, "{:.2g}"),
        "published": _number(row.published, "{:.1f}") + (MARK if is_marked else ""),
        "distance": _distance(row),
    }
    return {name: text for name, text in columns.items() if text}


def _distance(row: Any) -> str:
    if math.isnan(row.published):
        return ""
    limit = f" ±{row.chance:.1f}" if row.reading == "chance" else ""
    return f"{row.distance:+.1f} {row.reading}{limit}"


def _interval(row: Any, name: str) -> str:
    value = getattr(row, name)
    if math.isnan(value):
        return ""
    prefix = "" if name == "estimate" else f"{name}_"
    lower, upper = getattr(row, f"{prefix}lower"), getattr(row, f"{prefix}upper")
    sign = "" if name == "estimate" else "+"
    limits = "" if math.isnan(lower) else f" [{lower:{sign}.1f}, {upper:{sign}.1f}]"
    return f"{value:{sign}.1f}{limits}"


def _p(value: float) -> str:
    return "" if math.isnan(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _number(value: float, form: str) -> str:
    return "" if math.isnan(value) else form.format(value)
