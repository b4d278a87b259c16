"""Claims about answers: what StepFlow and its halves do to accuracy, where, and how strong."""

from collections.abc import Mapping, Sequence
from typing import Any

from analyses.claims.reading import (
    BOTH_GAIN,
    CONTRASTS,
    OEB_GAIN,
    SMI_GAIN,
    UNCHECKED,
    Place,
    Reading,
    at,
)
from analyses.claims.strata import CONTRAST
from analyses.findings.sources import POINTS, SOURCES
from analyses.findings.tables import Source

DIFFICULTY = Source("claims/difficulty", scale=POINTS)
SMOOTH = "rows moved as far (KL) by a temperature"
STRENGTHENED = Source("ablation_strengths/summary", scale=POINTS)
MATCHED = Source("ablation_matched/summary", scale=POINTS)
OEB_PLACEBOS = {
    "layers": "random layers",
    "block": "a contiguous block of keys",
    "permuted": "mass permuted within the bridge",
    "bridge": "random keys",
}
"""The first leaves a working model, and is what the README quotes; random keys destroy some."""
SMI_PLACEBOS = {
    "direction": "random directions",
    "boundaries": "random boundaries",
    "other": "momentum of another answer",
    "layers": "random layers",
}
HEADS = Source("head_gradient/summary")
DOSES = (Source("ablation_matched/doses"), Source("ablation/doses"))
PLACEBOS = (Source("ablation_matched/placebos", scale=POINTS), SOURCES["placebo"])
DOSES_OF_BOTH = (Source("ablation_both/doses"), Source("ablation/doses"))
PLACEBOS_OF_BOTH = (Source("ablation_both/placebos", scale=POINTS), SOURCES["placebo"])
"""Placebos of equal dose are in a run of their own, or in the ablation."""
STEERED = Source("head_steering_transfer/accuracy", {"reference": "baseline"}, POINTS)


def gain(claim: str, statement: str, condition: str, margin: float, **fields: Any) -> Reading:
    """Accuracy under a condition minus that without, in whichever run has it."""
    effect = at("accuracy", STRENGTHENED, MATCHED, condition=condition)
    return Reading(claim, statement, "accuracy", effect, margin=margin, **fields)


def _left(condition: str, placebo: str) -> Place:
    """Accuracy under a condition minus that under a placebo of its dose."""
    return at(*PLACEBOS, condition=condition, reference=placebo)


def strength(alpha: float) -> dict[str, Any]:
    """Fields of a reading whose statement says which share of the residual alpha adds."""
    return {"alpha": alpha, "injected": at(*DOSES, condition="smi")}


def _dose(placebo: str) -> Place:
    """Dose of a placebo relative to that of what it stands for, on held-out solutions."""
    return at(*DOSES, condition=placebo)


def doses_of(condition: str, placebo: str) -> dict[str, Any]:
    """Fields of a reading that say a placebo's dose: of one half, or of each."""
    if condition != "both":
        return {"dose": _dose(placebo)}
    bridge, momentum = (
        at(*DOSES_OF_BOTH, condition=placebo, half=half)
        for half in ("OddsEqualBridge", "StepMomentumInjection")
    )
    return {"dose": bridge, "other_dose": momentum}


def matched_gains(
    claim: str,
    statement: str,
    condition: str,
    margin: float,
    placebos: Mapping[str, str],
    dose: str,
    **fields: Any,
) -> list[Reading]:
    """One reading for each placebo of equal dose."""
    return [
        gain(
            claim,
            statement,
            condition,
            margin,
            control=f"{what} of equal {dose}",
            left=_left(condition, f"{condition}-{kind}-kl"),
            matched=True,
            dose=_dose(f"{condition}-{kind}-kl"),
            **fields,
        )
        for kind, what in placebos.items()
    ]


def gradient_heads() -> list[Reading]:
    """The bridge in the heads that one gradient names, on the other half of the problems."""
    return [
        Reading(
            "few heads carry the repair",
            f"right token against the written one at the error, the bridge in {k} heads, chosen by "
            "one gradient on the other half - none",
            "log-odds at the error",
            at(HEADS, contrast="top - none", k=k),
            control=f"20 random sets of heads of equal KL ({UNCHECKED})",
            left=at(HEADS, contrast="top - random", k=k),
            matched=True,
            rank=at(HEADS, contrast="rank", k=k),
            unit="nats",
        )
        for k in (2, 8)
    ]


