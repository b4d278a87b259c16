"""What can be chosen: a pair of bands with a strength of each, and the grid of all of them."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from step_saliency.intervene.oeb import OddsEqualBridge
from step_saliency.intervene.smi import StepMomentumInjection
from step_saliency.intervene.stepflow import StepFlow
from step_saliency.models.bands import Bands

DEFAULT_TAU, DEFAULT_ALPHA = 0.15, 0.06
BASELINE = "none"


@dataclass(frozen=True)
class Candidate:
    """One choice that can be made.

    Attributes:
        bands: Name of the pair of bands.
        shallow: Layers of the odds-equal bridge; none for no bridge.
        deep: Layers of momentum injection; none for no injection.
        tau_max: Bound of the bridge's mass; 0 without a bridge.
        alpha: Strength of momentum; 0 without injection.
    """

    bands: str
    shallow: tuple[int, ...]
    deep: tuple[int, ...]
    tau_max: float
    alpha: float

    @property
    def flow(self) -> StepFlow | None:
        """The intervention; None where nothing is left of it."""
        oeb = smi = None
        if self.shallow and self.tau_max:
            oeb = OddsEqualBridge(self.shallow, tau_max=self.tau_max)
        if self.deep and self.alpha:
            smi = StepMomentumInjection(self.deep, alpha=self.alpha)
        return None if oeb is None and smi is None else StepFlow(oeb=oeb, smi=smi)

    @property
    def effect(self) -> tuple[tuple[int, ...], tuple[int, ...], float, float]:
        """Layers and strengths: candidates with the same are one intervention under two names."""
        return self.shallow, self.deep, self.tau_max, self.alpha

    @property
    def file_name(self) -> str:
        """Name of the file of its answers."""
        digest = hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:8]
        return f"tau{self.tau_max:g}-alpha{self.alpha:g}-{digest}.jsonl"

    def columns(self) -> dict[str, Any]:
        """As columns of a table."""
        layers = {"shallow": spelled(self.shallow), "deep": spelled(self.deep)}
        return {"bands": self.bands, **layers, "tau_max": self.tau_max, "alpha": self.alpha}


NO_FLOW = Candidate(BASELINE, (), (), 0.0, 0.0)


def spelled(layers: Sequence[int]) -> str:
    """Layers in order as one run, or one by one."""
    if not layers:
        return "no layers"
    if len(layers) > 1 and list(layers) == list(range(layers[0], layers[-1] + 1)):
        return f"{layers[0]}-{layers[-1]}"
    return ", ".join(map(str, layers))


@dataclass(frozen=True)
class Grid:
    """Strengths to be tried.

    Attributes:
        taus: Of the bridge; 0 is none.
        alphas: Of momentum; 0 is none.
    """

    taus: tuple[float, ...]
    alphas: tuple[float, ...]

    def default(self, name: str, bands: Bands) -> Candidate:
        """Bands at the default strengths."""
        tau, alpha = _usual(self.taus, DEFAULT_TAU), _usual(self.alphas, DEFAULT_ALPHA)
        return _candidate(name, bands, tau, alpha)

    def of(self, name: str, bands: Bands) -> list[Candidate]:
        """Bands at all strengths, the default first."""
        strengths = [(tau, alpha) for tau in self.taus for alpha in self.alphas]
        every = [self.default(name, bands), *(_candidate(name, bands, *pair) for pair in strengths)]
        return [candidate for candidate in dict.fromkeys(every) if candidate.flow is not None]

    def of_all(self, named: Mapping[str, Bands]) -> list[Candidate]:
        """The whole grid, no intervention twice."""
        return distinct(c for name, bands in named.items() for c in self.of(name, bands))


def distinct(candidates: Iterable[Candidate]) -> list[Candidate]:
    """The first of those that are one intervention, as where bands differ in idle layers."""
    by_effect: dict[object, Candidate] = {}
    for candidate in candidates:
        by_effect.setdefault(candidate.effect, candidate)
    return list(by_effect.values())


def _usual(strengths: Sequence[float], default: float) -> float:
    return default if default in strengths else sorted(strengths)[len(strengths) // 2]


def _candidate(name: str, bands: Bands, tau: float, alpha: float) -> Candidate:
    """Without layers no strength, and without strength no layers."""
    shallow, deep = (bands.shallow if tau else ()), (bands.deep if alpha else ())
    return Candidate(name, shallow, deep, tau if shallow else 0.0, alpha if deep else 0.0)
