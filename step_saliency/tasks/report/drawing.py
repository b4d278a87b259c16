"""Random reports, see `step_saliency.tasks.report.graph`."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

from step_saliency.tasks.graph import (
    MAX_TRIES,
    Premise,
    Split,
    apply,
    draw_distractors,
    evaluate,
    fitting_operators,
)
from step_saliency.tasks.notation import NAMES
from step_saliency.tasks.report.dials import ReportDifficulty
from step_saliency.tasks.report.graph import THINGS, TOTAL, ReportGraph, Term


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
