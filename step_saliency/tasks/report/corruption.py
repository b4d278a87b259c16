"""Summaries of reports broken on purpose: one value recalled wrongly, and what follows from it."""

import random

from step_saliency.tasks.corruption import other_number
from step_saliency.tasks.report.graph import ReportGraph
from step_saliency.tasks.report.notation import write_summary


def broken_summary(graph: ReportGraph, rng: random.Random) -> tuple[str, int]:
    """The summary with the value of one sentence wrong, and the number of that sentence."""
    place = rng.randrange(len(graph.terms))
    name = graph.terms[place].name
    values = {**graph.values, name: other_number(graph.values[name], rng)}
    return write_summary(graph, values), place
