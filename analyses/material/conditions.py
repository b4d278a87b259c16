"""Named conditions: which intervention acts, where and how strongly, and sets of them.

A `Condition` is a row of a table: which half of StepFlow acts (``edit``), in which layers
(``bands``), how strongly (``tau_max``, ``alpha``), and what about it was made meaningless
(``placebo``). `analyses.material.flows` makes the edits of it. Bands:

    quarter, third, half    the lowest ceil(L / 4), ceil(L / 3), floor(L / 2) of the L layers for
                            the bridge, as many of the highest for momentum
    window-A                as many layers as a quarter, from layer A on, for either
    random                  as many layers as a quarter, drawn from the other layers
    automatic               `step_saliency.diagnosis.find_bands` on other problems: of another seed,
                            or rows of the file after the first n

When it misleads: conditions of a set are many, and the best of many is best in part by chance.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from analyses.running.settings import Settings, option
from step_saliency.intervene.choices import MatchName, PlaceboName
from step_saliency.intervene.placebos import random_layers
from step_saliency.models.bands import Bands
from step_saliency.models.facts import n_layers as layers_of

BASELINE = "baseline"
TAUS = (0.3, 0.6)
ALPHAS = (0.12, 0.25, 0.5, 1.0)
WEAK_TAUS = (0.05, 0.1)
WEAK_ALPHAS = (0.01, 0.03)
SETS = ("core", "methods", "matched", "draws", "strengths", "all")
N_DRAWS = 20
"""Draws of a placebo, where it is to have a distribution."""
CORE_PLACEBOS = ("oeb-bridge", "smi-boundaries")


@dataclass(frozen=True)
class Condition:
    """One way of running the model.

    Attributes:
        name: Name in tables.
        group: Comparisons that Holm's correction takes together.
        edit: ``"none"``, ``"oeb"``, ``"smi"`` or ``"both"``.
        bands: Layers, see the module docstring.
        tau_max: Of the bridge.
        alpha: Of momentum.
        placebo: Kind of placebo (`step_saliency.intervene.placebos`); None for the real thing.
        momentum_placebo: Kind of the other half, where ``placebo`` is that of the bridge.
        seed: Of random layers and placebos; column ``lot``.
        match: Of a placebo: ``"kl"`` has the dose of what it stands for, ``"mass"`` its strength
            only, and is unmatched.
    """

    name: str
    group: str = "method"
    edit: str = "none"
    bands: str = "quarter"
    tau_max: float = 0.15
    alpha: float = 0.06
    placebo: PlaceboName | None = None
    seed: int = 0
    match: MatchName | None = field(default=None, repr=False)  # the name says it too
    momentum_placebo: PlaceboName | None = field(default=None, repr=False)  # likewise

    def columns(self) -> dict[str, Any]:
        """As columns of a table; what does not apply is missing."""
        row = asdict(self)
        if self.placebo is None or self.match is None:
            row["match"] = None if self.placebo is None else "mass"
        row["condition"] = row.pop("name")
        del row["momentum_placebo"]
        row["lot"] = row.pop("seed")
        if self.edit in ("none", "smi"):
            row["tau_max"] = float("nan")
        if self.edit in ("none", "oeb"):
            row["alpha"] = float("nan")
        return row


METHODS = (
    Condition(BASELINE),
    Condition("oeb", edit="oeb"),
    Condition("smi", edit="smi"),
    Condition("both", edit="both"),
)
PLACEBOS = (
    Condition("oeb-bridge", "placebo", "oeb", placebo="bridge"),
    Condition("oeb-smooth", "placebo", "oeb", placebo="smooth"),
    Condition("smi-boundaries", "placebo", "smi", placebo="boundaries"),
    Condition("smi-direction", "placebo", "smi", placebo="direction"),
    Condition("smi-other", "placebo", "smi", placebo="other"),
)
OEB_KINDS: tuple[PlaceboName, ...] = ("bridge", "block", "permuted", "layers")
SMI_KINDS: tuple[PlaceboName, ...] = ("boundaries", "direction", "other", "layers")
MATCHED = tuple(
    Condition(f"{edit}-{kind}-kl", "placebo", edit, placebo=kind, match="kl")
    for edit, kinds in (("oeb", OEB_KINDS), ("smi", SMI_KINDS))
    for kind in kinds
)
MATCHED_BOTH = (
    Condition(
        "both-bridge-direction-kl", "placebo", "both", placebo="bridge", match="kl",
        momentum_placebo="direction",
    ),
    Condition("both-layers-kl", "placebo", "both", placebo="layers", match="kl"),
)  # fmt: skip
"""Each half has the dose of its own; by name only."""
DRAWS = tuple(
    replace(condition, name=f"{condition.name}-{seed}", seed=seed)
    for condition in MATCHED
    if condition.name in ("oeb-bridge-kl", "oeb-block-kl", "smi-direction-kl")
    for seed in range(N_DRAWS)
)
CORE = tuple(condition for condition in PLACEBOS if condition.name in CORE_PLACEBOS)


@dataclass(frozen=True, kw_only=True)
class DepthSettings(Settings):
    """Of an analysis whose conditions name layers."""

    depth: int = option(8, "layers of the model")


def layers_in(
    bands: str, n_layers: int, *, seed: int = 0, automatic: Bands | None = None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Layers of the bridge and of momentum.

    Args:
        bands: Name, see the module docstring.
        n_layers: Layers of the model.
        seed: Of random layers.
        automatic: Bands of the model, for ``"automatic"``.

    Raises:
        ValueError: an unknown name, or a window that does not fit.
    """
    quarter = Bands.quarters(n_layers)
    width = len(quarter.shallow)
    if bands == "quarter":
        return quarter.shallow, quarter.deep
    if bands in ("third", "half"):
        count = -(-n_layers // 3) if bands == "third" else max(1, n_layers // 2)
        return tuple(range(count)), tuple(range(n_layers - count, n_layers))
    if bands == "random":
        shallow = random_layers(n_layers, width, 2 * seed, avoid=quarter.shallow)
        return shallow, random_layers(n_layers, width, 2 * seed + 1, avoid=quarter.deep)
    if bands == "automatic" and automatic is not None:
        return automatic.shallow, automatic.deep
    name, _, first = bands.partition("-")
    if name != "window" or not first.isdigit() or int(first) + width > n_layers:
        raise ValueError(
            f"bands={bands!r} is unknown, or no {width} layers of {n_layers} begin there; choose "
            "quarter, third, half, random, automatic (with bands found) or window-A"
        )
    window = tuple(range(int(first), int(first) + width))
    return window, window


def windows(n_layers: int) -> list[str]:
    """Names of the windows that tile the model, the last ending in its last layer."""
    width = len(Bands.quarters(n_layers).shallow)
    starts = [*range(0, n_layers - width, width), n_layers - width]
    return [f"window-{start}" for start in dict.fromkeys(starts)]


def conditions(n_layers: int, which: str = "all") -> tuple[Condition, ...]:
    """Conditions of a set.

    Args:
        n_layers: Layers of the model.
        which: ``"methods"`` (baseline, bridge, momentum, both), ``"core"`` (these and two
            placebos), ``"matched"`` (the methods and placebos of their dose), ``"draws"`` (the
            methods and many draws of three of those), ``"strengths"`` (the methods from weak to
            strong), ``"all"`` (all else), or names joined by commas; the baseline is always in.
            Strengths may be any: ``oeb-tau-0.2``, ``smi-alpha-0.17``.

    Raises:
        ValueError: an unknown name.
    """
    every = (*METHODS, *PLACEBOS, *_doses(TAUS, ALPHAS), *_other_bands(), *_sliding(n_layers))
    weak = _doses(WEAK_TAUS, WEAK_ALPHAS)
    sets = {
        "methods": METHODS,
        "core": (*METHODS, *CORE),
        "matched": (*METHODS, *MATCHED),
        "draws": (*METHODS, *DRAWS),
        "strengths": (*METHODS, *weak, *_doses(TAUS, ALPHAS)),
        "all": every,
    }
    if which in sets:
        return tuple(c for c in sets[which] if not _is_repeated(c, n_layers))
    known = {
        condition.name: condition for condition in (*every, *weak, *MATCHED, *MATCHED_BOTH, *DRAWS)
    }
    names = list(dict.fromkeys([BASELINE, *which.split(",")]))
    known |= {name: dose for name in names if name not in known for dose in _named_dose(name)}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"conditions {unknown} are unknown; choose {SETS} or of {sorted(known)}")
    return tuple(known[name] for name in names)


