"""The paper's claims, and for each the rows of tables that speak for or against it.

A `Reading` names a row of a results table and, as its control, another; how large an effect has to
be (``margin``, in the unit of the estimate), which sign the claim has, and whether the control is
matched. Accuracies are in points. The margins of accuracies are the smallest gains that the paper
reports (GPT-OSS-20B: OEB 1.5, SMI 2.0; all models and sets: both together 0.8).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from analyses.claims.strata import STRATA
from analyses.findings.sources import POINTS, SOURCES
from analyses.findings.tables import Source

Kind = Literal[
    "loss", "log-odds", "attention", "log-odds at the error", "accuracy", "error rate", "map", ""
]
Place = tuple[Source, Mapping[str, Any]]

CONTRASTS = Source("claims/contrasts", scale=POINTS)
DIFFICULTY = Source("claims/difficulty", scale=POINTS)
AROUND = Source("mediation_around/summary")
PLACES = ("before", "at", "after", "whole")
READINGS_OF_MAPS: tuple[Kind, ...] = ("loss", "log-odds", "attention")
WHERE = {
    "before": "rows before the first wrong step",
    "at": "the row that decides the first wrong step",
    "after": "rows after the first wrong step",
    "whole": "all rows",
}
OEB_GAIN, SMI_GAIN, BOTH_GAIN = 1.5, 2.0, 0.8
SMOOTH = "rows moved as far (KL) by a temperature"
LENGTH = "pairs of similar length"


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
        untestable: Why the claim cannot be tested on this model, if it cannot.
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
    untestable: str = ""
    model: str = "reasoner"
    unit: str = "points"


def at(source: str | Source, **where: Any) -> Place:
    """A row of a table, by a name of `SOURCES` or a source of its own."""
    return (SOURCES[source] if isinstance(source, str) else source), where


def _index_readings(claim: str, index: str) -> list[Reading]:
    """An index of error minus correct answers."""
    folders: tuple[tuple[Kind, str, str], ...] = (
        ("loss", "depth_curves", "mean pooling"),
        ("log-odds", "depth_curves_log_odds", "mass pooling, rows by target"),
    )
    readings = []
    for kind, folder, pooling in folders:
        source = Source(f"{folder}/comparison", {"layer": None})
        readings.append(
            Reading(
                claim,
                f"{index}, error - correct answers, whole answer, {pooling}",
                kind,
                at(source, metric=index, control="none"),
                control=LENGTH,
                left=at(source, metric=index, control="length"),
                matched=True,
                unit="index",
            )
        )
    return readings


def _around_the_error(claim: str, index: str, places: tuple[str, ...], sign: int) -> list[Reading]:
    """An index at places around the first wrong step, in three readings of one pooling."""
    return [
        Reading(
            claim,
            f"{index}, {WHERE[place]}, error - answers that are still right there, same problem",
            kind,
            at(AROUND, reading=kind, index=index, place=place, control="risk set"),
            sign=sign,
            control="answers of other problems, same step",
            left=at(AROUND, reading=kind, index=index, place=place, control="index"),
            matched=True,
            unit="index",
        )
        for place in places
        for kind in READINGS_OF_MAPS
    ]


def _not_run(claim: str, statement: str, kind: Kind, folder: str, unit: str = "points") -> Reading:
    """A reading whose analysis has not been run; its folder has a table ``claims`` once it has."""
    return Reading(claim, statement, kind, at(Source(f"{folder}/claims")), unit=unit)


BEFORE_THE_ERROR = SOURCES["before_the_error"]
LOCK_IN = (
    *_index_readings("shallow lock-in marks errors", "lock_in_index"),
    *_around_the_error("shallow lock-in marks errors", "lock_in", PLACES, 1),
    Reading(
        "shallow lock-in marks errors",
        "lock_in_index, before the first wrong step, error - correct, same problem and step",
        "loss",
        at(BEFORE_THE_ERROR, index="lock_in_index", control="within"),
        control="other problems, matched by length",
        left=at(BEFORE_THE_ERROR, index="lock_in_index", control="matched"),
        matched=True,
        unit="index",
    ),
)
DECAY = (
    *_index_readings("deep decay marks errors", "decay_index"),
    *_around_the_error("deep decay marks errors", "decay", ("whole",), 1),
    *_around_the_error("deep decay marks errors", "reach", PLACES, -1),
    Reading(
        "deep decay causes summary errors",
        "errors that are first in the summary",
        "error rate",
        untestable="the model makes no summary error in 1,000 answers",
    ),
)
OEB = (
    Reading(
        "OEB helps",
        "OEB - none, tau_max 0.15",
        "accuracy",
        at("accuracy", condition="oeb"),
        margin=OEB_GAIN,
        control=SMOOTH,
        left=at("placebo", condition="oeb", reference="oeb-smooth"),
        matched=True,
    ),
    Reading(
        "OEB helps",
        "OEB - none, tau_max 0.15",
        "accuracy",
        at("accuracy", condition="oeb"),
        margin=OEB_GAIN,
        control="random keys (not matched in dose)",
        left=at("placebo", condition="oeb", reference="oeb-bridge"),
    ),
    Reading(
        "OEB helps",
        "OEB - none, tau_max 0.15",
        "accuracy",
        at("accuracy", condition="oeb"),
        margin=OEB_GAIN,
        control="random keys of equal KL",
        left=at(
            Source("ablation_matched/placebos", scale=POINTS),
            condition="oeb",
            reference="oeb-bridge-kl",
        ),
        matched=True,
    ),
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
)
SMI = (
    Reading(
        "SMI helps",
        "SMI - none, alpha 0.06",
        "accuracy",
        at("accuracy", condition="smi"),
        margin=SMI_GAIN,
        control="random directions (not matched in the residual)",
        left=at("placebo", condition="smi", reference="smi-direction"),
    ),
    *(
        Reading(
            "SMI helps",
            f"SMI - none, alpha {alpha:g}",
            "accuracy",
            at("accuracy", condition=f"smi-alpha-{alpha:g}"),
            margin=SMI_GAIN,
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
    Reading(
        "both together help",
        "both - none",
        "accuracy",
        at("accuracy", condition="both"),
        margin=BOTH_GAIN,
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
        Reading(
            "gains are robust over tau_max",
            f"OEB - none, tau_max {tau:g}",
            "accuracy",
            at("accuracy", condition=f"oeb-tau-{tau:g}"),
            margin=OEB_GAIN,
        )
        for tau in (0.05, 0.1, 0.3, 0.6)
    ),
    *(
        Reading(
            "gains are robust over alpha",
            f"SMI - none, alpha {alpha:g}",
            "accuracy",
            at("accuracy", condition=f"smi-alpha-{alpha:g}"),
            margin=SMI_GAIN,
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
COMPUTE = (
    *(
        Reading(
            "StepFlow is worth more than as much compute",
            f"vote of {k} at temperature 1, StepFlow - none",
            "accuracy",
            at("decoding", method="vote", k=k, condition="both", question="same way"),
            margin=BOTH_GAIN,
        )
        for k in (2, 4, 8)
    ),
    *(
        Reading(
            "StepFlow is worth more than as much compute",
            f"vote of {k} with StepFlow - vote of {2 * k} without, temperature 1",
            "accuracy",
            at(CONTRASTS, contrast=f"vote of {k} with StepFlow - vote of {2 * k}"),
        )
        for k in (2, 4)
    ),
    _not_run(
        "StepFlow is worth more than as much compute",
        "StepFlow - 'Wait' (budget forcing) at 1.35 times the tokens",
        "accuracy",
        "budget_forcing",
    ),
    Reading(
        "StepFlow is worth more than as much compute",
        "StepFlow - answers twice as long",
        "accuracy",
        at(
            "decoding",
            condition="both greedy-192",
            reference="baseline greedy-384",
            question="against greedy",
        ),
        margin=BOTH_GAIN,
        control="longer answers alone",
    ),
)
AGGREGATES = tuple(
    _not_run("StepFlow mends the pattern that it names", f"{name}, StepFlow - none", "loss", folder)
    for name, folder in (
        ("shallow self-intensity of the thinking", "aggregates_lock_in"),
        ("deep self-intensity of the summary", "aggregates_summary"),
        ("shallow mass from the thinking on the question", "aggregates_question"),
    )
)
BASELINES = tuple(
    _not_run("StepFlow is better than its rivals", f"StepFlow - {rival}", "accuracy", at_)
    for rival, at_ in (
        ("Plan-and-Solve", "baseline_plan_and_solve"),
        ("a hint sentence", "baseline_hint"),
        ("attention steering", "baseline_attention_steering"),
        ("activation steering", "baseline_activation_steering"),
    )
)
SMOLLM2 = (
    Reading(
        "OEB helps",
        "OEB - none",
        "accuracy",
        untestable="the model solves 2 of 60 problems",
        model="smollm2",
    ),
    Reading(
        "OEB helps",
        "loss of worked solutions, OEB - none",
        "loss",
        at("gold_loss", condition="oeb"),
        sign=-1,
        control="random keys (not matched in dose)",
        left=at("gold_loss_placebo", condition="oeb", reference="oeb-bridge"),
        model="smollm2",
        unit="millinats",
    ),
    Reading(
        "SMI helps",
        "loss of the answer's tokens, SMI - none",
        "loss",
        at("answer_loss", condition="smi"),
        sign=-1,
        control="random boundaries (not matched in dose)",
        left=at("answer_loss_placebo", condition="smi", reference="smi-boundaries"),
        model="smollm2",
        unit="millinats",
    ),
)
READINGS = (
    *LOCK_IN,
    *DECAY,
    *OEB,
    *SMI,
    *BOTH,
    *BANDS,
    *DIFFICULT,
    *STRENGTHS,
    *ERRORS,
    *COMPUTE,
    *AGGREGATES,
    *BASELINES,
    *SMOLLM2,
)
