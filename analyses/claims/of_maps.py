"""Claims about maps: lock-in, decay, what the summary looks at, and what StepFlow does to them."""

from analyses.claims.reading import UNCHECKED, Kind, Reading, at
from analyses.findings.sources import POINTS, SOURCES
from analyses.findings.tables import Source

AROUND = Source("mediation_around/summary")
PLACES = ("before", "at", "after", "whole")
READINGS_OF_MAPS: tuple[Kind, ...] = ("loss", "log-odds", "attention")
WHERE = {
    "before": "rows before the first wrong step",
    "at": "the row that decides the first wrong step",
    "after": "rows after the first wrong step",
    "whole": "all rows",
}
LENGTH = "pairs of similar length"
PLANTED_DECAY = "attention held on the current step in deep layers causes summary errors"
"""What was planted is lock-in of deep layers, not the decay of a trained model."""
PLANTED = f"random keys of equal KL ({UNCHECKED})"
DOSES = Source("ablation_matched/doses")
INJECTED_KINDS = Source("mediation_injection/injection_kinds", scale=POINTS)
HAZARDS = Source("mediation_injection/injection_hazards", scale=POINTS)


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
                control_kind="design",
                balance=at(source, metric="n_tokens", control="length"),
                unit="index",
            )
        )
    return readings


def around_the_error(
    claim: str,
    index: str,
    places: tuple[str, ...],
    sign: int,
    *,
    source: Source = AROUND,
    rule: str = "",
) -> list[Reading]:
    """An index at places around the first wrong step, in three readings of one pooling."""
    by_rule = f" (first wrong step by {rule!r})" if rule else ""
    return [
        Reading(
            claim,
            f"{index}, {WHERE[place]}, error - answers that are still right there, same problem"
            f"{by_rule}",
            kind,
            at(source, reading=kind, index=index, place=place, control="risk set"),
            sign=sign,
            control="answers of other problems, same step",
            left=at(source, reading=kind, index=index, place=place, control="index"),
            matched=True,
            control_kind="design",
            unit="index",
        )
        for place in places
        for kind in READINGS_OF_MAPS
    ]


def _map_of(name: str) -> dict[str, str]:
    """Columns of a map's row, by its name among the differences: method, objective, pooling."""
    *method, pool = name.split()
    return dict(zip(("method", "objective"), method, strict=False)) | {"pool": pool}


