"""Random computation graphs: which premises a question has, and in what order they must be used.

A graph is a set of premises (``i = 35``, ``q = i - 70``, ``p = q + q``), one of which is asked
for. The premises that the target rests on are *needed*; all others are distractors. The order of
solution is the depth-first post-order from the target, left operand first, so that every question
has exactly one canonical solution although any order that computes values before their use is a
right one.

Every number in a problem (premises, intermediate values, answer) has at most ``digits`` digits.

Training and test problems are told apart by a hash of the needed premises with variables renamed in
order of solution. The hash does not see names, shuffling, distractors or notation, so a computation
of the test split never occurs in training in any guise.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

Operator = Literal["+", "-"]
Split = Literal["train", "dev", "test"]

ALPHABET = "abcdefghijklmnopqrstuvwxyz"
TEST_SHARE = 0.125
MAX_TRIES = 2000


@dataclass(frozen=True)
class Difficulty:
    """The dials of a problem.

    Attributes:
        n_steps: Needed premises, which is the number of thinking steps of the canonical solution.
        n_distractors: Premises that the answer does not rest on.
        digits: Most digits of any number in the problem, 1 to 4.
        distance: Steps from the computation of a value to its farthest use, in the canonical
            solution (1: every value is used by the next step); None leaves it to chance.
    """

    n_steps: int
    n_distractors: int
    digits: int = 2
    distance: int | None = None

    def __post_init__(self) -> None:
        if self.n_steps < 1:
            raise ValueError(f"n_steps={self.n_steps}: a problem needs at least 1 step")
        if self.n_distractors < 0:
            raise ValueError(f"n_distractors={self.n_distractors}: must be 0 or more")
        if self.n_steps + self.n_distractors > len(ALPHABET):
            raise ValueError(
                f"n_steps={self.n_steps} + n_distractors={self.n_distractors} exceed the "
                f"{len(ALPHABET)} names there are"
            )
        if not 1 <= self.digits <= 4:
            raise ValueError(f"digits={self.digits}: must be 1 to 4")
        if self.distance is not None and not 1 <= self.distance < max(self.n_steps, 2):
            raise ValueError(
                f"distance={self.distance}: must be 1 to n_steps - 1 = {self.n_steps - 1}"
            )


@dataclass(frozen=True)
class Premise:
    """``name = left`` (a given number) or ``name = left op right``, operands numbers or names."""

    name: str
    left: str | int
    op: Operator | None = None
    right: str | int | None = None

    @property
    def variables(self) -> tuple[str, ...]:
        """Names that the right-hand side uses, in order, each once."""
        names = [operand for operand in (self.left, self.right) if isinstance(operand, str)]
        return tuple(dict.fromkeys(names))


def apply(op: Operator, left: int, right: int) -> int:
    return left + right if op == "+" else left - right


def evaluate(premise: Premise, values: Mapping[str, int]) -> int:
    """Value of a premise's right-hand side, given the values of the names in it."""
    left = values[premise.left] if isinstance(premise.left, str) else premise.left
    if premise.op is None or premise.right is None:
        return left
    right = values[premise.right] if isinstance(premise.right, str) else premise.right
    return apply(premise.op, left, right)


@dataclass(frozen=True)
class Graph:
    """Premises in the order in which the question lists them, and the name asked for."""

    premises: tuple[Premise, ...]
    target: str

    @cached_property
    def index(self) -> dict[str, int]:
        """Position in the question of the premise that defines each name."""
        return {premise.name: i for i, premise in enumerate(self.premises)}

    @cached_property
    def order(self) -> tuple[str, ...]:
        """Needed names in the canonical order of solution: post-order, left operand first."""
        order: dict[str, None] = {}
        self.visit(self.target, order)
        return tuple(order)

    def visit(self, name: str, order: dict[str, None]) -> None:
        """Add what ``name`` rests on, and then the name, to an order that lacks them."""
        if name in order:
            return
        for operand in self[name].variables:
            self.visit(operand, order)
        order[name] = None

    @cached_property
    def values(self) -> dict[str, int]:
        """Value of every needed name, in order of solution."""
        values: dict[str, int] = {}
        for name in self.order:
            values[name] = evaluate(self.premises[self.index[name]], values)
        return values

    @property
    def distance(self) -> int:
        """Most steps between a value and its use in the canonical solution."""
        return max((gap for gap in _gaps([self[name] for name in self.order])), default=0)

    def __getitem__(self, name: str) -> Premise:
        return self.premises[self.index[name]]

    @property
    def split(self) -> Split:
        """The split that this computation belongs to, whatever its names and distractors."""
        rank = {name: f"v{i}" for i, name in enumerate(self.order)}
        return "test" if hashed_share(self.canonical_lines(rank)) < TEST_SHARE else "train"

    def canonical_lines(self, rank: Mapping[str, str]) -> list[str]:
        """The needed premises in order of solution, each name replaced by its rank."""
        return [
            f"{rank.get(str(p.left), p.left)}{p.op or ''}{rank.get(str(p.right), p.right)}"
            for p in map(self.__getitem__, self.order)
        ]