def _doses(taus: Sequence[float], alphas: Sequence[float]) -> list[Condition]:
    doses = [Condition(f"oeb-tau-{tau:g}", "tau_max", "oeb", tau_max=tau) for tau in taus]
    return doses + [Condition(f"smi-alpha-{a:g}", "alpha", "smi", alpha=a) for a in alphas]


def _named_dose(name: str) -> list[Condition]:
    """The condition of a strength that is in no set, by its name; none for another name."""
    found = re.fullmatch(r"(oeb-tau|smi-alpha)-(\d+(?:\.\d+)?)", name)
    if found is None:
        return []
    strength = [float(found[2])]
    doses = _doses(strength, ()) if found[1] == "oeb-tau" else _doses((), strength)
    return [dose for dose in doses if dose.name == name]


def _other_bands() -> list[Condition]:
    names = ("third", "half", "automatic")
    bands = [Condition(f"both-{name}", "bands", "both", bands=name) for name in names]
    return bands + [
        Condition(f"both-random-{i}", "bands", "both", bands="random", seed=i) for i in (0, 1)
    ]


def _sliding(n_layers: int) -> list[Condition]:
    return [
        Condition(f"{edit}-{name}", "sliding", edit, bands=name)
        for edit in ("oeb", "smi")
        for name in windows(n_layers)
    ]


def _is_repeated(condition: Condition, n_layers: int) -> bool:
    """Windows that are the quarters themselves."""
    return (condition.edit, condition.bands) in (
        ("oeb", windows(n_layers)[0]),
        ("smi", windows(n_layers)[-1]),
    )


def check_depth(model: Any, depth: int) -> None:
    """Raise ValueError if conditions were made for a model of another depth."""
    if layers_of(model) != depth:
        raise ValueError(
            f"depth={depth}: the model has {layers_of(model)} layers; windows would not "
            f"tile it (--depth {layers_of(model)})"
        )
