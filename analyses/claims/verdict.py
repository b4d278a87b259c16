"""From an interval, a margin and a control to a verdict: one rule for all claims.

An effect is signed so that the claim says "above zero"; ``margin`` is the smallest effect that
would bear the claim out, fixed beforehand (for gains over no edit the smallest that the paper
reports, between two ways 0). ``left`` is what is left of the effect under a control: its difference
to a placebo, or the effect itself by another design. A control is matched if the placebo has the
dose of what it stands for, or the pairs of the other design are alike in what they were matched by.

    not testable here    model or task lack what the claim speaks of, said beforehand with a reason;
                         or the model solves less than `FLOOR` of the problems, so that no gain in
                         accuracy could show; or a group that is compared has fewer than `FEWEST`;
                         or gains are compared between problems of which the answers were nearly
                         all (1 - `FLOOR`) right or nearly all wrong, so that one sign is left; or
                         a gain that it takes for granted was measured and is not supported
    refuted              the whole interval of the effect, or of what a matched control leaves of
                         it, lies at or below the margin: an effect of that size is ruled out. With
                         a margin of 0 it is the opposite that is claimed then, and as much is asked
                         as for *supported*: `LEVEL` after Holm's correction, and both designs
    supported            the whole interval of the effect, and of what a matched control leaves of
                         it, lies above zero (and reaches beyond the margin); where the table has a
                         p-value after Holm's correction, it is at most `LEVEL`; and an edit that
                         is held against a rival has an interval above zero against no edit too
    not shown            anything else: no run, no interval, an interval that holds zero and more
                         than the margin, no control, or one that is not matched, a p-value after
                         Holm's correction above `LEVEL`, a rival that does harm

Not every control refutes (`ControlKind`). A placebo that gains as much as an edit says that it is
not the edit that gains. A placebo that harms as much as a planted cause says nothing of the kind:
the cause does harm, and so do other changes of its size, so that it is not specific. And where the
same is asked of other pairs (answers of other problems, pairs of similar length), the two answers
are two designs, neither of which is a placebo of the other: where they disagree, nothing is shown.

A placebo that was matched on some problems is held to its dose on others: off by more than
`DOSE_TOLERANCE`, it is not matched. One whose dose on others was not measured counts as matched,
and its row says so. Pairs that were matched by length are held to what difference is left in it.

A control of some random sets (of heads) is as uncertain as sets differ, which an interval over
problems leaves out: the sets are the same for all problems. So *supported* asks too that the share
of sets that do as much, with the one that is tested among them, be at most `LEVEL`.

An interval without width (no answer changed) says nothing about what could have changed.

When it misleads: Holm's correction is that of the table which a reading comes from, within a family
of its rows. Over the readings of a claim there is none, nor in tables without that column (single
contrasts, gains by difficulty), so that of many readings of a claim that is false some will be
"supported".
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

NOT_RUN = "not run"
FLOOR = 0.1
FEWEST = 10
LEVEL = 0.05
DOSE_TOLERANCE = 0.05
Verdict = Literal["supported", "refuted", "not shown", "not testable here"]
ControlKind = Literal["placebo", "placebo of harm", "design"]
_OUTDONE: Mapping[ControlKind, str] = {
    "placebo": "the control does as much",
    "placebo of harm": "it harms, but so does the control: not specific",
    "design": "the designs disagree: by the other it is the other way round",
}
_OPEN: Mapping[ControlKind, str] = {
    "placebo": "may be no more than the control",
    "placebo of harm": "may be no more than the control",
    "design": "by one design alone: by the other the interval holds zero",
}
_SUPPORTED: Mapping[ControlKind, str] = {
    "placebo": "more than the matched control",
    "placebo of harm": "more than the matched control",
    "design": "by both designs",
}


@dataclass(frozen=True)
class Effect:
    """An estimate with its interval, signed as the claim says.

    Attributes:
        estimate: The estimate.
        lower: Lower end of its interval.
        upper: Upper end.
        p_holm: Two-sided p-value after Holm's correction; None where the table has none.
    """

    estimate: float
    lower: float
    upper: float
    p_holm: float | None = None

    @property
    def has_width(self) -> bool:
        """Whether it is an interval."""
        return bool(np.isfinite([self.lower, self.upper]).all() and self.lower < self.upper)

    def signed(self, sign: int) -> "Effect":
        """The effect in the direction of the claim."""
        if sign > 0:
            return self
        return Effect(-self.estimate, -self.upper, -self.lower, self.p_holm)

    @property
    def may_be_chance(self) -> bool:
        """Whether Holm's correction leaves it above `LEVEL`."""
        return self.p_holm is not None and self.p_holm > LEVEL


