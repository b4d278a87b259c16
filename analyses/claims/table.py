"""The table of claims, from the tables of the analyses."""

import re
from pathlib import Path
from typing import Any

import pandas as pd

from analyses.claims.models import MODELS
from analyses.claims.reading import UNCHECKED, Place, Reading
from analyses.claims.readings import READINGS
from analyses.claims.tally import one_verdict
from analyses.claims.verdict import (
    DOSE_TOLERANCE,
    FEWEST,
    FLOOR,
    LEVEL,
    NOT_RUN,
    Effect,
    Judgement,
    judge,
)
from analyses.findings.tables import NotRunError, Results

COLUMNS = (
    "claim",
    "statement",
    "reading",
    "estimate",
    "lower",
    "upper",
    "unit",
    "control",
    "control_estimate",
    "control_lower",
    "control_upper",
    "control_matched",
    "dose_ratio",
    "p_holm",
    "margin",
    "verdict",
    "reason",
    "model",
    "n",
    "table",
)


def claims_table(results: Path, readings: tuple[Reading, ...] = READINGS) -> pd.DataFrame:
    """One row per reading of a claim, `COLUMNS`, in the order of the paper's claims.

    Args:
        results: Folder of results folders.
        readings: What is to be read.
    """
    rows = [
        claim_row(reading, Results(results, MODELS[reading.model].suffix)) for reading in readings
    ]
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    return table.astype({"n": "Int64"})


def claim_row(reading: Reading, results: Results) -> dict[str, Any]:
    """One row of the table."""
    row: dict[str, Any] = {
        name: getattr(reading, name)
        for name in ("claim", "statement", "reading", "unit", "control", "margin", "model")
    }
    row["statement"] += _share_of_residual(reading, results)
    effect, found = _effect(reading.effect, results)
    left, _ = _effect(reading.left, results)
    row["p_holm"] = None if effect is None else effect.p_holm
    for prefix, interval in (("", effect), ("control_", left)):
        for name in ("estimate", "lower", "upper"):
            row[f"{prefix}{name}"] = None if interval is None else getattr(interval, name)
    ratio = row["dose_ratio"] = _dose_ratio(reading, results)
    mismatch = _mismatch(reading, ratio, results)
    matched = reading.matched and not mismatch
    row["control"] = _named(reading, ratio)
    if left is not None:
        row["control_matched"] = matched
    judgement = _judged(reading, effect, left, matched=matched, results=results)
    if judgement.reason == NOT_RUN:
        judgement = judgement._replace(reason=str(found))
    if reading.matched and not matched and judgement.verdict == "not shown":
        judgement = judgement._replace(reason=f"{judgement.reason}; {mismatch}")
    n = found.get("n") if isinstance(found, dict) else None
    return {**row, **judgement._asdict(), "n": n, "table": _table_of(reading, results)}


def _named(reading: Reading, ratio: float | None) -> str:
    """What a control is, and how far its dose is off, or that it was not checked."""
    if reading.dose is not None and ratio is None:
        return f"{reading.control} ({UNCHECKED})"
    if ratio is None or abs(ratio - 1) <= DOSE_TOLERANCE:
        return reading.control
    what = re.sub(r" of equal (?:KL|norm|dose(?: in each half)?)$", "", reading.control)
    return f"{what} ({ratio:.2f} of the dose: not matched)"


def _table_of(reading: Reading, results: Results) -> str:
    """The table that the effect is read from: the first that has it, else the first."""
    if reading.effect is None:
        return ""
    sources, where = reading.effect
    has = [s for s in sources if _effect(((s,), where), results)[0] is not None]
    return results.table_name((has or list(sources))[0])


def _judged(
    reading: Reading,
    effect: Effect | None,
    left: Effect | None,
    *,
    matched: bool,
    results: Results,
) -> Judgement:
    untestable = _untestable(reading, results)
    if untestable:
        return Judgement("not testable here", untestable)
    gain, missing = _effect(reading.gain, results)
    both, against_none = [
        [None if x is None else x.signed(reading.sign) for x in some]
        for some in ((effect, left), (gain,))
    ]
    judgement = judge(
        *both,
        margin=reading.margin,
        matched=matched,
        kind=reading.control_kind,
        gain=against_none[0],
    )
    if judgement.verdict == "supported" and reading.gain is not None and gain is None:
        return Judgement("not shown", str(missing))
    like_any = _like_any_set(reading, results)
    if judgement.verdict == "supported" and like_any:
        return Judgement("not shown", like_any)
    return judgement


def _like_any_set(reading: Reading, results: Results) -> str:
    """How many of the control's sets do as much, where they are too many; else nothing."""
    rank, found = _effect(reading.rank, results)
    if reading.rank is None or (rank is not None and rank.estimate <= LEVEL):
        return ""
    if rank is None or not isinstance(found, dict):
        return str(found)
    n_others = int(found["n"])
    as_much = round(rank.estimate * (n_others + 1)) - 1
    return f"{as_much} of {n_others} sets of the control do as much"


