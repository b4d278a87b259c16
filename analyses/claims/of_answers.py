"""Claims about answers: what StepFlow and its halves do to accuracy, where, and how strong."""

from collections.abc import Mapping
from typing import Any

from analyses.claims.reading import (
    BOTH_GAIN,
    CONTRASTS,
    OEB_GAIN,
    SMI_GAIN,
    Place,
    Reading,
    at,
)
from analyses.claims.strata import STRATA
from analyses.findings.sources import POINTS
from analyses.findings.tables import Source

DIFFICULTY = Source("claims/difficulty", scale=POINTS)
SMOOTH = "rows moved as far (KL) by a temperature"
STRENGTHENED = Source("ablation_strengths/summary", scale=POINTS)
MATCHED = Source("ablation_matched/summary", scale=POINTS)
OEB_PLACEBOS = {
    "bridge": "random keys",
    "block": "a contiguous block of keys",
    "permuted": "mass permuted within the bridge",
    "layers": "random layers",
}
SMI_PLACEBOS = {
    "direction": "random directions",
    "boundaries": "random boundaries",
    "other": "momentum of another answer",
    "layers": "random layers",
}
HEADS = Source("head_gradient/summary")


def _gain(claim: str, statement: str, condition: str, margin: float, **fields: Any) -> Reading:
    """Accuracy under a condition minus that without, in whichever run has it."""
    effect = at("accuracy", STRENGTHENED, MATCHED, condition=condition)
    return Reading(claim, statement, "accuracy", effect, margin=margin, **fields)


def _left(condition: str, placebo: str) -> Place:
    """Accuracy under a condition minus that under a placebo of its dose."""
    source = Source("ablation_matched/placebos", scale=POINTS)
    return at(source, condition=condition, reference=placebo)


def _dose(placebo: str) -> Place:
    """Dose of a placebo relative to that of what it stands for, on held-out solutions."""
    return at(Source("ablation_matched/doses"), condition=placebo)


def _matched(
    claim: str,
    statement: str,
    condition: str,
    margin: float,
    placebos: Mapping[str, str],
    dose: str,
) -> list[Reading]:
    """One reading for each placebo of equal dose."""
    return [
        _gain(
            claim,
            statement,
            condition,
            margin,
            control=f"{what} of equal {dose}",
            left=_left(condition, f"{condition}-{kind}-kl"),
            matched=True,
            dose=_dose(f"{condition}-{kind}-kl"),
        )
        for kind, what in placebos.items()
    ]


OEB = (
    _gain(
        "OEB helps",
        "OEB - none, tau_max 0.15",
        "oeb",
        OEB_GAIN,
        control=SMOOTH,
        left=at("placebo", condition="oeb", reference="oeb-smooth"),
        matched=True,
    ),
    _gain(
        "OEB helps",
        "OEB - none, tau_max 0.15",
        "oeb",
        OEB_GAIN,
        control="random keys (not matched in dose)",
        left=at("placebo", condition="oeb", reference="oeb-bridge"),
    ),
    *_matched("OEB helps", "OEB - none, tau_max 0.15", "oeb", OEB_GAIN, OEB_PLACEBOS, "KL"),
    Reading(
        "OEB helps",
        "right token against the written one at the error, tau_max 0.3",
        "log-odds at the error",
        at("log_odds_contrast", contrast="bridge total"),
        control="the same mass withheld from the bridge",
        left=at("log_odds_contrast", contrast="bridge through the bridge"),
        matched=True,
        unit="nats",
    ),
    *(
        Reading(
            "few heads carry the repair",
            f"right token against the written one at the error, the bridge in {k} heads, chosen by "
            "one gradient on the other half - none",
            "log-odds at the error",
            at(HEADS, contrast="top - none", k=k),
            control="20 random sets of heads of equal KL",
            left=at(HEADS, contrast="top - random", k=k),
            matched=True,
            unit="nats",
        )
        for k in (2, 8)
    ),
)
SMI = (
    _gain(
        "SMI helps",
        "SMI - none, alpha 0.06",
        "smi",
        SMI_GAIN,
        control="random directions (not matched in the residual)",
        left=at("placebo", condition="smi", reference="smi-direction"),
    ),
    *_matched("SMI helps", "SMI - none, alpha 0.06", "smi", SMI_GAIN, SMI_PLACEBOS, "norm"),
    *(
        _gain(
            "SMI helps",
            f"SMI - none, alpha {alpha:g}",
            f"smi-alpha-{alpha:g}",
            SMI_GAIN,
        )
        for alpha in (0.12, 0.25, 0.5, 1.0)
    ),
    Reading(
        "SMI helps",
        "right token against the written one at the error, alpha 0.5",
        "log-odds at the error",
        at("log_odds_contrast", contrast="momentum total"),
        control="random directions (not matched in the residual)",
        left=at("log_odds_contrast", contrast="momentum against random directions"),
        unit="nats",
    ),
)
BOTH = (
    _gain(
        "both together help",
        "both - none",
        "both",
        BOTH_GAIN,
    ),
    Reading(
        "both together help more than the sum",
        "both - OEB - SMI + none",
        "accuracy",
        at("interaction"),
        margin=BOTH_GAIN,
    ),
)
BANDS = tuple(
    Reading(
        "a quarter of the layers is the right band",
        f"both, quarter - {band}",
        "accuracy",
        at(CONTRASTS, contrast=f"quarter - {band}"),
        margin=BOTH_GAIN,
    )
    for band in ("third", "half")
)
STRENGTHS = (
    *(
        _gain(
            "gains are robust over tau_max",
            f"OEB - none, tau_max {tau:g}",
            f"oeb-tau-{tau:g}",
            OEB_GAIN,
        )
        for tau in (0.05, 0.1, 0.3, 0.6)
    ),
    *(
        _gain(
            "gains are robust over alpha",
            f"SMI - none, alpha {alpha:g}",
            f"smi-alpha-{alpha:g}",
            SMI_GAIN,
        )
        for alpha in (0.01, 0.03)
    ),
)
DIFFICULT = tuple(
    Reading(
        "gains are larger on hard problems",
        f"both - none, greedy, problems that 8 independent samples find {stratum}",
        "accuracy",
        at(DIFFICULTY, condition="both", stratum=stratum),
        margin=BOTH_GAIN,
    )
    for stratum in STRATA
)
ERRORS = (
    Reading(
        "flow errors are repaired more than local ones",
        "rate corrected by both, flow - local, of first errors",
        "error rate",
        at("flow", condition="both"),
    ),
    Reading(
        "propagation errors are repaired more than conceptual ones",
        "rate corrected",
        "error rate",
        untestable="the task has no conceptual errors",
    ),
)