class Judgement(NamedTuple):
    """A verdict and what decided it."""

    verdict: Verdict
    reason: str


def judge(
    effect: Effect | None,
    left: Effect | None = None,
    *,
    margin: float = 0.0,
    matched: bool = False,
    kind: ControlKind = "placebo",
    gain: Effect | None = None,
) -> Judgement:
    """Verdict on one reading of a claim (module docstring).

    Args:
        effect: The effect; None where it was not measured.
        left: What a control leaves of it; None without a control.
        margin: Smallest effect that would bear the claim out, 0 or above.
        matched: Whether the control is matched.
        kind: What the control is.
        gain: What the edit does against no edit, where the effect is against a rival.

    Raises:
        ValueError: a margin below 0.
    """
    if not margin >= 0:
        raise ValueError(f"margin={margin} is below 0; effects are signed as the claim says")
    if effect is None:
        return Judgement("not shown", NOT_RUN)
    if not effect.has_width:
        return Judgement("not shown", "nothing changed, so that the interval has no width")
    if effect.upper <= margin:
        against = _doubt_of_opposite(effect, left, margin, matched=matched, kind=kind)
        if against:
            return Judgement("not shown", against)
        return Judgement("refuted", f"more than {margin:g} is ruled out")
    if matched and kind == "placebo" and left is not None and _is_below(left, margin):
        return Judgement("refuted", _OUTDONE[kind])
    if effect.lower <= 0:
        return Judgement("not shown", "the interval holds zero and more than the margin")
    doubt = _doubt(effect, left, matched=matched, kind=kind)
    doubts = [one for one in (doubt, _harm(gain)) if one]
    if doubts:
        return Judgement("not shown", "; ".join(doubts))
    return Judgement("supported", _SUPPORTED[kind])


def _is_below(effect: Effect, margin: float) -> bool:
    """Whether an effect beyond the margin is ruled out; at 0, whether the opposite is shown."""
    chance = margin == 0 and effect.may_be_chance
    return effect.has_width and effect.upper <= margin and not chance


def _doubt_of_opposite(
    effect: Effect, left: Effect | None, margin: float, *, matched: bool, kind: ControlKind
) -> str:
    """What keeps an effect at or below the margin from being refuted; empty for nothing."""
    by_design = matched and kind == "design" and left is not None
    if by_design and left is not None and left.lower > 0:
        return _OUTDONE[kind]
    if margin > 0:
        return ""
    if effect.may_be_chance:
        return f"less, but p = {effect.p_holm:.2g} after Holm's correction"
    if by_design and left is not None and not _is_below(left, margin):
        return "less by one design alone"
    return ""


def _doubt(effect: Effect, left: Effect | None, *, matched: bool, kind: ControlKind) -> str:
    """What keeps an effect above zero from being supported; empty for nothing."""
    if effect.may_be_chance:
        return f"p = {effect.p_holm:.2g} after Holm's correction"
    if left is None or not left.has_width:
        return "no control"
    if not matched:
        return "the control is not matched"
    if left.lower <= 0:
        return (_OUTDONE if left.upper <= 0 else _OPEN)[kind]
    if left.may_be_chance:
        return f"against the control p = {left.p_holm:.2g} after Holm's correction"
    return ""


def _harm(gain: Effect | None) -> str:
    """Whether a difference to a rival may be the rival's harm alone."""
    if gain is None or gain.lower > 0:
        return ""
    interval = f"{gain.estimate:+.3g} [{gain.lower:+.3g}, {gain.upper:+.3g}]"
    return f"the rival may only do harm: against no edit the gain is {interval}"