def _untestable(reading: Reading, results: Results) -> str:
    """Why model or task cannot test the reading; empty if they can."""
    tests = (_unsolved, _few, _no_room, _no_gain)
    return reading.untestable or next(filter(None, (test(reading, results) for test in tests)), "")


def _unsolved(reading: Reading, results: Results) -> str:
    """How little the model solves, where that is less than `FLOOR`; else nothing."""
    floor, solved = _effect(reading.floor, results)
    if floor is None or not isinstance(solved, dict) or floor.estimate >= FLOOR:
        return ""
    return f"the model solves {round(floor.estimate * solved['n'])} of {solved['n']} problems"


def _no_room(reading: Reading, results: Results) -> str:
    """Shares right that leave no room for gains of either sign; nothing where they do."""
    _, found = _effect(reading.effect, results)
    if reading.ends is None or not isinstance(found, dict):
        return ""
    hard, easy = (float(found[column]) for column in reading.ends)
    if hard >= FLOOR and easy <= 1 - FLOOR:
        return ""
    return (
        f"no room for gains of either sign: without an edit {hard:.0%} of the answers to hard "
        f"problems and {easy:.0%} of those to easy ones are right"
    )


def _no_gain(reading: Reading, results: Results) -> str:
    """That a gain which a reading takes for granted was measured and not found; else nothing."""
    rows = pd.DataFrame([claim_row(needed, results) for needed in reading.needs])
    if rows.empty or rows["estimate"].isna().all() or one_verdict(rows) == "supported":
        return ""
    return "there is no gain to be robust"


def _few(reading: Reading, results: Results) -> str:
    """How many are in the groups that an effect compares, if one has too few; else nothing."""
    _, found = _effect(reading.effect, results)
    if not isinstance(found, dict):
        return ""
    sizes = {what: int(found[column]) for column, what in reading.groups.items()}
    if min(sizes.values(), default=FEWEST) >= FEWEST:
        return ""
    counts = ", ".join(f"{what}: {size}" for what, size in sizes.items())
    return f"a group has fewer than {FEWEST} ({counts})"


def _share_of_residual(reading: Reading, results: Results) -> str:
    """Which share of the residual's norm momentum of a strength adds; empty where unknown."""
    _, found = _effect(reading.injected, results, column="injected_norm")
    if reading.alpha is None or not isinstance(found, dict):
        return ""
    percent = 100 * found["injected_norm"] * reading.alpha / found["alpha"]
    return f" (about {percent:.2g}% of the residual's norm)"


def _mismatch(reading: Reading, ratio: float | None, results: Results) -> str:
    """Why a control is not matched that was meant to be; empty if it is, as far as is known."""
    if ratio is not None and abs(ratio - 1) > DOSE_TOLERANCE:
        return f"the control's dose is off by {ratio - 1:+.0%}"
    left, _ = _effect(reading.balance, results)
    if left is None or left.lower <= 0 <= left.upper:
        return ""
    interval = f"{left.estimate:+.3g} [{left.lower:+.3g}, {left.upper:+.3g}]"
    return f"its pairs still differ in length, by {interval} tokens"


def _dose_ratio(reading: Reading, results: Results) -> float | None:
    """Dose of a placebo over that of what it stands for, the worse of its halves; None if unknown.

    A placebo of two halves has a dose where both have.
    """
    places = [place for place in (reading.dose, reading.other_dose) if place is not None]
    rows = [_effect(place, results, column="dose_ratio")[1] for place in places]
    ratios = [float(row["dose_ratio"]) for row in rows if isinstance(row, dict)]
    if not ratios or len(ratios) < len(places):
        return None
    return max(ratios, key=lambda ratio: abs(ratio - 1))


def _effect(
    place: Place | None, results: Results, *, column: str = "estimate"
) -> tuple[Effect | None, dict[str, Any] | str]:
    """An effect and its row; or nothing, and why there is none."""
    if place is None:
        return None, "no analysis has it"
    sources, where = place
    reasons = []
    for source in sources:
        name = results.table_name(source)
        try:
            row = results.row(source, **where)
        except NotRunError:
            reasons.append(f"{name} was not run")
        except ValueError as error:
            if not str(error).startswith("0 rows"):
                raise
            reasons.append(f"{name} was not run with {', '.join(map(str, where.values()))}")
        else:
            limits = ("estimate", "lower", "upper") if column == "estimate" else (column,) * 3
            p_holm = row.get("p_holm")
            known = None if p_holm is None or pd.isna(p_holm) else float(p_holm)
            estimate, lower, upper = (float(row[name]) for name in limits)
            return Effect(estimate, lower, upper, known), row
    return None, reasons[0]


def measured(table: pd.DataFrame) -> pd.DataFrame:
    """Rows that have an estimate."""
    return table[table["estimate"].notna()]
