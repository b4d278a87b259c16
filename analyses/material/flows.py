"""From conditions to interventions, with what is set up on other problems where a condition asks.

Bands for ``bands="automatic"`` are found, and momentum for ``placebo="other"`` is taken, on
problems of another seed or on rows of the file that are not answered: what sets up a condition is
never what it is tested on.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import step_saliency as ss
from analyses.material.conditions import Condition, layers_in
from analyses.material.problems import (
    TASK,
    Item,
    SourceSettings,
    file_items,
    gold_trace,
    solution_traces,
)
from step_saliency.diagnosis import diagnose, find_bands
from step_saliency.intervene import OddsEqualBridge, StepFlow, StepMomentumInjection
from step_saliency.intervene.placebos import MomentumBank, momentum_bank
from step_saliency.models.bands import Bands
from step_saliency.models.facts import n_layers as layers_of
from step_saliency.tasks import Problem, make_problems
from step_saliency.trace import Trace

REFERENCE_SEED = 7_919
"""Added to the seed of the problems for those that only set something up."""
N_REFERENCE = 48
N_REFERENCE_ROWS = 16


def condition_flow(
    condition: Condition,
    n_layers: int,
    *,
    automatic: Bands | None = None,
    bank: MomentumBank | None = None,
    model: Any = None,
    traces: Sequence[Trace] | None = None,
) -> StepFlow | None:
    """The intervention of a condition; None where nothing is left to do.

    Args:
        condition: The condition.
        n_layers: Layers of the model.
        automatic: Bands of the model, for ``bands="automatic"``.
        bank: Steps of other traces, for ``placebo="other"``.
        model: The model, for a placebo that is matched in dose.
        traces: Traces that it is matched on.

    Raises:
        ValueError: an unknown edit, or as `layers_in` and `StepFlow.placebo`.
    """
    if condition.edit not in ("none", "oeb", "smi", "both"):
        raise ValueError(f"edit={condition.edit!r} is unknown; choose none, oeb, smi or both")
    shallow, deep = layers_in(condition.bands, n_layers, seed=condition.seed, automatic=automatic)
    oeb = smi = None
    if condition.edit in ("oeb", "both") and shallow and condition.tau_max:
        oeb = OddsEqualBridge(shallow, tau_max=condition.tau_max)
    if condition.edit in ("smi", "both") and deep and condition.alpha:
        smi = StepMomentumInjection(deep, alpha=condition.alpha)
    if oeb is None and smi is None:
        return None
    flow = StepFlow(oeb=oeb, smi=smi)
    placebo = partial(
        StepFlow.placebo,
        seed=condition.seed,
        match=condition.match or "mass",
        n_layers=n_layers,
        bank=bank,
        model=model,
        traces=traces,
    )
    if condition.placebo is None:
        return flow
    if condition.momentum_placebo is None:
        return placebo(flow, condition.placebo)
    bridge = placebo(StepFlow(oeb=oeb), condition.placebo)
    momentum = placebo(StepFlow(smi=smi), condition.momentum_placebo)
    return StepFlow(oeb=bridge.oeb, smi=momentum.smi)


def model_flow(model: Any, condition: Condition, settings: SourceSettings) -> StepFlow | None:
    """`condition_flow` with bands and banks made on other problems where it asks for them."""
    source = _source(settings)
    if condition.match == "kl":
        return _matched(model, condition, source)
    automatic = bank = None
    if condition.bands == "automatic":
        automatic = _automatic_bands(model, source)
    if condition.placebo == "other":
        bank = _bank(model, source)
    return condition_flow(condition, layers_of(model), automatic=automatic, bank=bank)


def _matched(model: Any, condition: Condition, source: SourceSettings) -> StepFlow | None:
    """A placebo matched on other problems; of two kinds, each half as it is matched alone."""
    if condition.momentum_placebo is None:
        return _matched_once(model, replace(condition, name="", group=""), source)
    about: dict[str, Any] = {"name": "", "group": "", "momentum_placebo": None}
    bridge = replace(condition, edit="oeb", **about)
    momentum = replace(condition, edit="smi", placebo=condition.momentum_placebo, **about)
    halves = _matched_once(model, bridge, source), _matched_once(model, momentum, source)
    assert halves[0] is not None
    assert halves[1] is not None
    return StepFlow(oeb=halves[0].oeb, smi=halves[1].smi)


@lru_cache(maxsize=16)
def _matched_once(model: Any, condition: Condition, source: SourceSettings) -> StepFlow | None:
    """Once for all chunks and conditions of a process that ask for it."""
    return condition_flow(
        condition,
        layers_of(model),
        bank=_bank(model, source) if condition.placebo == "other" else None,
        model=model,
        traces=_reference_traces(model, source)[: source.n_matching],
    )


def flow_layers(flow: StepFlow | None) -> dict[str, str]:
    """Layers of both halves, as columns."""
    oeb, smi = (None, None) if flow is None else (flow.oeb, flow.smi)
    return {
        f"{name}_layers": "" if edit is None else " ".join(map(str, edit.layers))
        for name, edit in (("oeb", oeb), ("smi", smi))
    }


@lru_cache(maxsize=1)
def _automatic_bands(model: Any, source: SourceSettings) -> Bands:
    """Bands by the depth curves of own answers to other problems, or of a file's solutions."""
    if source.data == TASK:
        problems = _other_problems(source)
        written = ss.generate(
            model,
            [problem.question for problem in problems],
            temperature=0.0,
            max_new_tokens=256,
            progress=False,
        )
        traces = [
            _of_problem(problem.trace(model.tokenizer, answer.response), problem.id)
            for problem, answer in zip(problems, written, strict=True)
        ]
    else:
        items = _other_rows(source)
        traces = [_of_problem(gold_trace(model.tokenizer, item), item.id) for item in items]
    diagnoses = [diagnose(ss.step_saliency(model, trace)) for trace in traces]
    return find_bands(diagnoses, seed=source.seed).bands


