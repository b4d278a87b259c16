"""What is asked of models that read language and were not trained here: gains, and losses."""

from analyses.claims.of_compute import RIVALS_OF_LANGUAGE
from analyses.claims.of_maps import AGGREGATES, CUT_EDGES, SUMMARY_LOOKS
from analyses.claims.reading import BOTH_GAIN, OEB_GAIN, SMI_GAIN, Reading, at

SOLVED = at("share_right", condition="baseline")
GAINS = tuple(
    Reading(
        claim,
        f"{name} - none",
        "accuracy",
        at("accuracy", condition=condition),
        margin=margin,
        floor=SOLVED,
    )
    for claim, name, condition, margin in (
        ("OEB helps", "OEB", "oeb", OEB_GAIN),
        ("SMI helps", "SMI", "smi", SMI_GAIN),
        ("both together help", "both", "both", BOTH_GAIN),
    )
)
LOSSES = (
    Reading(
        "OEB helps",
        "loss of worked solutions, OEB - none",
        "loss",
        at("gold_loss", condition="oeb"),
        sign=-1,
        control="random keys (not matched in dose)",
        left=at("gold_loss_placebo", condition="oeb", reference="oeb-bridge"),
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
        unit="millinats",
    ),
)
LANGUAGE = (*GAINS, *LOSSES, *AGGREGATES, *SUMMARY_LOOKS, *CUT_EDGES, *RIVALS_OF_LANGUAGE)
