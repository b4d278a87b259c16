"""Summaries of reports broken on purpose: one value recalled wrongly, and what follows from it."""

import random

from step_saliency.tasks.corruption import other_number
from step_saliency.tasks.report.graph import ReportGraph
from step_saliency.tasks.report.notation import write_summary


def broken_summary(graph: ReportGraph, rng: random.Random) -> tuple[str, int]:
    """The summary with the value of one sentence wrong, and the number of that sentence."""
    place = rng.randrange(len(graph.terms))
    numbers = [graph.values[term.name] for term in graph.terms]
    numbers[place] = other_number(numbers[place], rng)
    return write_summary(graph, numbers), place
