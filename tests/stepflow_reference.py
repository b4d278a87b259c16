"""OEB and SMI once more, written out in loops over plain numbers in float64.

Shares nothing with the package: attention rows, groups, momentum and the steps of a trace are
spelled out here, from the equations and from the definitions of regions and steps.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

OTHER, CURRENT, BRIDGE = 0, 1, 2
Region = str


@dataclass(frozen=True)
class Steps:
    """First position and region of each step, and the number of positions."""

    starts: Sequence[int]
    regions: Sequence[Region]
    length: int

    def of(self, position: int) -> int:
        """Step that a position is in."""
        found = 0
        for step, start in enumerate(self.starts):
            if start <= position:
                found = step
        return found

    def region(self, position: int) -> Region:
        """Region that a position is in."""
        return self.regions[self.of(position)]

    def positions(self, step: int) -> list[int]:
        """Positions of a step."""
        return [t for t in range(self.length) if self.of(t) == step]

    def before(self, step: int) -> int | None:
        """The last step before that is no template."""
        found = None
        for earlier in range(step):
            if self.regions[earlier] != "template":
                found = earlier
        return found


def loop_floor(n_bridge: int, n_current: int, tau_max: float) -> float:
    """tau_B."""
    if n_bridge + n_current == 0:
        return 0.0
    return min(math.sqrt(n_bridge / (n_bridge + n_current)), tau_max)


def loop_groups(steps: Steps, query: int) -> list[int]:
    """Group of each key up to the query."""
    groups = []
    region = steps.region(query)
    wanted = {"thinking": "question", "summary": "thinking"}.get(region)
    for key in range(query + 1):
        if wanted is None:
            groups.append(OTHER)
        elif steps.region(key) == region:
            groups.append(CURRENT)
        elif steps.region(key) == wanted:
            groups.append(BRIDGE)
        else:
            groups.append(OTHER)
    return groups


def loop_bridge(
    scores: Sequence[float], groups: Sequence[int], tau_max: float, *, sink: float | None = None
) -> list[float]:
    """Scores of one row after the bridge. Masked keys have score -inf."""
    total = sum(math.exp(score) for score in scores)
    if sink is not None:
        total += math.exp(sink)
    mass = {OTHER: 0.0, CURRENT: 0.0, BRIDGE: 0.0}
    count = {OTHER: 0, CURRENT: 0, BRIDGE: 0}
    for score, group in zip(scores, groups, strict=True):
        if score > -math.inf:
            mass[group] += math.exp(score) / total
            count[group] += 1
    if count[BRIDGE] == 0 or count[CURRENT] == 0:
        return list(scores)
    mass[OTHER] = 1.0 - mass[BRIDGE] - mass[CURRENT]
    tau = loop_floor(count[BRIDGE], count[CURRENT], tau_max)
    if mass[BRIDGE] >= tau:
        return list(scores)
    if tau >= 1.0 - mass[OTHER]:
        tau = (1.0 - mass[OTHER]) / 2
        if mass[BRIDGE] >= tau:
            return list(scores)
    shift = {
        OTHER: 0.0,
        BRIDGE: math.log(tau / mass[BRIDGE]),
        CURRENT: math.log((1.0 - mass[OTHER] - tau) / mass[CURRENT]),
    }
    return [score + shift[group] for score, group in zip(scores, groups, strict=True)]


def loop_injections(steps: Steps) -> dict[int, list[int]]:
    """Positions that get momentum, and the positions that it is the mean over."""
    injections = {}
    for step, start in enumerate(steps.starts):
        if steps.regions[step] not in ("thinking", "summary"):
            continue
        previous = steps.before(step)
        if previous is not None:
            injections[start] = steps.positions(previous)
    return injections


def loop_mean(vectors: torch.Tensor, positions: Sequence[int]) -> list[float]:
    """Mean of some rows of a matrix."""
    total = [0.0] * vectors.shape[1]
    for position in positions:
        for i in range(vectors.shape[1]):
            total[i] += float(vectors[position, i])
    return [x / len(positions) for x in total]
