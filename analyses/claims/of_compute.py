"""Claims about compute and rivals: is StepFlow worth more than what else could be done?

StepFlow costs about 1.35 times the compute (the paper). Answers of up to 1.35 times the length, and
"Wait" up to there, cost as much; twice the samples and twice the length cost more, so that to be
behind them says nothing about equal compute, and a vote of as many samples costs less.
"""

from dataclasses import replace

from analyses.claims.reading import BOTH_GAIN, CONTRASTS, Reading, against_rival, at
from analyses.findings.sources import MILLI, POINTS
from analyses.findings.tables import Source

COMPUTE_CLAIM = "StepFlow is worth more than as much compute"
TWICE_CLAIM = "StepFlow is worth twice the samples or the length"
VOTES_CLAIM = "StepFlow helps a vote"
RIVAL_CLAIM = "StepFlow is better than its rivals"
COLDER = Source("compute_matched_t06/comparisons", scale=POINTS)
NO_LANGUAGE = "the model has read no language, so that no word tells it anything"
WORDS = {
    "plan_and_solve": "Plan-and-Solve",
    "hint": "a hint sentence",
    "budget_forcing": "'Wait' (budget forcing) at 1.35 times the tokens",
}
STEERINGS = {
    "attention_steering": "attention steering (the question emphasised)",
    "activation_steering": "activation steering (right minus wrong texts)",
}
SOLVED = at(Source("rivals/accuracy"), condition="baseline")
GAIN = at(Source("rivals/summary", scale=POINTS), condition="both")
GAIN_IN_LOSS = at(Source("rivals/losses", {"outcome": "loss"}, MILLI), condition="both")
GREEDY_GAIN = at(CONTRASTS, contrast="StepFlow - none")
"""Of the answers that are held against longer ones."""


def votes(source: str | Source, temperature: str, only: tuple[str, ...] = ()) -> list[Reading]:
    """StepFlow or none, the same votes; and against twice as many without."""
    gains = {
        k: at(source, method="vote", k=k, condition="both", question="same way") for k in (2, 4, 8)
    }
    same = [
        Reading(
            VOTES_CLAIM,
            f"vote of {k} at temperature {temperature}, StepFlow - none",
            "accuracy",
            gain,
            margin=BOTH_GAIN,
            only=only,
        )
        for k, gain in gains.items()
    ]
    twice = [
        against_rival(
            TWICE_CLAIM,
            f"vote of {k} with StepFlow - vote of {2 * k} without, temperature {temperature}",
            at(
                CONTRASTS,
                contrast=f"vote of {k} with StepFlow - vote of {2 * k}, temperature {temperature}",
            ),
            gain=gains[k],
            only=only,
        )
        for k in (2, 4)
    ]
    return same + twice


RIVAL_OF_WAIT = against_rival(
    COMPUTE_CLAIM,
    "StepFlow - 'Wait' (budget forcing) at 1.35 times the tokens",
    at(CONTRASTS, contrast="StepFlow - 'Wait'"),
    gain=GREEDY_GAIN,
)
COMPUTE = (
    *votes("decoding", "1", only=("reasoner",)),
    *votes(COLDER, "0.6"),
    replace(RIVAL_OF_WAIT, untestable=f"{NO_LANGUAGE}: 'Wait' is four letters"),
    against_rival(
        COMPUTE_CLAIM,
        "StepFlow - answers of up to 1.35 times the length",
        at(CONTRASTS, contrast="StepFlow - 1.35 times as long"),
        gain=GREEDY_GAIN,
    ),
    against_rival(
        TWICE_CLAIM,
        "StepFlow - answers of up to twice the length",
        at(CONTRASTS, contrast="StepFlow - longer"),
        gain=GREEDY_GAIN,
    ),
)
_STEERED = tuple(
    against_rival(
        RIVAL_CLAIM,
        f"StepFlow - {text}",
        at(Source("rivals/rivals", scale=POINTS), condition="both", reference=name),
        floor=SOLVED,
        gain=GAIN,
    )
    for name, text in STEERINGS.items()
)
RIVALS = (
    *(
        Reading(RIVAL_CLAIM, f"StepFlow - {text}", "accuracy", untestable=NO_LANGUAGE)
        for name, text in WORDS.items()
        if name != "budget_forcing"
    ),
    *_STEERED,
)
RIVALS_OF_LANGUAGE = (
    *(
        against_rival(
            RIVAL_CLAIM,
            f"StepFlow - {text}",
            at(Source("rivals/rivals", scale=POINTS), condition="both", reference=name),
            floor=SOLVED,
            gain=GAIN,
        )
        for name, text in WORDS.items()
    ),
    *_STEERED,
    *(
        Reading(
            RIVAL_CLAIM,
            f"loss of worked solutions, StepFlow - {text}",
            "loss",
            at(
                Source("rivals/loss_rivals", scale=1000),
                outcome="loss",
                condition="both",
                reference=name,
            ),
            sign=-1,
            control="the rival itself",
            left=at(
                Source("rivals/loss_rivals", scale=1000),
                outcome="loss",
                condition="both",
                reference=name,
            ),
            matched=True,
            gain=GAIN_IN_LOSS,
            unit="millinats",
        )
        for name, text in STEERINGS.items()
    ),
)
