"""What a trace is known by: its row's problem, gold answer and judgement, beside our own grade.

A judgement that came with the row counts before ours; both are kept. What cannot be read is
unknown.
"""

import math
from dataclasses import replace
from typing import Any

from step_saliency.runs.inputs import Row
from step_saliency.tasks.answers import Grader, gold_answer, is_correct
from step_saliency.tasks.verdicts import verdict
from step_saliency.trace import Trace

ROW_FACTS = ("model", "level", "type", "subject", "answer")
"""Fields of a row that its trace keeps."""


def labelled(trace: Trace, row: Row, name: str, *, grade: Grader | None = None) -> Trace:
    """The trace under its own name, with what the row says of it.

    Args:
        trace: The trace.
        row: The row that it comes from.
        name: Its name in tables.
        grade: Judges it in place of `is_correct`'s own comparison, also without a gold answer.

    Raises:
        ValueError: the function returned no judgement.
        RuntimeError: it failed.
    """
    stated = verdict(trace.meta.get("is_correct")) if row.stated is None else row.stated_correct
    gold = trace.meta.get("gold_answer") if row.gold is None else gold_answer(row.gold) or None
    if grade is None:
        graded = _graded(trace, row, gold)
    else:
        graded = is_correct(trace, gold or "", grade=grade)
    meta = {
        **{key: row.data[key] for key in ROW_FACTS if _is_fact(row.data.get(key))},
        **({"source": row.says.source} if row.says.source else {}),
        **trace.meta,
        "problem": row.problem,
        "row_digest": row.digest,
        "gold_answer": gold,
        "stated_correct": stated,
        "graded_correct": graded,
        "is_correct": graded if stated is None else stated,
    }
    return replace(trace, id=name, question=trace.question or row.question, meta=meta)


def _graded(trace: Trace, row: Row, gold: object) -> bool | None:
    """Our own grade; None where there is nothing to grade or to grade by.

    Thinking that the prompt opened and nothing closed is no answer. Where the prompt that the
    response was written under is not known, its own marks alone tell.
    """
    if gold is None or not trace.response.strip():
        return None
    try:
        knows_prompt = row.kind in ("problem", "trace") or bool(row.says.prompt)
        return is_correct(trace if knows_prompt else trace.response, str(gold))
    except ValueError:
        return None


def _is_fact(value: Any) -> bool:
    """Whether a value can be written wherever traces are: text, whole or real number, or truth."""
    if isinstance(value, str):
        return value.encode(errors="replace").decode() == value
    is_number = isinstance(value, bool) or (isinstance(value, int) and abs(value) < 2**63)
    return is_number or (isinstance(value, float) and math.isfinite(value))