OEB_AT_PAPER = (
    *matched_gains("OEB helps", "OEB - none, tau_max 0.15", "oeb", OEB_GAIN, OEB_PLACEBOS, "KL"),
    gain(
        "OEB helps",
        "OEB - none, tau_max 0.15",
        "oeb",
        OEB_GAIN,
        control=SMOOTH,
        left=at("placebo", condition="oeb", reference="oeb-smooth"),
        matched=True,
    ),
    gain(
        "OEB helps",
        "OEB - none, tau_max 0.15",
        "oeb",
        OEB_GAIN,
        control="random keys (not matched in dose)",
        left=at("placebo", condition="oeb", reference="oeb-bridge"),
    ),
)
OEB = (
    *OEB_AT_PAPER,
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
    *gradient_heads(),
    *(
        Reading(
            "few heads carry the repair",
            f"the bridge at tau_max 0.3 in {k} heads, chosen on the other half - none",
            "accuracy",
            at(STEERED, condition=f"top-{k}"),
            margin=OEB_GAIN,
        )
        for k in (2, 8)
    ),
)
SMI_AT_PAPER = (
    gain(
        "SMI helps",
        "SMI - none, alpha 0.06",
        "smi",
        SMI_GAIN,
        control="random directions (not matched in the residual)",
        left=at("placebo", condition="smi", reference="smi-direction"),
        **strength(0.06),
    ),
    *matched_gains(
        "SMI helps",
        "SMI - none, alpha 0.06",
        "smi",
        SMI_GAIN,
        SMI_PLACEBOS,
        "norm",
        **strength(0.06),
    ),
)
SMI = (
    *SMI_AT_PAPER,
    *(
        gain(
            "SMI helps",
            f"SMI - none, alpha {alpha:g}",
            f"smi-alpha-{alpha:g}",
            SMI_GAIN,
            **strength(alpha),
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
        **strength(0.5),
    ),
)
BOTH_PLACEBOS = {
    "both-layers-kl": "random layers",
    "both-bridge-direction-kl": "random keys and random directions",
}


def gains_of_both() -> list[Reading]:
    """Both halves against no edit, and against placebos of the dose of each."""
    return [
        gain(
            "both together help",
            "both - none",
            "both",
            BOTH_GAIN,
            control=f"{what} of equal dose in each half",
            left=at(*PLACEBOS_OF_BOTH, condition="both", reference=name),
            matched=True,
            **doses_of("both", name),
        )
        for name, what in BOTH_PLACEBOS.items()
    ]


INTERACTION = Reading(
    "both together help more than the sum",
    "both - OEB - SMI + none",
    "accuracy",
    at("interaction"),
)
BOTH = (*gains_of_both(), INTERACTION)
BANDS = tuple(
    Reading(
        "a quarter of the layers is the right band",
        f"both, quarter - {band}",
        "accuracy",
        at(CONTRASTS, contrast=f"quarter - {band}"),
    )
    for band in ("third", "half")
)
STRENGTHS = (
    *(
        gain(
            "gains are robust over tau_max",
            f"OEB - none, tau_max {tau:g}",
            f"oeb-tau-{tau:g}",
            OEB_GAIN,
            needs=OEB_AT_PAPER,
        )
        for tau in (0.05, 0.1, 0.3, 0.6)
    ),
    *(
        gain(
            "gains are robust over alpha",
            f"SMI - none, alpha {alpha:g}",
            f"smi-alpha-{alpha:g}",
            SMI_GAIN,
            needs=SMI_AT_PAPER,
            **strength(alpha),
        )
        for alpha in (0.01, 0.03)
    ),
)


HARD_PLACEBOS = {
    "oeb-layers-kl": f"{OEB_PLACEBOS['layers']} of equal KL",
    "oeb-block-kl": f"{OEB_PLACEBOS['block']} of equal KL",
    "both-layers-kl": f"{BOTH_PLACEBOS['both-layers-kl']} of equal dose in each half",
}


def difficult_gains(pairs: Sequence[tuple[str, str]]) -> list[Reading]:
    """Gains of hard problems over those of easy ones, and what placebos leave of them.

    Args:
        pairs: Condition (``oeb``, ``both``) and placebo of `HARD_PLACEBOS`.
    """
    return [_difficult(*pair) for pair in pairs]


def _difficult(condition: str, placebo: str) -> Reading:
    name = {"oeb": "OEB", "both": "both"}[condition]
    place = {"condition": condition, "stratum": CONTRAST}
    matched = placebo.startswith(f"{condition}-")
    return Reading(
        "gains are larger on hard problems",
        f"gain of {name}, greedy, on hard problems - on easy ones, by 8 independent samples",
        "accuracy",
        at(DIFFICULTY, **place, reference="baseline"),
        control=HARD_PLACEBOS[placebo] + ("" if matched else ", no momentum"),
        left=at(DIFFICULTY, **place, reference=placebo),
        matched=matched,
        ends=("hard_share", "easy_share"),
        **(doses_of(condition, placebo) if matched else {}),
    )


DIFFICULT = difficult_gains(
    [
        (condition, placebo)
        for placebo in ("oeb-layers-kl", "oeb-block-kl")
        for condition in ("oeb", "both")
    ]
)
ERRORS = (
    Reading(
        "flow errors are repaired more than local ones",
        "rate corrected by both, flow - local, of first errors",
        "error rate",
        at("flow", condition="both"),
        groups={"n_flow": "flow errors", "n_local": "local errors"},
    ),
    Reading(
        "propagation errors are repaired more than conceptual ones",
        "rate corrected",
        "error rate",
        untestable="the task has no conceptual errors",
    ),
)
