"""What does a model do with a set of problems, before it is decided what to run on it?

A pilot answers a few problems greedily, plain and under the methods (OEB, SMI, both), and reads the
model's own answers once more. It says whether an experiment could show anything:

    summary    per condition: accuracy, share of answers that flip (right to wrong or back), tokens,
               share cut off, thinking and summary steps, share with a summary
    power      smallest net gain in accuracy that a test of ``planned`` problems sees at 80% power,
               at the flip rate of each condition and at round ones: with f flips and a gain of d,
               sqrt(n) d = z(.975) sqrt(f) + z(.8) sqrt(f - d^2)  (Miettinen 1968, Connor 1987)
    doses      what each method did to the model's own answers (`step_saliency.intervene.doses`)
    strengths  the alpha at which momentum has a share of the residual's norm, which is linear in it
    masses     mean attention of written rows on bridge, current part and all else, by layer
    rules      how often the two rules of `analyses.material.worked` name the same wrong step, for
               files with worked solutions

When it misleads: a few problems say a rate to some ten points; what is chosen by a pilot is to be
tested on other problems, and the choices written down before.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import pandas as pd
from jaxtyping import Float
from scipy import stats
from torch import Tensor

from analyses.instruments.forced import forced_logits
from analyses.instruments.masses import groups_of, keep_pattern, mass, rows_in
from analyses.material.answers import AnswerSettings, answers, chunks, greedy_answers
from analyses.material.conditions import BASELINE, METHODS, DepthSettings, check_depth
from analyses.material.flows import model_flow
from analyses.material.problems import TASK, Item, read_items
from analyses.material.worked import Rule, agreement, first_wrong_of, worked_values
from analyses.running.runner import EDITS, Analysis, Unit, main
from analyses.running.settings import option
from step_saliency.intervene.groups import KeyGroup
from step_saliency.intervene.matching import effects_on
from step_saliency.models.facts import n_layers
from step_saliency.stats.problems import mean_table
from step_saliency.trace import Region, Trace

FLIPS = (0.05, 0.1, 0.2, 0.3)
SHARES = (0.05, 0.1)
"""Of the residual's norm, that momentum is to have."""
RULES: tuple[Rule, ...] = get_args(Rule)
_SHARES = ("is_correct", "flips", "is_cut", "has_summary")
_COUNTS = ("n_tokens", "n_thinking", "n_summary")
_OUTCOMES: Mapping[str, Literal["share", "measure"]] = {
    **dict.fromkeys(_SHARES, "share"),
    **dict.fromkeys(_COUNTS, "measure"),
}


@dataclass(frozen=True, kw_only=True)
class PilotSettings(DepthSettings, AnswerSettings):
    """Problems, and the run that is planned."""

    n: int = option(64, "problems")
    planned: int = option(660, "problems of the run that is planned")
    n_read: int = option(24, "answers that are read once more, for doses and masses")


def pilot_answers(
    model: Any, items: Sequence[Item], condition: str, settings: AnswerSettings
) -> pd.DataFrame:
    """Answers under one of the methods: columns of `answers`, and what their steps are."""
    (method,) = (one for one in METHODS if one.name == condition)
    written, graded = answers(model, items, model_flow(model, method, settings), settings)
    thinking, summary = (
        [len(trace.region_steps(region)) for trace in written]
        for region in (Region.THINKING, Region.SUMMARY)
    )
    owners = [item for item in items for _ in range(settings.samples)]
    places = [_places(item, trace) for item, trace in zip(owners, written, strict=True)]
    graded = graded.assign(condition=condition, n_thinking=thinking, n_summary=summary)
    return pd.concat([graded, pd.DataFrame(places)], axis=1)


