"""A reading of a claim: which row of which table speaks for or against it, and on which model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from analyses.claims.verdict import ControlKind
from analyses.findings.sources import POINTS, SOURCES
from analyses.findings.tables import Source

Kind = Literal[
    "loss", "log-odds", "attention", "log-odds at the error", "accuracy", "error rate", "map", ""
]
Place = tuple[tuple[Source, ...], Mapping[str, Any]]
"""Tables, of which the first that was made and has the row counts, and the row."""

CONTRASTS = Source("claims/contrasts", scale=POINTS)
UNCHECKED = "matched on other traces, not checked on these"
"""What is said of a placebo of equal dose that has no table of doses."""
OEB_GAIN, SMI_GAIN, BOTH_GAIN = 1.5, 2.0, 0.8
"""The smallest gains over no edit that the paper reports, in points of accuracy."""


@dataclass(frozen=True)
class Reading:
    """One way in which a claim was measured, or why it was not.

    Attributes:
        claim: The claim, short.
        statement: What was measured.
        reading: Which quantity speaks.
        effect: Table and row; None where no analysis has it.
        sign: 1 if the claim says more, -1 if it says less.
        margin: Smallest effect that would bear the claim out.
        control: What the control is; empty without one.
        left: Table and row of what the control leaves of the effect.
        matched: Whether the control is matched.
        control_kind: Whether it is a placebo, one of a claim that something harms, or another
            design.
        balance: Table and row of the difference in tokens that is left among matched pairs; where
            its interval leaves zero out, they are not matched.
        untestable: Why the claim cannot be tested on this model, if it cannot; an effect that was
            measured all the same is shown.
        floor: Table and row of the share of answers that is right without an edit, where a model
            that solves next to nothing could show no gain.
        groups: Columns of the effect's row that count the groups it compares, and what they are
            of; none may have fewer than `verdict.FEWEST`.
        ends: Columns of the effect's row with the shares that are right without an edit, where more
            is said to be gained and where less; the effect says something only where both leave
            room for gain and loss (`verdict.FLOOR`).
        needs: Readings of a gain without which the statement is about nothing.
        gain: Table and row of what the edit does against no edit, where the effect is against a
            rival.
        dose: Table and row of the placebo's dose relative to that of what it stands for; a control
            whose dose is off by more than `verdict.DOSE_TOLERANCE` is not matched, and one whose
            table was not run is said to be `UNCHECKED`.
        other_dose: The same of its second half, where a placebo has two; the worse of both counts.
        rank: Table and row of the share of the control's sets that do as much, what is tested
            counted among them, where the control is a few random sets; above `verdict.LEVEL`
            nothing is supported.
        alpha: Strength of momentum, where the statement is to say which share of the residual's
            norm that is: it is proportional to the strength.
        injected: Table and row of the strength at which the share was measured.
        only: Models that it is about; all of their kind without any.
        model: On which model.
        unit: Of the estimate.
    """

    claim: str
    statement: str
    reading: Kind
    effect: Place | None = None
    sign: int = 1
    margin: float = 0.0
    control: str = ""
    left: Place | None = None
    matched: bool = False
    control_kind: ControlKind = "placebo"
    balance: Place | None = None
    untestable: str = ""
    floor: Place | None = None
    groups: Mapping[str, str] = field(default_factory=dict)
    ends: tuple[str, str] | None = None
    needs: tuple["Reading", ...] = ()
    gain: Place | None = None
    dose: Place | None = None
    other_dose: Place | None = None
    rank: Place | None = None
    alpha: float | None = None
    injected: Place | None = None
    only: tuple[str, ...] = ()
    model: str = "reasoner"
    unit: str = "points"


def at(*sources: str | Source, **where: Any) -> Place:
    """A row of a table, by a name of `SOURCES` or a source of its own; or of the next table."""
    return tuple(SOURCES[one] if isinstance(one, str) else one for one in sources), where


def against_rival(
    claim: str, statement: str, effect: Place, *, gain: Place, **fields: Any
) -> Reading:
    """A difference to a rival, which is its own control; and the gain over no edit beside it."""
    return Reading(
        claim,
        statement,
        "accuracy",
        effect,
        control="the rival itself",
        left=effect,
        matched=True,
        gain=gain,
        **fields,
    )
