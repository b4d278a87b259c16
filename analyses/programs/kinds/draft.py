"""What a kind of problem says of one problem, and what kinds draw."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

ProgramLevel = Literal["easy", "medium"]
Arguments = list[Any]
"""Of one call, in JSON types."""
CONSONANTS = "bdfgklmnprstv"
VOWELS = "aeiou"


@dataclass(frozen=True, kw_only=True)
class Draft:
    """One problem, before it is written out.

    Attributes:
        function: Name of the function.
        arguments: Its parameters with their types.
        returns: Type of its value.
        task: What it is to do.
        body: Body of a right one, not indented.
        typical: Arguments of calls; the first two are the examples.
        edges: Arguments at which a program that is nearly right fails.
        parameters: What was drawn; each stands in ``task``.
    """

    function: str
    arguments: str
    returns: str
    task: str
    body: str
    typical: Sequence[Arguments]
    edges: Sequence[Arguments]
    parameters: Mapping[str, int | str]


@dataclass(frozen=True)
class Kind:
    """A kind of problem.

    Attributes:
        level: How hard it is meant to be.
        make: Draws one.
    """

    level: ProgramLevel
    make: Callable[[random.Random], Draft]

    @property
    def name(self) -> str:
        """Name in tables."""
        return self.make.__name__


def numbers(rng: random.Random, low: int, high: int, *, least: int = 4, most: int = 8) -> list[int]:
    """A list of whole numbers from ``low`` to ``high``."""
    return [rng.randint(low, high) for _ in range(rng.randint(least, most))]


def number_lists(
    rng: random.Random, low: int, high: int, *, least: int = 4, most: int = 8
) -> list[Arguments]:
    """Arguments of four calls with a list of numbers each."""
    return [[numbers(rng, low, high, least=least, most=most)] for _ in range(4)]


def word(rng: random.Random, length: int) -> str:
    """Letters that can be spoken."""
    sounds = [rng.choice(VOWELS if i % 2 else CONSONANTS) for i in range(length)]
    return "".join(sounds)


def words(rng: random.Random, count: int, *, least: int = 1, most: int = 9) -> list[str]:
    """Words of so many letters."""
    return [word(rng, rng.randint(least, most)) for _ in range(count)]


def names(rng: random.Random, count: int) -> list[str]:
    """Different short names."""
    some: dict[str, None] = {}
    while len(some) < count:
        some[word(rng, rng.randint(3, 5))] = None
    return list(some)