def _places(item: Item, trace: Trace) -> dict[str, float | None]:
    """First wrong step by each rule; -1 for the summary, None where no worked solution says it."""
    try:
        solution = str(item.row.gold) if item.row else ""
        worked_values(solution)
    except ValueError:
        return dict.fromkeys(RULES)
    firsts = {rule: first_wrong_of(trace, item.question, solution, rule) for rule in RULES}
    return {rule: -1 if first is None else first for rule, first in firsts.items()}


def mass_table(model: Any, traces: Sequence[Trace]) -> pd.DataFrame:
    """Attention of written rows, by layer and region of the row: means over rows, heads and traces.

    Returns:
        Columns ``layer, region, bridge, current, other, n_rows``.
    """
    frames = [_masses(model, trace) for trace in traces]
    table = pd.concat(frames, ignore_index=True)
    names = ["bridge", "current", "other"]
    table[names] = table[names].mul(table["n_rows"], axis=0)
    sums = table.groupby(["layer", "region"], as_index=False)[[*names, "n_rows"]].sum()
    sums[names] = sums[names].div(sums["n_rows"].where(sums["n_rows"] > 0), axis=0)
    return sums


def _masses(model: Any, trace: Trace) -> pd.DataFrame:
    patterns: dict[int, Float[Tensor, "query key"]] = {}
    hooks = [keep_pattern(patterns, layer) for layer in range(n_layers(model))]
    forced_logits(model, trace, None, hooks)
    groups = groups_of(trace)
    rows = {region: rows_in(trace, region) for region in (Region.THINKING, Region.SUMMARY)}
    return pd.DataFrame(
        {
            "layer": layer,
            "region": region.value,
            "n_rows": int(at.sum()),
            **{name: mass(pattern, groups == group, at) for name, group in _GROUPS.items()},
        }
        for layer, pattern in patterns.items()
        for region, at in rows.items()
    )


_GROUPS = {"bridge": KeyGroup.BRIDGE, "current": KeyGroup.CURRENT, "other": KeyGroup.OTHER}


def smallest_gain(flips: float, n: int, *, power: float = 0.8, level: float = 0.05) -> float:
    """Smallest difference of two paired shares that McNemar's test of n pairs sees.

    Args:
        flips: Share of pairs that differ.
        n: Pairs.
        power: Probability of seeing it.
        level: Of the two-sided test.

    Returns:
        The difference, at most ``flips`` (all flips to one side); NaN where even that is not seen.
    """
    lowest, highest = 0.0, flips
    near, far = stats.norm.ppf(1 - level / 2), stats.norm.ppf(power)

    def lacks(gain: float) -> bool:
        needed = near * math.sqrt(flips) + far * math.sqrt(max(0.0, flips - gain**2))
        return math.sqrt(n) * gain < needed

    if not flips or lacks(highest):
        return math.nan
    for _ in range(60):
        middle = (lowest + highest) / 2
        lowest, highest = (middle, highest) if lacks(middle) else (lowest, middle)
    return highest


def power_table(flips: Mapping[str, float], n: int) -> pd.DataFrame:
    """`smallest_gain` at named flip rates and at `FLIPS`: ``flips_of, flips, n, smallest_gain``."""
    rates = {**flips, "": None, **{f"{rate:.0%}": rate for rate in FLIPS}}
    return pd.DataFrame(
        {"flips_of": name, "flips": rate, "n": n, "smallest_gain": smallest_gain(rate, n)}
        for name, rate in rates.items()
        if rate is not None
    )


def units(settings: PilotSettings) -> list[Unit]:
    """Answers in chunks under each method; then what is read of the plain ones."""
    spans = chunks(settings.n, settings.chunk)
    written = [
        Unit(f"answers-{one.name}-{a:05d}", ("answers", one.name, (a, b)))
        for one in METHODS
        for a, b in spans
    ]
    few = (0, min(settings.n_read, settings.n))
    return [*written, Unit("read", ("read", "", few))]


