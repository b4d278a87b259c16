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

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
        n_terms: Sentences that restate one; more than ``n_values`` restate some again, and None is
            as many.
        planned: Whether the question lists every step to take.
        gathered: Whether the summary has to gather the values itself, by what they are of.
    """

    n_values: int = 3
    n_terms: int | None = None
    planned: bool = True
    gathered: bool = False

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

        if self.n_terms is not None and (
            self.n_terms < self.n_values
            or (self.n_terms > self.n_values and (self.n_values == 1 or self.gathered))
        ):
            raise ValueError(
                f"n_terms={self.n_terms}: must be n_values = {self.n_values}, or more where there "
                "are several values that are not gathered"
            )

    @property
    def gap(self) -> int:
        """The distance as a number."""
        return self.distance or 0

    @property
    def n_repeats(self) -> int:
        """Sentences that restate a value again."""
        return 0 if self.n_terms is None else self.n_terms - self.n_values


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
    rng: random.Random,
    names: Sequence[str],
    values: Mapping[str, int],
    limit: int,
    n_repeats: int = 0,
) -> tuple[Term, ...]:
    """The names in random order, none twice in a row, with signs that keep to the limit."""
    while True:
        repeated = [*names, *rng.choices(names, k=n_repeats)] if n_repeats else names
        shuffled = rng.sample(repeated, len(repeated))
        if all(name != following for name, following in pairwise(shuffled)):
            break
    terms, total = [Term("+", shuffled[0])], values[shuffled[0]]
    for name in shuffled[1:]:
        op = rng.choice(fitting_operators(total, values[name], limit))
        terms.append(Term(op, name))
        total = apply(op, total, values[name])
    return tuple(terms)


def _draw_gathered(rng: random.Random, dials: ReportDifficulty) -> tuple[list[str], list[int]]:
    """Names in the order of the steps and then of the distractors, and which steps are gathered.

    The last of these stands right before the gap. Nothing else is of their thing.
    """
    thing, *others = rng.sample(THINGS, rng.randint(4, 7))
    n_others = dials.n_steps + dials.n_distractors - dials.n_values
    n_persons = max(dials.n_values, n_others // len(others) + 2)
    persons = rng.sample(NAMES, min(len(NAMES), n_persons))
    names = rng.sample([f"{person}'s {other}" for person in persons for other in others], n_others)
    last = dials.n_steps - dials.gap - 1
    places = [*sorted(rng.sample(range(last), dials.n_values - 1)), last]
    for place, person in zip(places, rng.sample(persons, dials.n_values), strict=True):
        names.insert(place, f"{person}'s {thing}")
    return names, places


def _draw_once(
    rng: random.Random, dials: ReportDifficulty, limit: int
) -> tuple[ReportGraph, _Growth]:
    """A report whose question has no distractors yet, and is in order of solution."""
    n_values, gap = dials.n_values, dials.gap
    names, places = (
        _draw_gathered(rng, dials)
        if dials.gathered
        else (_draw_names(rng, dials.n_steps + dials.n_distractors), [])
    )
    growth = _Growth(rng, names, limit)
    sizes = _parts(rng, dials.n_steps - gap, n_values)
    sizes += _parts(rng, gap, rng.randint(1 + (gap - 1) // 4, gap)) if gap else []
    found = tuple(growth.grow(size) for size in sizes)
    terms = (
        tuple(Term("+", names[place]) for place in places)
        if dials.gathered
        else _draw_terms(rng, found[:n_values], growth.values, limit, dials.n_repeats)
    )
    premises = tuple(growth.premises)
    return ReportGraph(premises, TOTAL, found, terms, dials.planned, dials.gathered), growth


def draw_report(rng: random.Random, difficulty: ReportDifficulty, split: Split) -> ReportGraph:
    """One random report of the given difficulty and split.

    Raises:
        ValueError: If none turned up in 2,000 tries (so few possible problems that the split has
            none).
    """
    limit = 10**difficulty.digits - 1
    for _ in range(MAX_TRIES):
        graph, growth = _draw_once(rng, difficulty, limit)
        if graph.split != split:
            continue
        unused = growth.names[difficulty.n_steps :]
        premises = [*graph.premises, *draw_distractors(rng, unused, growth.values, limit)]
        rng.shuffle(premises)
        return replace(graph, premises=tuple(premises))
    raise ValueError(f"no problem of split {split!r} with {difficulty} in {MAX_TRIES} tries")


REPORT_LEVELS: Mapping[Literal["easy", "medium", "hard"], ReportDifficulty] = MappingProxyType(
    {
        "easy": ReportDifficulty(n_steps=4, n_distractors=1, distance=0, n_values=2, n_terms=3),
        "medium": ReportDifficulty(n_steps=6, n_distractors=2, distance=1, n_values=3, n_terms=5),
        "hard": ReportDifficulty(n_steps=8, n_distractors=3, distance=1, n_values=4, n_terms=6),
    }
)
"""Dials of the named levels, set on development problems by what the bundled reporter can do."""
