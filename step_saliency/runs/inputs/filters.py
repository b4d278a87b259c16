"""lm-eval writes the responses to a question once for each filter of the task: they are read once.

Each filter takes an answer out of the response in its own way and judges that; where they judge
otherwise no judgement counts.
"""

import json
from dataclasses import replace

from step_saliency.runs.inputs.evaluations import LM_EVAL
from step_saliency.runs.inputs.lines import Line
from step_saliency.runs.inputs.rows import Row

DIFFER = "the judgement of lm-eval, which differs from filter to filter"


def without_repeats(lines: list[Line]) -> tuple[list[Line], list[str]]:
    """Lines without those that repeat the responses of an earlier one, and a note on them."""
    first: dict[str, int] = {}
    kept: list[Line] = []
    for line in lines:
        said = _said(line)
        place = first.setdefault(said, len(kept)) if said else len(kept)
        if place == len(kept) or _filter(kept[place]) == _filter(line):
            kept.append(line)
        elif _judgements(kept[place]) != _judgements(line):
            kept[place] = _unjudged(kept[place])
    n = len(lines) - len(kept)
    rows = f"{n:,} row" if n == 1 else f"{n:,} rows"
    note = f"not read: the same responses under further filters of lm-eval ({rows})"
    return kept, [note] if n else []


def _said(line: Line) -> str:
    """Question and responses of a line of lm-eval; empty for any other."""
    data = line.rows[0].data
    if line.form != LM_EVAL.name or "filter" not in data:
        return ""
    return json.dumps([data.get(name) for name in ("doc_id", "doc", "resps")], default=str)


def _filter(line: Line) -> object:
    return line.rows[0].data["filter"]


def _judgements(line: Line) -> list[bool | None]:
    return [row.stated_correct for row in line.rows]


def _unjudged(line: Line) -> Line:
    rows = [_without_judgement(row) for row in line.rows]
    return replace(line, rows=rows, notes=tuple(dict.fromkeys((*line.notes, DIFFER))))


def _without_judgement(row: Row) -> Row:
    """The row, which is another one than where its filter alone judged."""
    form = row.form if row.says.unjudged else f"{row.form} {DIFFER}"
    return replace(row, reading=replace(row.says, stated=None, unjudged=True), form=form)
