"""Random reports: what is to be found, in what order, and what of it is added up at the end.

A report has premises (``Ned's figs are 35``, ``Val's nuts are Ned's figs + 12``), names to find in
a given order, and terms: the first ``n_values`` of the names found, shuffled and signed, some more
than once where there are more terms than values. The thinking goes through the names to find in
post-order, left operand first; the summary restates the terms in their order with the running
total. What is found after the last of them lies between the values and the summary: the
``distance``.

The question of a ``planned`` report lists every name on the way, in order of solution, so that what
can go wrong is reading, recalling and computing; otherwise it lists the names to find alone.

That of a ``gathered`` report names no terms, only a thing (``everyone's figs``): the summary has to
gather from the thinking all values of that thing, in the order in which they were found.

Every name is a person and a thing, drawn from a small table, so that each shares its person with
some others and its thing with some: only both together tell which value is meant.

Every number (premises, values, running totals) has at most ``digits`` digits.

Training, development and test problems are told apart by a hash of the needed computation with
names replaced by their rank in the order of solution, as for the other families.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from step_saliency.tasks.graph import Graph, Operator, Split, apply, evaluate, hashed_share

THINGS = ("figs", "nuts", "pens", "cups", "keys", "hats", "bags", "toys")
TOTAL = "the total"
TEST_SHARE, DEV_SHARE = 0.125, 0.0625


@dataclass(frozen=True)
class Term:
    """A value that the summary restates and adds to its total, or takes from it."""

    op: Operator
    name: str


@dataclass(frozen=True)
class ReportGraph(Graph):
    """Premises as the question lists them, what is to be found, and what is added up.

    ``target`` is `TOTAL`, which `values` has beside the needed names.

    Attributes:
        found: Names to find, in order.
        terms: What the summary adds up, in order.
        planned: Whether the question lists every step to take.
        gathered: Whether it names the thing of the terms in place of the terms.
    """

    found: tuple[str, ...] = ()
    terms: tuple[Term, ...] = ()
    planned: bool = True
    gathered: bool = False

    @cached_property
    def order(self) -> tuple[str, ...]:
        """Needed names in the canonical order of solution."""
        order: dict[str, None] = {}
        for name in self.found:
            self.visit(name, order)
        return tuple(order)

    @cached_property
    def values(self) -> dict[str, int]:
        """Value of every needed name, in order of solution, and last the total."""
        values: dict[str, int] = {}
        for name in self.order:
            values[name] = evaluate(self[name], values)
        values[TOTAL] = sum(apply(term.op, 0, values[term.name]) for term in self.terms)
        return values

    @property
    def distance(self) -> int:
        """Thinking steps after the last one whose value the summary restates."""
        last = max(self.order.index(term.name) for term in self.terms)
        return len(self.order) - 1 - last

    @property
    def split(self) -> Split:
        """The split that this computation belongs to, whatever its names and distractors."""
        rank = {name: f"v{i}" for i, name in enumerate(self.order)}
        found = ",".join(rank[name] for name in self.found)
        terms = "".join(term.op + rank[term.name] for term in self.terms)
        share = hashed_share([*self.canonical_lines(rank), found, terms])
        if share < TEST_SHARE:
            return "test"
        return "dev" if share < TEST_SHARE + DEV_SHARE else "train"
