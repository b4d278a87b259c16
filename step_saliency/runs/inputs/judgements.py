"""Several judgements of one response, such as those of two metrics: which of them counts?

    they agree    what they say
    they differ   none, so that our own grade counts; a note names them

A judgement that says neither right nor wrong differs from one that does.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from step_saliency.runs.inputs.reading import Reading
from step_saliency.tasks.verdicts import verdict

_NOTES = ("the judgement in ", "the judgements of ")


class Judged(NamedTuple):
    """What was judged of a response.

    Attributes:
        stated: The judgement, as it was written; None if there is none, or none that counts.
        unjudged: Whether no judgement of the row counts, since they differ.
        notes: What was left out.
    """

    stated: Any = None
    unjudged: bool = False
    notes: tuple[str, ...] = ()


def agreed(judgements: Mapping[str, Any]) -> Judged:
    """The judgement that counts.

    Args:
        judgements: What each judge said, by name; null and NaN are nothing.
    """
    said = {name: value for name, value in judgements.items() if is_said(value)}
    if not said:
        return Judged()
    if len({verdict(value) for value in said.values()}) == 1:
        return Judged(next(iter(said.values())))
    names = " and ".join(said)
    return Judged(None, True, (f"{_NOTES[1]}{names}, where they differ",))


def of_several(judged: Judged, name: str) -> Judged:
    """That of a row whose one judgement cannot be given to any of its responses."""
    if judged == Judged():
        return judged
    return Judged(notes=(f"{_NOTES[0]}{name}, which is one for several responses",))


def judged_as(reading: Reading, judged: Judged) -> Reading:
    """A response with this judgement in place of any other."""
    notes = tuple(note for note in reading.notes if not note.startswith(_NOTES))
    stated, unjudged, left_out = judged
    return replace(reading, stated=stated, unjudged=unjudged, notes=(*notes, *left_out))


def is_said(value: Any) -> bool:
    """Whether a value says anything: a missing one, null or NaN, does not."""
    return value is not None and not (isinstance(value, float) and value != value)
