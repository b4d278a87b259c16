"""What is asked of language models that reason in words and are sometimes right."""

from analyses.claims.of_answers import (
    HARD_PLACEBOS,
    INTERACTION,
    OEB_PLACEBOS,
    SMI_PLACEBOS,
    difficult_gains,
    doses_of,
    gain,
    gains_of_both,
    gradient_heads,
    matched_gains,
    strength,
)
from analyses.claims.of_compute import RIVAL_OF_WAIT, votes
from analyses.claims.of_maps import CUT_EDGES, READINGS_OF_MAPS, around_the_error
from analyses.claims.reading import BOTH_GAIN, OEB_GAIN, SMI_GAIN, Reading, at
from analyses.findings.sources import POINTS
from analyses.findings.tables import Source

RULES = {
    "first off": Source("mediation_around/summary"),
    "last on": Source("mediation_around/second"),
}
"""What says where a wrong answer goes wrong, and the table by it."""
WARMER = Source("compute_matched_t07/comparisons", scale=POINTS)
WHOLE = Source("claims/whole", scale=POINTS)
FORKS = Source("fork_points/summary", scale=POINTS)
PROGRAMS = Source("programs/summary", scale=POINTS)


def _of(kinds: dict[str, str], *names: str) -> dict[str, str]:
    return {name: kinds[name] for name in names}


GAINS = (
    *matched_gains(
        "OEB helps",
        "OEB - none, tau_max 0.15",
        "oeb",
        OEB_GAIN,
        _of(OEB_PLACEBOS, "block", "bridge"),
        "KL",
    ),
    gain("OEB helps", "OEB - none, tau_max 0.3", "oeb-tau-0.3", OEB_GAIN),
    *matched_gains(
        "SMI helps",
        "SMI - none, alpha 0.06",
        "smi",
        SMI_GAIN,
        _of(SMI_PLACEBOS, "direction"),
        "norm",
        **strength(0.06),
    ),
    gain("SMI helps", "SMI - none, alpha 0.5", "smi-alpha-0.5", SMI_GAIN, **strength(0.5)),
    *gains_of_both(),
    Reading(
        "both together help",
        "both - none, all rows of the file but those of the pilot and of matching",
        "accuracy",
        at(WHOLE, condition="both", reference="baseline"),
        margin=BOTH_GAIN,
        control=HARD_PLACEBOS["both-layers-kl"],
        left=at(WHOLE, condition="both", reference="both-layers-kl"),
        matched=True,
        **doses_of("both", "both-layers-kl"),
    ),
    INTERACTION,
)
AROUND = tuple(
    reading
    for rule, source in RULES.items()
    for index, places, sign, claim in (
        ("lock_in", ("before", "at", "after", "whole"), 1, "shallow lock-in marks errors"),
        ("decay", ("whole",), 1, "deep decay marks errors"),
        ("reach", ("before", "at", "after", "whole"), -1, "deep decay marks errors"),
    )
    for reading in around_the_error(claim, index, places, sign, source=source, rule=rule)
)
FROM_THE_ERROR = tuple(
    Reading(
        "both together help",
        f"wrong answers gone on from right before their first wrong step ({what}), both - none",
        "accuracy",
        at(FORKS, condition="both", place=place, contrast="edit - baseline"),
        margin=BOTH_GAIN,
        control=HARD_PLACEBOS["both-layers-kl"],
        left=at(FORKS, condition="both", place=place, reference="both-layers-kl"),
        matched=True,
        **doses_of("both", "both-layers-kl"),
    )
    for place, what in (("any", "wherever it is"), ("thinking", "in the thinking"))
)
WRITTEN_PROGRAMS = Reading(
    "both together help",
    "small Python problems with tests, both - none",
    "accuracy",
    at(PROGRAMS, condition="both", question="edit"),
    margin=BOTH_GAIN,
    control=HARD_PLACEBOS["both-layers-kl"],
    left=at(PROGRAMS, condition="both", question="against placebo", reference="both-layers-kl"),
    matched=True,
    floor=at(Source("programs/accuracy"), condition="baseline", level="all"),
    dose=at(Source("programs/doses"), condition="both-layers-kl", half="OddsEqualBridge"),
    other_dose=at(
        Source("programs/doses"), condition="both-layers-kl", half="StepMomentumInjection"
    ),
)
DRAWN_ANEW = tuple(
    Reading(
        "the map tells which steps matter",
        "rank correlation of what the summary takes from a thinking step with what drawing that "
        f"step anew does to the answer{among}",
        kind,
        at(
            Source("resampling/summary", {"outcome": "same", "rows": "summary"}),
            importance=importance,
            score=kind,
        ),
        control="position in the thinking",
        left=at(
            Source("resampling/rivals", {"outcome": "same", "reference": "position"}),
            importance=importance,
            condition=f"{kind} summary",
        ),
        matched=True,
        unit="rho",
    )
    for importance, among in (
        ("resample", ""),
        ("counterfactual", " where another step was drawn"),
    )
    for kind in READINGS_OF_MAPS
)
REASONING = (
    *AROUND,
    *CUT_EDGES,
    *DRAWN_ANEW,
    *GAINS,
    *FROM_THE_ERROR,
    WRITTEN_PROGRAMS,
    *difficult_gains([("oeb", "oeb-block-kl"), ("both", "both-layers-kl")]),
    *votes(WARMER, "0.7"),
    RIVAL_OF_WAIT,
    *gradient_heads(),
)