def hashed_share(lines: Sequence[str]) -> float:
    """A number from 0 to 1 that depends on the lines alone, uniform over many of them."""
    digest = hashlib.blake2b(";".join(lines).encode(), digest_size=8).digest()
    return (int.from_bytes(digest) >> 11) / 2**53


def _gaps(steps: Sequence[Premise]) -> list[int]:
    position = {premise.name: i for i, premise in enumerate(steps)}
    return [i - position[name] for i, p in enumerate(steps) for name in p.variables]


def fitting_operators(left: int, right: int, limit: int, *, same: bool = False) -> list[Operator]:
    """Operators whose result is within the limit; a name is not taken from itself (``same``)."""
    operators: tuple[Operator, ...] = ("+", "-")
    return [
        op for op in operators if abs(apply(op, left, right)) <= limit and not (op == "-" and same)
    ]


def _draw_operation(
    rng: random.Random,
    name: str,
    left: str,
    right: str | None,
    values: Mapping[str, int],
    limit: int,
) -> Premise:
    """``left`` with another name or, where ``right`` is None, with a number; value within limit."""
    while True:
        operand = rng.randint(1, limit) if right is None else right
        number = values[operand] if isinstance(operand, str) else operand
        fitting = fitting_operators(values[left], number, limit, same=left == right)
        if fitting:
            return Premise(name, left, rng.choice(fitting), operand)
        right = None


def _draw_needed(
    rng: random.Random, names: Sequence[str], limit: int
) -> tuple[list[Premise], dict[str, int]]:
    """Premises of which all rest under the last: unused values stay few enough to be merged."""
    premises: list[Premise] = []
    values: dict[str, int] = {}
    unused: list[str] = []
    for i, name in enumerate(names):
        left_over = len(names) - i - 1
        kinds = ["given"] * 2 if len(unused) < left_over or i == 0 else []
        if unused and len(unused) - 1 <= left_over:
            kinds += ["number"] * 3 + ["reuse"]
        if len(unused) >= 2:
            kinds += ["merge"] * 3
        kind = rng.choice(kinds)
        if kind == "given":
            premise = Premise(name, rng.randint(1, limit))
        else:
            left = rng.choice(unused)
            unused.remove(left)
            right: str | None = None
            if kind == "merge":
                right = rng.choice(unused)
            elif kind == "reuse":
                right = rng.choice(list(values))
            pair = [left, right] if right is not None and rng.random() < 0.5 else [right, left]
            first, second = (left, None) if right is None else (str(pair[0]), str(pair[1]))
            premise = _draw_operation(rng, name, first, second, values, limit)
            if kind == "merge":
                if premise.right != second:
                    return _draw_needed(rng, names, limit)
                unused.remove(str(right))
            elif left not in premise.variables:
                return _draw_needed(rng, names, limit)
        premises.append(premise)
        values[name] = evaluate(premise, values)
        unused.append(name)
    return premises, values


def draw_distractors(
    rng: random.Random, names: Sequence[str], values: Mapping[str, int], limit: int
) -> list[Premise]:
    """Premises of other names, on given numbers and on each other and the needed ones."""
    premises: list[Premise] = []
    known = dict(values)
    for name in names:
        if rng.random() < 0.3:
            premise = Premise(name, rng.randint(1, limit))
        else:
            left = rng.choice(list(known))
            right = rng.choice(list(known)) if rng.random() < 0.5 else None
            premise = _draw_operation(rng, name, left, right, known, limit)
        premises.append(premise)
        known[name] = evaluate(premise, known)
    return premises


def draw_graph(rng: random.Random, difficulty: Difficulty, split: Split) -> Graph:
    """One random graph of the given difficulty and split.

    Raises:
        ValueError: If no such graph turned up in 2,000 tries (dials that contradict each other, or
            so few possible problems that the split has none).
    """
    limit = 10**difficulty.digits - 1
    for _ in range(MAX_TRIES):
        names = rng.sample(ALPHABET, difficulty.n_steps + difficulty.n_distractors)
        needed, values = _draw_needed(rng, names[: difficulty.n_steps], limit)
        graph = Graph(tuple(needed), needed[-1].name)
        if difficulty.distance is not None and graph.distance != difficulty.distance:
            continue
        if graph.split != split:
            continue
        distractors = draw_distractors(rng, names[difficulty.n_steps :], values, limit)
        premises = needed + distractors
        rng.shuffle(premises)
        return Graph(tuple(premises), graph.target)
    raise ValueError(f"no problem of split {split!r} with {difficulty} in {MAX_TRIES} tries")