def run_unit(model: Any, unit: Unit, settings: PilotSettings) -> pd.DataFrame:
    """One chunk of answers, or all that is read of some."""
    check_depth(model, settings.depth)
    kind, condition, (first, last) = unit.payload
    items = read_items(settings)[first:last]
    if kind == "answers":
        return pilot_answers(model, items, condition, settings).assign(kind=kind)
    traces = greedy_answers(model, items, settings)
    frames = {"doses": _doses(model, traces, settings), "masses": mass_table(model, traces)}
    return pd.concat([frame.assign(kind=name) for name, frame in frames.items()])


def _doses(model: Any, traces: Sequence[Trace], settings: PilotSettings) -> pd.DataFrame:
    frames = []
    for method in METHODS[1:]:
        flow = model_flow(model, method, settings)
        assert flow is not None
        frame = effects_on(model, flow, traces).doses().rename(columns={"edit": "half"})
        frames.append(frame.assign(condition=method.name, alpha=method.alpha, n_traces=len(traces)))
    return pd.concat(frames, ignore_index=True)


def summarise(values: pd.DataFrame, settings: PilotSettings) -> Mapping[str, pd.DataFrame]:
    """The tables of the module docstring."""
    written = values[values["kind"] == "answers"].dropna(axis=1, how="all")
    written = _with_flips(written)
    doses, masses = (
        values[values["kind"] == kind].dropna(axis=1, how="all").drop(columns="kind")
        for kind in ("doses", "masses")
    )
    edited = written[written["condition"] != BASELINE]
    tables = [
        mean_table(
            edited if name == "flips" else written,
            name,
            by=["condition"],
            kind=kind,
            seed=settings.seed,
        ).assign(outcome=name)
        for name, kind in _OUTCOMES.items()
    ]
    flips = {str(name): float(rows["flips"].mean()) for name, rows in edited.groupby("condition")}
    return {
        "summary": pd.concat(tables, ignore_index=True).drop(columns="p"),
        "power": power_table(flips, settings.planned),
        "doses": doses,
        "strengths": strengths(doses),
        "masses": masses,
        **({} if settings.data == TASK else _rules(written)),
    }


def _with_flips(written: pd.DataFrame) -> pd.DataFrame:
    right = written["is_correct"].astype(bool)
    plain = written[written["condition"] == BASELINE].set_index(["problem", "sample"])
    keys = pd.MultiIndex.from_frame(written[["problem", "sample"]])
    before = plain["is_correct"].astype(bool).reindex(keys).to_numpy()
    facts = {
        "is_correct": right,
        "flips": right.to_numpy() != before,
        "is_cut": ~written["finished"].astype(bool),
        "has_summary": written["n_summary"] > 0,
    }
    written = written.assign(**facts)
    return written.astype(dict.fromkeys(_OUTCOMES, float))


def strengths(doses: pd.DataFrame) -> pd.DataFrame:
    """Alphas at which momentum has the shares `SHARES` of the residual's norm."""
    momentum = doses[doses["condition"] == "smi"].iloc[0]
    norm, alpha = float(momentum["injected_norm"]), float(momentum["alpha"])
    return pd.DataFrame(
        {"share_of_norm": share, "alpha": alpha * share / norm if norm else math.nan}
        for share in (norm, *SHARES)
    )


def _rules(written: pd.DataFrame) -> dict[str, pd.DataFrame]:
    wrong = written[(written["condition"] == BASELINE) & (written["is_correct"] == 0)]
    if not set(RULES) <= set(wrong):
        return {}
    known = wrong.dropna(subset=list(RULES))
    pairs = [
        tuple(None if value < 0 else int(value) for value in pair)
        for pair in known[list(RULES)].to_numpy(float)
    ]
    if not pairs:
        return {}
    shares = agreement([(one, other) for one, other in pairs])
    return {"rules": pd.DataFrame([{**shares, "n_answers": len(pairs)}])}


ANALYSIS = Analysis("pilot", PilotSettings, units, run_unit, summarise, checks=EDITS)

if __name__ == "__main__":
    main("analyses.pilot")