BEFORE_THE_ERROR = SOURCES["before_the_error"]
LOCK_IN = (
    *_index_readings("shallow lock-in marks errors", "lock_in_index"),
    *around_the_error("shallow lock-in marks errors", "lock_in", PLACES, 1),
    Reading(
        "shallow lock-in marks errors",
        "lock_in_index, before the first wrong step, error - correct, same problem and step",
        "loss",
        at(BEFORE_THE_ERROR, index="lock_in_index", control="within"),
        control="other problems, matched by length",
        left=at(BEFORE_THE_ERROR, index="lock_in_index", control="matched"),
        matched=True,
        control_kind="design",
        balance=at(BEFORE_THE_ERROR, index="n_tokens", control="matched"),
        unit="index",
    ),
)
DECAY = (
    *_index_readings("deep decay marks errors", "decay_index"),
    *around_the_error("deep decay marks errors", "decay", ("whole",), 1),
    *around_the_error("deep decay marks errors", "reach", PLACES, -1),
    Reading(
        PLANTED_DECAY,
        "answers that are first wrong in the summary, lock-in of 0.5 planted in deep layers - none",
        "error rate",
        at(INJECTED_KINDS, condition="lock-in-deep-0.5", state="summary"),
        untestable="the model makes no summary error in 1,000 answers",
        only=("reasoner",),
    ),
    Reading(
        PLANTED_DECAY,
        "answers that are first wrong in the summary, lock-in of 0.5 planted in deep layers - none",
        "error rate",
        at(INJECTED_KINDS, condition="lock-in-deep-0.5", state="summary"),
        control=PLANTED,
        left=at(
            Source("mediation_injection/injection_kind_placebos", scale=POINTS),
            condition="lock-in-deep-0.5",
            reference="random-deep-0.5-kl",
            state="summary",
        ),
        matched=True,
        control_kind="placebo of harm",
        only=("reporter",),
    ),
    Reading(
        PLANTED_DECAY,
        "of answers with right thinking, those that are first wrong in the summary, lock-in of 0.5 "
        "planted in deep layers - none",
        "error rate",
        at(HAZARDS, condition="lock-in-deep-0.5", reference="baseline"),
        control=PLANTED,
        left=at(HAZARDS, condition="lock-in-deep-0.5", reference="random-deep-0.5-kl"),
        matched=True,
        control_kind="placebo of harm",
        only=("reporter",),
    ),
    Reading(
        "SMI repairs summary errors",
        "answers that are first wrong in the summary, SMI - none",
        "error rate",
        at(Source("error_kinds/changes", {"state": "summary"}, POINTS), condition="smi"),
        sign=-1,
        only=("reporter",),
    ),
)
CAUSES = tuple(
    Reading(
        "shallow lock-in causes errors" if band == "shallow" else "lock-in in deep layers harms",
        f"accuracy, lock-in of {mass:g} planted in {band} layers - none",
        "accuracy",
        at(Source("mediation_injection/injection_accuracy", scale=POINTS), condition=name),
        sign=-1,
        control=PLANTED,
        left=at(
            Source("mediation_injection/injection_placebos", scale=POINTS),
            condition=name,
            reference=f"random-{band}-{mass:g}-kl",
        ),
        matched=True,
        control_kind="placebo of harm",
    )
    for band, mass in (("shallow", 0.5), ("shallow", 0.8), ("deep", 0.5))
    for name in (f"lock-in-{band}-{mass:g}",)
)
BY_DEFINITION = "an edit of the scores moves attention in its own layers by its own definition"
_AGGREGATES = {
    "thinking_self": ("shallow", "self-intensity of the thinking", -1),
    "question_mass": ("shallow", "mass from the thinking on the question", 1),
    "summary_self": ("deep", "self-intensity of the summary", -1),
}
_PROBLEMS = {"n": "problems"}
AGGREGATES = tuple(
    Reading(
        f"StepFlow mends the pattern in {band} layers",
        f"{text}, {band} layers, StepFlow - none, the same answers",
        kind,
        at(Source("mediation_aggregates/summary"), aggregate=name, reading=kind, condition="both"),
        sign=sign,
        control="random keys and random directions of equal dose",
        left=at(
            Source("mediation_aggregates/placebos"),
            aggregate=name,
            reading=kind,
            condition="both",
        ),
        matched=True,
        untestable=BY_DEFINITION if (band, kind) == ("shallow", "attention") else "",
        groups=_PROBLEMS,
        dose=at(DOSES, condition="oeb-bridge-kl"),
        other_dose=at(DOSES, condition="smi-direction-kl"),
        unit="share",
    )
    for name, (band, text, sign) in _AGGREGATES.items()
    for kind in READINGS_OF_MAPS
)
_LEVELS = {
    "deep": (
        "the summary looks at itself and at the last steps",
        "deep layers, beyond a uniform row, which any attention to what is near exceeds",
        "",
    ),
    "difference": (
        "the summary looks at itself more in deep layers than between",
        "beyond a uniform row, deep layers - those between",
        "the layers between",
    ),
}
SUMMARY_LOOKS = tuple(
    Reading(
        claim,
        f"share of summary rows on the summary and the last two thinking steps, {where}",
        kind,
        level,
        control=control,
        left=level if control else None,
        matched=bool(control),
        groups=_PROBLEMS,
        unit="share",
    )
    for band, (claim, where, control) in _LEVELS.items()
    for kind in READINGS_OF_MAPS
    for level in (
        at(
            Source("mediation_aggregates/levels"),
            aggregate="summary_self_last",
            reading=kind,
            band=band,
        ),
    )
)
"""The first has no control: a uniform row is a yardstick, not what another attention would do."""
_MAPS_OF_CUTS: tuple[tuple[Kind, str, str], ...] = (
    ("loss", "saliency next_token mass", "attention mass"),
    ("log-odds", "saliency log_odds mass", "attention mass"),
    ("attention", "attention mass", "distance"),
)
"""A reading, its map in `analyses.faithfulness`, and a simpler one that it is held against."""
CUT_EDGES = tuple(
    Reading(
        "attention tells which edges matter"
        if kind == "attention"
        else "the map tells which edges matter",
        "rank correlation with what cutting an edge does to the step's predictions, mass pooling",
        kind,
        at("cut", measure="rho_kl", **_map_of(name)),
        control=reference.removesuffix(" mass"),
        left=at("cut_difference", measure="rho_kl", map=name, reference=reference),
        matched=True,
        only=("reasoner", "smollm2", "qwen"),
        unit="rho",
    )
    for kind, name, reference in _MAPS_OF_CUTS
)
