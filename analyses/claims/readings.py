"""The paper's claims, and for each the rows of tables that speak for or against it, by model.

A `Reading` names a row of a results table and, as its control, another; how large an effect has to
be (``margin``, in the unit of the estimate), which sign the claim has, and whether the control is
matched. Accuracies are in points. The margins of gains over no edit are the smallest that the
paper reports (GPT-OSS-20B: OEB 1.5, SMI 2.0; all models and sets: both together 0.8). Where one way
is said to be better than another (both halves than their sum, a quarter of the layers than a third,
hard problems than easy ones, StepFlow than a rival) the margin is 0: any difference bears the claim
out, and to rule out one as large as a whole gain rules out little.
"""

from dataclasses import replace

from analyses.claims.models import MODELS
from analyses.claims.of_answers import (
    BANDS,
    BOTH,
    DIFFICULT,
    ERRORS,
    OEB,
    SMI,
    STRENGTHS,
)
from analyses.claims.of_compute import COMPUTE, RIVALS
from analyses.claims.of_language import LANGUAGE
from analyses.claims.of_maps import AGGREGATES, CAUSES, CUT_EDGES, DECAY, LOCK_IN, SUMMARY_LOOKS
from analyses.claims.of_reasoning import REASONING
from analyses.claims.reading import Reading

BUNDLED = (
    *LOCK_IN,
    *CAUSES,
    *DECAY,
    *SUMMARY_LOOKS,
    *CUT_EDGES,
    *OEB,
    *SMI,
    *BOTH,
    *BANDS,
    *DIFFICULT,
    *STRENGTHS,
    *ERRORS,
    *COMPUTE,
    *AGGREGATES,
    *RIVALS,
)


OF_KIND = {"bundled": BUNDLED, "language": LANGUAGE, "reasoning": REASONING}


def readings_of(name: str) -> tuple[Reading, ...]:
    """What is read of a model."""
    some = OF_KIND[MODELS[name].kind]
    mine = [reading for reading in some if not reading.only or name in reading.only]
    return tuple(replace(reading, model=name) for reading in mine)


READINGS = tuple(reading for name in MODELS for reading in readings_of(name))
