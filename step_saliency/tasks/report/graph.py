"""Random reports: what is to be found, in what order, and what of it is added up at the end.

A report has premises (``Ned's figs are 35``, ``Val's nuts are Ned's figs + 12``), names to find in
a given order, and terms: the first ``n_values`` of the names found, shuffled and signed. The
thinking goes through the names to find in post-order, left operand first; the summary restates the
terms in their order with the running total. What is found after the last term lies between the
values and the summary: it is the ``distance``.

Every name is a person and a thing, drawn from a small table, so that each shares its person with
some others and its thing with some: only both together tell which value is meant.

Every number (premises, values, running totals) has at most ``digits`` digits.

Training, development and test problems are told apart by a hash of the needed computation with
names replaced by their rank in the order of solution, as for the other families.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from types import MappingProxyType
from typing import Literal

from step_saliency.tasks.graph import (
    MAX_TRIES,
    Difficulty,
    Graph,
    Operator,
    Premise,
    Split,
    apply,
    draw_distractors,
    evaluate,
    fitting_operators,
    hashed_share,
)
from step_saliency.tasks.notation import NAMES

THINGS = ("figs", "nuts", "pens", "cups", "keys", "hats", "bags", "toys")
TOTAL = "the total"
MAX_NAMES = 48
TEST_SHARE, DEV_SHARE = 0.125, 0.0625


@dataclass(frozen=True)
class ReportDifficulty(Difficulty):
    """The dials of a report.

    Attributes:
        n_steps: Thinking steps of the canonical solution.
        n_distractors: Premises that nothing to be found rests on.
        digits: Most digits of any number in the problem, 1 to 4.
        distance: Thinking steps after the last one whose value the summary restates; None is 0.
        n_values: Values that the summary restates.
    """

    n_values: int = 3

    def __post_init__(self) -> None:
        if self.n_values < 1:
            raise ValueError(f"n_values={self.n_values}: a report restates at least 1 value")
        if self.n_distractors < 0:
            raise ValueError(f"n_distractors={self.n_distractors}: must be 0 or more")
        if self.n_steps + self.n_distractors > MAX_NAMES:
            raise ValueError(
                f"n_steps={self.n_steps} + n_distractors={self.n_distractors} exceed {MAX_NAMES}"
            )
        if not 1 <= self.digits <= 4:
            raise ValueError(f"digits={self.digits}: must be 1 to 4")
        if not 0 <= self.gap <= self.n_steps - self.n_values:
            raise ValueError(
                f"distance={self.distance}: must be 0 to n_steps - n_values = "
                f"{self.n_steps - self.n_values}"
            )

    @property
    def gap(self) -> int:
        """The distance as a number."""
        return self.distance or 0


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
    """

    found: tuple[str, ...] = ()
    terms: tuple[Term, ...] = ()

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


class _Growth:
    """Premises drawn one after the other, in the order in which the solution takes them."""

    def __init__(self, rng: random.Random, names: Sequence[str], limit: int) -> None:
        self.rng, self.names, self.limit = rng, names, limit
        self.premises: list[Premise] = []
        self.values: dict[str, int] = {}

    def grow(self, size: int) -> str:
        """Draw ``size`` premises that rest under the last, whose name is returned.

        Values found before may be used again, but none of a branch by its own root: that would
        change the order of solution.
        """
        known = list(self.values)
        if size == 1:
            if known and self.rng.random() < 0.45:
                return self._compute(self.rng.choice(known), self._other(known))
            return self._take(Premise(self._name(), self.rng.randint(1, self.limit)))
        if size >= 3 and self.rng.random() < 0.6:
            left = self.rng.randint(1, size - 2)
            return self._compute(self.grow(left), self.grow(size - 1 - left))
        child, other = self.grow(size - 1), self._other(known)
        if isinstance(other, str) and self.rng.random() < 0.5:
            return self._compute(other, child)
        return self._compute(child, other)

    def _name(self) -> str:
        return self.names[len(self.premises)]

    def _other(self, known: Sequence[str]) -> str | int:
        if known and self.rng.random() < 0.3:
            return self.rng.choice(known)
        return self.rng.randint(1, self.limit)

    def _compute(self, left: str, right: str | int) -> str:
        number = self.values[right] if isinstance(right, str) else right
        fitting = fitting_operators(self.values[left], number, self.limit, same=left == right)
        if not fitting:
            return self._compute(left, self.rng.randint(1, self.limit))
        return self._take(Premise(self._name(), left, self.rng.choice(fitting), right))

    def _take(self, premise: Premise) -> str:
        self.premises.append(premise)
        self.values[premise.name] = evaluate(premise, self.values)
        return premise.name


def _draw_names(rng: random.Random, n: int) -> list[str]:
    """Names that share persons and things as much as ``n`` of them allow, and a little less."""
    things = rng.sample(THINGS, rng.randint(3, 6))
    persons = rng.sample(NAMES, min(len(NAMES), n // len(things) + 2))
    return rng.sample([f"{person}'s {thing}" for person in persons for thing in things], n)


def _parts(rng: random.Random, total: int, n: int) -> list[int]:
    """``n`` sizes from 1 that sum to ``total``, all divisions alike."""
    cuts = [0, *sorted(rng.sample(range(1, total), n - 1)), total]
    return [stop - start for start, stop in pairwise(cuts)]


def _draw_terms(
    rng: random.Random, names: Sequence[str], values: Mapping[str, int], limit: int
) -> tuple[Term, ...]:
    """The names in random order, with signs that keep every running total within the limit."""
    shuffled = rng.sample(names, len(names))
    terms, total = [Term("+", shuffled[0])], values[shuffled[0]]
    for name in shuffled[1:]:
        op = rng.choice(fitting_operators(total, values[name], limit))
        terms.append(Term(op, name))
        total = apply(op, total, values[name])
    return tuple(terms)


def draw_report(rng: random.Random, difficulty: ReportDifficulty, split: Split) -> ReportGraph:
    """One random report of the given difficulty and split.

    Raises:
        ValueError: If none turned up in 2,000 tries (so few possible problems that the split has
            none).
    """
    limit = 10**difficulty.digits - 1
    n_values, gap = difficulty.n_values, difficulty.gap
    for _ in range(MAX_TRIES):
        names = _draw_names(rng, difficulty.n_steps + difficulty.n_distractors)
        growth = _Growth(rng, names, limit)
        sizes = _parts(rng, difficulty.n_steps - gap, n_values)
        sizes += _parts(rng, gap, rng.randint(1 + (gap - 1) // 4, gap)) if gap else []
        found = tuple(growth.grow(size) for size in sizes)
        terms = _draw_terms(rng, found[:n_values], growth.values, limit)
        graph = ReportGraph(tuple(growth.premises), TOTAL, found, terms)
        if graph.split != split:
            continue
        others = draw_distractors(rng, names[difficulty.n_steps :], growth.values, limit)
        premises = growth.premises + others
        rng.shuffle(premises)
        return ReportGraph(tuple(premises), TOTAL, found, terms)
    raise ValueError(f"no problem of split {split!r} with {difficulty} in {MAX_TRIES} tries")


REPORT_LEVELS: Mapping[Literal["easy", "medium", "hard"], ReportDifficulty] = MappingProxyType(
    {
        "easy": ReportDifficulty(n_steps=5, n_distractors=2, distance=1, n_values=2),
        "medium": ReportDifficulty(n_steps=12, n_distractors=4, distance=2, n_values=5),
        "hard": ReportDifficulty(n_steps=20, n_distractors=8, distance=4, n_values=8),
    }
)
"""Dials of the named levels, set on development problems by what the bundled reporter can do."""