@lru_cache(maxsize=1)
def _bank(model: Any, source: SourceSettings) -> MomentumBank:
    """Momentum of solutions of other problems of the task, or of other rows of a file."""
    traces = _reference_traces(model, source)
    return momentum_bank(model, traces, layers=range(layers_of(model)), progress=False)


def reference_traces(model: Any, settings: SourceSettings) -> list[Trace]:
    """Solutions of problems that are not answered, to set something up on."""
    return _reference_traces(model, _source(settings))


def matching_traces(model: Any, settings: SourceSettings) -> list[Trace]:
    """Those of them that doses are matched on."""
    return reference_traces(model, settings)[: settings.n_matching]


def reference_items(settings: SourceSettings) -> list[Item]:
    """Problems that are not answered, to set something up on."""
    source = _source(settings)
    if source.data == TASK:
        return [Item(p.id, i, problem=p) for i, p in enumerate(_other_problems(source))]
    return _other_rows(source)


def _source(settings: SourceSettings) -> SourceSettings:
    """What of settings other problems depend on: all conditions share what is set up on them."""
    names = ["data", "n", "level", "family", "seed", "field", "references", "n_matching"]
    if settings.references == "own":
        names += ["instruction", "system", "opening", "max_new_tokens", "format", "splitter"]
    return SourceSettings(**{name: getattr(settings, name) for name in names})


def _reference_traces(model: Any, source: SourceSettings) -> list[Trace]:
    if source.references == "own":
        return _own_traces(model, source)
    if source.data == TASK:
        return [p.trace(model.tokenizer) for p in _other_problems(source)]
    return [gold_trace(model.tokenizer, item) for item in _other_rows(source)]


@lru_cache(maxsize=1)
def _own_traces(model: Any, source: SourceSettings) -> list[Trace]:
    """The model's answers to a few problems that are not answered in the run."""
    items = reference_items(source)[-source.n_matching :]
    return solution_traces(model, items, source)


def _other_problems(source: SourceSettings) -> list[Problem]:
    seed = source.seed + REFERENCE_SEED
    return make_problems(N_REFERENCE, source.level, seed, family=source.family)


def _other_rows(source: SourceSettings) -> list[Item]:
    """The last rows of a file that are not among the n problems that are answered."""
    most = N_REFERENCE_ROWS if source.references == "gold" else source.n_matching
    rows = file_items(source.data, field=source.field)[source.n :][-most:]
    if not rows:
        raise ValueError(
            f"n={source.n}: {source.data} has no other rows to find bands or take momentum from; "
            f"answer fewer of them (up to {most} are set aside)"
        )
    return rows


def _of_problem(trace: Trace, name: str) -> Trace:
    return replace(trace, id=name, meta={**trace.meta, "problem": name})
