"""Does StepFlow work by what it is said to work by, and do the patterns come before the errors?

Four parts (column ``part``):

forced      Teacher-forced passes under interventions. Mediators: ``bridge_mass`` (attention of
            thinking on the question and of the summary on the thinking, shallow layers),
            ``step_mass`` (of thinking and summary on the step being written, shallow layers),
            ``summary_mass`` (of the summary on the thinking, deep layers). Outcomes: ``loss`` and
            ``answer_loss`` of the gold solution, and ``margin`` = log p(right) - log p(written) at
            the token where the first wrong step of a wrong greedy answer goes wrong (`corrected`).
            Path: across problems, does the change in the mediator go with the change in the outcome
            (rank correlation)? Blocked: the bridge acting in one region alone; ``diverted``, which
            takes the same mass from the current part but withholds it from the bridge; momentum
            with the summary's sight of the thinking cut (`analyses.instruments.edits`). Placebos:
            the bridge on as many keys by lot, momentum in random directions.
answers     The same edits while answers are written: accuracy, against none and against placebos.
injection   Lock-in planted (`LockIn`: a minimum of mass on the current step) in shallow or deep
            layers, and as much mass on as many keys drawn by lot: which errors appear?
prediction  Lock-in of a trace before its first wrong step (steps before it only) against a correct
            trace cut at the same step: of the same problem (``within``: equal difficulty), and of
            a problem without errors whose cut trace has most nearly as many tokens (``matched``:
            equal length). What length is left is in ``gap``, and in the rows of ``n_tokens``, which
            are not tested where traces were matched by it.

When it misleads: a mediator that moves with the outcome may be moved by it, or both by something
that differs between problems, such as length; mediators are of the gold solution, margins of the
answer. Margins are taken where the model was wrong, so whatever flattens its predictions raises
them; read them beside the placebos'. Where an answer takes a step too early, ``right`` is the next
step of the solution, and another might do as well. Correct and error traces of one problem are
mostly the same text up to the error, and then their lock-in is the same number: ``ties`` says how
often. The summary comes after all errors but its own, so that decay cannot come before them;
``reach`` (share of the thinking rows of deep layers on earlier thinking steps) stands in for it.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

import step_saliency as ss
from analyses.error_kinds import changes, flow_against_local, rates, transitions, with_states
from analyses.instruments.edits import Diverted, LockIn, RegionBridge, SummaryCut
from analyses.material.conditions import (
    BASELINE,
    AnswerSettings,
    answers,
    chunks,
    gold_trace,
)
from analyses.material.problems import Item, check_task, read_items
from analyses.running.runner import Analysis, Unit, main
from analyses.running.settings import option
from step_saliency.diagnosis import Bands, diagnose
from step_saliency.diagnosis.shares import row_shares
from step_saliency.intervene import (
    Edit,
    EditGroup,
    OddsEqualBridge,
    StepLabels,
    StepMomentumInjection,
)
from step_saliency.intervene.labels import KeyGroup, key_groups
from step_saliency.models.facts import device_of, n_layers
from step_saliency.stats.binary import binary_table
from step_saliency.stats.multiplicity import with_holm
from step_saliency.stats.paired import paired_table
from step_saliency.stats.problems import mean_table
from step_saliency.stats.ranks import rank_correlation_over_problems
from step_saliency.tasks import Problem
from step_saliency.tasks.grading import split_response
from step_saliency.tasks.notation import NOTATIONS, SUMMARY, join_response, right_step
from step_saliency.trace import Region, Trace

Part = Literal["forced", "answers", "injection", "prediction"]
PARTS: tuple[Part, ...] = get_args(Part)
TAU, ALPHA = 0.3, 0.5
"""Twice and eight times the defaults, so that there is an effect to be explained."""
MASSES = (0.5, 0.8)
PLACEBOS: Mapping[str, tuple[str, ...]] = {
    "oeb-strong": ("oeb-strong-random", "oeb-strong-diverted"),
    "smi-strong": ("smi-strong-direction",),
    **{f"lock-in-shallow-{mass:g}": (f"random-shallow-{mass:g}",) for mass in MASSES},
}
MEDIATORS = ("bridge_mass", "step_mass", "summary_mass")
OUTCOMES = ("loss", "answer_loss", "margin")
INDICES = ("lock_in_index", "reach", "n_tokens")


def forced_edits(depth: int) -> dict[str, list[Edit]]:
    """Interventions of the parts ``forced`` and ``answers``, by name."""
    bands = Bands.quarters(depth)
    low, high = bands.shallow, bands.deep
    momentum = StepMomentumInjection(high, alpha=ALPHA)
    return {
        BASELINE: [],
        "oeb": [OddsEqualBridge(low)],
        "oeb-strong": [OddsEqualBridge(low, tau_max=TAU)],
        "oeb-strong-thinking": [RegionBridge(low, [Region.THINKING.value], tau_max=TAU)],
        "oeb-strong-summary": [RegionBridge(low, [Region.SUMMARY.value], tau_max=TAU)],
        "oeb-strong-diverted": [Diverted(low, tau_max=TAU)],
        "oeb-strong-random": [OddsEqualBridge(low, tau_max=TAU, placebo="random")],
        "smi": [StepMomentumInjection(high)],
        "smi-strong": [momentum],
        "smi-strong-direction": [
            StepMomentumInjection(high, alpha=ALPHA, momentum="random"),
        ],
        "cut": [SummaryCut(high)],
        "smi-strong-cut": [momentum, SummaryCut(high)],
    }


def injected_edits(depth: int) -> dict[str, list[Edit]]:
    """Interventions of the part ``injection``, by name."""
    bands = Bands.quarters(depth)
    made: dict[str, list[Edit]] = {BASELINE: []}
    for mass in MASSES:
        made[f"lock-in-shallow-{mass:g}"] = [LockIn(bands.shallow, mass)]
        made[f"random-shallow-{mass:g}"] = [LockIn(bands.shallow, mass, keys="random")]
    made[f"lock-in-deep-{MASSES[0]:g}"] = [LockIn(bands.deep, MASSES[0])]
    return made


def group_of(edits: Sequence[Edit]) -> EditGroup | None:
    """Edits attached together; None without any."""
    return EditGroup(list(edits)) if edits else None


@torch.no_grad()
def forced_pass(
    model: Any, trace: Trace, edits: Sequence[Edit]
) -> tuple[Float[Tensor, "pos vocab"], dict[str, float]]:
    """Logits of a full pass under edits, and the mediators."""
    depth = n_layers(model)
    bands = Bands.quarters(depth)
    seen: dict[int, Float[Tensor, "query key"]] = {}

    def keep(layer: int) -> Any:
        def hook(pattern: Float[Tensor, "1 head query key"], hook: Any) -> None:
            seen[layer] = pattern[0].float().mean(0).cpu()

        return f"blocks.{layer}.attn.hook_pattern", hook

    tokens = trace.tokens[None].to(device_of(model))
    with ExitStack() as stack:
        if edits:
            stack.enter_context(EditGroup(list(edits)).attached(model, trace=trace))
        hooks = [keep(layer) for layer in {*bands.shallow, *bands.deep}]
        stack.enter_context(model.hooks(fwd_hooks=hooks))
        logits = model(tokens, attention_mask=torch.ones_like(tokens), return_type="logits")
    return logits[0].float().cpu(), _mediators(seen, trace, bands)


def _mediators(
    seen: Mapping[int, Float[Tensor, "query key"]], trace: Trace, bands: Bands
) -> dict[str, float]:
    labels = StepLabels.from_traces([trace])
    chosen: dict[str, Any] = {"n_queries": len(trace)}
    groups = key_groups(labels, bridge="auto", current="region", **chosen)[0]
    own = key_groups(labels, bridge="auto", current="step", **chosen)[0]
    regions = np.array([trace.regions[i].value for i in trace.step_ids.tolist()])
    written = torch.tensor(np.isin(regions, ["thinking", "summary"]))
    summary = torch.tensor(regions == "summary")

    def mass(layers: Sequence[int], keys: Tensor, rows: Tensor) -> float:
        if not rows.any():
            return float("nan")
        return float(
            torch.stack([(seen[layer] * keys).sum(-1)[rows].mean() for layer in layers]).mean()
        )

    bridge, current = groups == KeyGroup.BRIDGE, own == KeyGroup.CURRENT
    return {
        "bridge_mass": mass(bands.shallow, bridge, written),
        "step_mass": mass(bands.shallow, current, written),
        "summary_mass": mass(bands.deep, bridge, summary),
    }


@dataclass(frozen=True, eq=False)
class Divergence:
    """Where a wrong answer goes wrong.

    Attributes:
        problem: The problem.
        trace: The wrong answer.
        position: The token there is predicted at this position.
        right: Token that would have been right.
        written: Token of the answer.
        kind: Kind of the first error.
    """

    problem: Problem
    trace: Trace
    position: int
    right: int
    written: int
    kind: str | None


def corrected(problem: Problem, response: str) -> str | None:
    """A response with its first wrong step put right, and then what the solution still lacks.

    Steps can be taken in several orders, so that an answer may leave the gold solution where it is
    still right. What is kept here are its own steps before the first wrong one. In that place comes
    the right step of the same name if all that it needs is there, otherwise the first step of the
    solution that is lacking; then the others that are lacking, and the summary.

    Returns:
        None if nothing in the response is wrong.
    """
    first = problem.grade(response).first_wrong_step
    if first is None:
        return None
    graph, notation = problem.graph, NOTATIONS[problem.family]
    written, _ = split_response(response)
    lines, values = written[:first], {}
    for step in map(notation.read, lines):
        assert step is not None
        values[step.premise.name] = step.result
    names = [name for name in graph.order if name not in values]
    wrong = notation.read(written[first]) if first < len(written) else None
    name = None if wrong is None else wrong.premise.name
    if name in graph.index and set(graph[name].variables) <= set(values):
        names = [name, *(other for other in names if other != name)]
    for name in names:
        step = right_step(graph[name], values)
        values[name] = step.result
        lines.append(notation.step(step))
    return join_response(lines, SUMMARY.format(values[graph.target]))


def divergence(model: Any, problem: Problem, response: str) -> Divergence | None:
    """Where a wrong answer leaves what is `corrected` of it.

    Returns:
        None where the answer is right, ends where it should go on, or leaves the corrected text
        before its first wrong step, in its layout.
    """
    grade = problem.grade(response)
    better = None if grade.is_correct else corrected(problem, response)
    if better is None:
        return None
    trace, right = problem.trace(model.tokenizer, response), problem.trace(model.tokenizer, better)
    pairs = zip(trace.tokens.tolist(), right.tokens.tolist(), strict=False)
    at = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
    if at is None or _thinking_steps_before(right, at) != grade.first_wrong_step:
        return None
    tokens = int(right.tokens[at]), int(trace.tokens[at])
    return Divergence(problem, trace, at - 1, *tokens, grade.error_kind)


def _thinking_steps_before(trace: Trace, position: int) -> int:
    """Thinking steps that are over at a position."""
    return sum(trace.steps[i].stop <= position for i in trace.region_steps(Region.THINKING))


def margin(logits: Float[Tensor, "pos vocab"], at: Divergence) -> float:
    """Log-odds of the right token against the one that was written, nats."""
    row = logits[at.position]
    return float(row[at.right] - row[at.written])


def forced(
    model: Any,
    items: Sequence[Item],
    edits: Mapping[str, Sequence[Edit]],
    settings: AnswerSettings,
) -> pd.DataFrame:
    """Mediators and outcomes of problems under edits, teacher-forced.

    Returns:
        One row per problem and condition: `MEDIATORS` and `OUTCOMES` (``margin`` is missing where
        the greedy answer is right), ``error_kind``.
    """
    written, _ = answers(model, items, None, replace(settings, samples=1, temperature=0.0))
    rows = []
    for item, answer in zip(items, written, strict=True):
        assert item.problem is not None
        wrong = divergence(model, item.problem, answer.response)
        gold = gold_trace(model.tokenizer, item)
        for name, chosen in edits.items():
            logits, mediators = forced_pass(model, gold, chosen)
            row: dict[str, Any] = {"problem": item.id, "condition": name, **mediators}
            row |= _losses(logits, gold)
            row |= {"margin": float("nan"), "error_kind": None}
            if wrong is not None:
                logits, _ = forced_pass(model, wrong.trace, chosen)
                row |= {"margin": margin(logits, wrong), "error_kind": wrong.kind}
            rows.append(row)
    return pd.DataFrame(rows).astype({"error_kind": "string"})


def _losses(logits: Float[Tensor, "pos vocab"], trace: Trace) -> dict[str, float]:
    losses = torch.nn.functional.cross_entropy(logits[:-1], trace.tokens[1:], reduction="none")
    spans = {
        "loss": trace.region_steps(Region.THINKING, Region.SUMMARY),
        "answer_loss": trace.region_steps(Region.SUMMARY),
    }
    return {
        name: float(
            torch.cat(
                [losses[trace.steps[i].start - 1 : trace.steps[i].stop - 1] for i in steps]
            ).mean()
        )
        for name, steps in spans.items()
    }


def cut_before(trace: Trace, step: int) -> Trace:
    """The trace up to, and without, a thinking step.

    Args:
        trace: A trace whose thinking steps are the lines of the response.
        step: Index among its thinking steps, at least 1.

    Raises:
        ValueError: there is no such step.
    """
    thinking = trace.region_steps(Region.THINKING)
    if not 1 <= step <= len(thinking):
        raise ValueError(f"step={step} must be from 1 to {len(thinking)}")
    last = thinking[step - 1]
    stop = trace.steps[last].stop
    return replace(
        trace,
        tokens=trace.tokens[:stop],
        steps=trace.steps[: last + 1],
        meta={**trace.meta, "problem": trace.id},
    )


def indices(model: Any, trace: Trace) -> dict[str, float]:
    """Lock-in index and reach of a cut trace, and its length."""
    saliency = ss.step_saliency(model, trace)
    found = diagnose(saliency)
    shares = row_shares(saliency.maps, trace.regions)
    thinking = trace.region_steps(Region.THINKING)
    earlier = torch.zeros(len(trace.steps), len(trace.steps), dtype=torch.float64)
    for i, row in enumerate(thinking):
        earlier[row, thinking[:i]] = 1
    deep = list(Bands.quarters(len(shares)).deep)
    reach = (shares[deep].cpu() * earlier).sum(-1)[:, thinking[1:]]
    return {
        "lock_in_index": found.lock_in_index,
        "reach": float(reach.nanmean()) if len(thinking) > 1 else float("nan"),
        "n_tokens": float(len(trace)),
    }


def prediction(
    model: Any, items: Sequence[Item], settings: AnswerSettings, *, samples: int
) -> pd.DataFrame:
    """Indices of error traces before the error, and of correct traces cut at the same step.

    Each problem gives its first sample (at temperature 1) whose first wrong step is the second or a
    later one of the thinking, and its first correct sample with as many steps; problems without
    errors give their first correct sample cut at every step, to be matched with.

    Returns:
        One row per problem, ``outcome`` (error, correct) and ``cut``: `INDICES`, ``error_kind``,
        ``has_pair``.
    """
    sampled = replace(settings, samples=samples, temperature=1.0)
    written, frame = answers(model, items, None, sampled)
    rows = []
    for number, item in enumerate(items):
        assert item.problem is not None
        mine = slice(number * samples, (number + 1) * samples)
        grades = frame.iloc[mine].to_dict("records")
        rows += _predicted(model, item, list(zip(written[mine], grades, strict=True)))
    return pd.DataFrame(rows).astype({"error_kind": "string"})


def _predicted(
    model: Any, item: Item, graded: Sequence[tuple[Trace, Mapping[Any, Any]]]
) -> list[dict[str, Any]]:
    assert item.problem is not None
    found: list[tuple[str, int, Trace, str | None]] = []
    error = next((pair for pair in graded if _is_error(pair[1])), None)
    right = [t for t, g in graded if g["is_correct"] and pd.isna(g["first_wrong_step"])]
    if error is not None:
        cut = int(error[1]["first_wrong_step"])
        found.append(("error", cut, error[0], str(error[1]["error_kind"])))
    if right:
        steps = len(item.problem.graph_of(right[0].response).steps)
        cuts = range(1, steps) if error is None else [int(error[1]["first_wrong_step"])]
        found += [("correct", cut, right[0], None) for cut in cuts if cut <= steps]
    both = len({outcome for outcome, *_ in found}) == 2
    rows = []
    for outcome, cut, trace, kind in found:
        short = cut_before(item.problem.trace(model.tokenizer, trace.response), cut)
        told = {"problem": item.id, "outcome": outcome, "cut": cut, "error_kind": kind}
        rows.append({**told, "has_pair": both, **indices(model, short)})
    return rows


def _is_error(grade: Mapping[Any, Any]) -> bool:
    """A wrong answer that went wrong in its second thinking step or a later one."""
    first = grade["first_wrong_step"]
    if grade["is_correct"] or pd.isna(first):
        return False
    return 1 <= int(first) < int(grade["n_steps"])


def path_table(values: pd.DataFrame, *, seed: int = 0, **draws: Any) -> pd.DataFrame:
    """Mediators and outcomes minus the baseline's, paired; Holm over conditions per column."""
    tables = []
    for name in (*MEDIATORS, *OUTCOMES):
        known = values.dropna(subset=[name])
        if known.empty:
            continue
        table = paired_table(
            known, name, condition="condition", reference=BASELINE, seed=seed, **draws
        )
        role = "mediator" if name in MEDIATORS else "outcome"
        tables.append(table.assign(variable=name, role=role))
    return pd.concat(tables, ignore_index=True)


def path_correlations(values: pd.DataFrame, *, seed: int = 0, **draws: Any) -> pd.DataFrame:
    """Does the change in a mediator go with the change in an outcome, across problems?

    Spearman's rho over problems; interval and test by problem (each problem is one entry).
    """
    base = values[values["condition"] == BASELINE].set_index("problem")
    columns = [*MEDIATORS, *OUTCOMES]
    moved = values[values["condition"] != BASELINE].copy()
    moved[columns] -= base.loc[moved["problem"], columns].to_numpy()
    rows = []
    for mediator in MEDIATORS:
        for outcome in OUTCOMES:
            known = moved.dropna(subset=[mediator, outcome])
            spread = known.groupby("condition")[[mediator, outcome]].std()
            sure = spread.index[(spread > 1e-7).all(axis=1)]
            known = known[known["condition"].isin(sure)]
            if known.empty:
                continue
            table = _across(known, mediator, outcome, seed, draws)
            rows.append(table.assign(mediator=mediator, outcome=outcome))
    table = pd.concat(rows, ignore_index=True)
    return with_holm(table, family=["mediator", "outcome"])


def _across(
    frame: pd.DataFrame, mediator: str, outcome: str, seed: int, draws: Mapping[str, Any]
) -> pd.DataFrame:
    """rho of each condition over problems, with a bootstrap of problems and a permutation test."""
    rows = []
    for name, some in frame.groupby("condition", sort=False):
        if len(some) < 4:
            continue
        rho = rank_correlation_over_problems(
            some[mediator].to_numpy(float), some[outcome].to_numpy(float), seed=seed, **draws
        )
        rows.append({"condition": name, **rho.row()})
    return pd.DataFrame(rows)


def blocking_table(values: pd.DataFrame, *, seed: int = 0, **draws: Any) -> pd.DataFrame:
    """What an intervention does when its path is blocked, and what blocking takes away.

    ``momentum``: (smi - baseline) - (smi with cut - cut), the part of momentum's effect that needs
    the summary's sight of the thinking. ``bridge``: oeb - diverted, the part of the bridge's effect
    that needs the mass to be on the bridge. ``against`` the placebos: oeb - the same mass on as
    many keys by lot, smi - as long vectors in random directions.
    """
    contrasts = {
        "bridge total": {"oeb-strong": 1, BASELINE: -1},
        "bridge with its gain diverted": {"oeb-strong-diverted": 1, BASELINE: -1},
        "bridge through the bridge": {"oeb-strong": 1, "oeb-strong-diverted": -1},
        "bridge against keys by lot": {"oeb-strong": 1, "oeb-strong-random": -1},
        "momentum total": {"smi-strong": 1, BASELINE: -1},
        "momentum against random directions": {"smi-strong": 1, "smi-strong-direction": -1},
        "momentum with the summary cut": {"smi-strong-cut": 1, "cut": -1},
        "momentum through the summary": {
            "smi-strong": 1,
            BASELINE: -1,
            "smi-strong-cut": -1,
            "cut": 1,
        },
    }
    rows = []
    for outcome in OUTCOMES:
        wide = values.pivot(index="problem", columns="condition", values=outcome)
        for name, weights in contrasts.items():
            if not set(weights) <= set(wide.columns):
                continue
            sums = (wide[list(weights)] @ pd.Series(weights).astype(float)).dropna()
            if sums.empty:
                continue
            frame = sums.rename("value").reset_index()
            found = mean_table(frame, "value", null=0.0, seed=seed, **draws)
            rows.append(found.assign(contrast=name, outcome=outcome))
    return with_holm(pd.concat(rows, ignore_index=True), family=["outcome"])


def against_placebos(values: pd.DataFrame, *, seed: int = 0, **draws: Any) -> pd.DataFrame:
    """Accuracy under interventions minus that under their placebos, paired; Holm over all."""
    present = set(values["condition"])
    pairs = [(real, fake) for real, fakes in PLACEBOS.items() for fake in fakes]
    tables = [
        binary_table(
            values[values["condition"].isin(pair)],
            condition="condition",
            reference=pair[1],
            pair=["sample"],
            seed=seed,
            **draws,
        ).drop(columns="p_holm")
        for pair in pairs
        if set(pair) <= present
    ]
    return with_holm(pd.concat(tables, ignore_index=True)) if tables else pd.DataFrame()


def prediction_table(values: pd.DataFrame, *, seed: int = 0, **draws: Any) -> pd.DataFrame:
    """Indices of error traces minus those of correct ones, within problems and matched.

    Returns:
        One row per index and ``control``: ``estimate, lower, upper, n, p, p_holm, ties`` (share of
        pairs with exactly the same value) and ``gap`` (mean difference in tokens).
    """
    pairs = {"within": _within(values), "matched": _matched(values)}
    tables = []
    for control, frame in pairs.items():
        for name in INDICES:
            difference = (frame[f"{name}_error"] - frame[f"{name}_correct"]).rename("value")
            known = pd.concat([frame["problem"], difference], axis=1).dropna()
            if len(known) < 2:
                continue
            is_matched_by = control == "matched" and name == "n_tokens"
            null = None if is_matched_by else 0.0
            table = mean_table(known, "value", null=null, seed=seed, **draws)
            ties = float((known["value"].abs() < 1e-9).mean())
            gap = float((frame["n_tokens_error"] - frame["n_tokens_correct"]).mean())
            told: dict[str, Any] = {"control": control, "index": name, "ties": ties, "gap": gap}
            tables.append(table.assign(**told))
    if not tables:
        return pd.DataFrame()
    return with_holm(pd.concat(tables, ignore_index=True), family=["control"])


def _within(values: pd.DataFrame) -> pd.DataFrame:
    paired = values[values["has_pair"].astype(bool)]
    error = paired[paired["outcome"] == "error"]
    correct = paired[paired["outcome"] == "correct"]
    return error.merge(correct, on=["problem", "cut"], suffixes=("_error", "_correct"))


def _matched(values: pd.DataFrame) -> pd.DataFrame:
    """Each error trace with the correct one cut there that is nearest in tokens.

    Correct traces are those of problems without an error trace, and no problem is taken twice, so
    that pairs have nothing in common.
    """
    errors = values[values["outcome"] == "error"]
    pool = values[(values["outcome"] == "correct") & ~values["problem"].isin(errors["problem"])]
    pool = pool.reset_index(drop=True)
    rows = []
    for error in errors.to_dict("records"):
        same = pool[pool["cut"] == error["cut"]]
        if same.empty:
            continue
        nearest = int((same["n_tokens"] - error["n_tokens"]).abs().idxmin())
        row: dict[str, Any] = {"problem": error["problem"], "cut": error["cut"]}
        for name in INDICES:
            row[f"{name}_error"] = error[name]
            row[f"{name}_correct"] = float(pool[name].to_numpy()[nearest])
        rows.append(row)
        pool = pool[pool["problem"] != pool.loc[nearest, "problem"]].reset_index(drop=True)
    columns = ["problem", "cut", *(f"{n}_{o}" for n in INDICES for o in ("error", "correct"))]
    return pd.DataFrame(rows, columns=columns)


@dataclass(frozen=True, kw_only=True)
class MediationSettings(AnswerSettings):
    """Parts, and of how many problems."""

    parts: tuple[Part, ...] = PARTS
    n_maps: int = option(300, "problems of forced and prediction")
    map_chunk: int = option(50, "problems per unit of these")
    prediction_samples: int = 4
    depth: int = option(8, "layers of the model")


def units(settings: MediationSettings) -> list[Unit]:
    """Parts, conditions where answers are written, and chunks of problems."""
    check_task(settings, "margins and kinds of error")
    depth = settings.depth
    todo: list[tuple[str, str, tuple[int, int]]] = []
    for part in settings.parts:
        if part in ("forced", "prediction"):
            spans = chunks(min(settings.n_maps, settings.n), settings.map_chunk)
            todo += [(part, "", span) for span in spans]
            continue
        edits = forced_edits(depth) if part == "answers" else injected_edits(depth)
        spans = chunks(settings.n, settings.chunk)
        todo += [(part, name, span) for name in edits for span in spans]
    return [
        Unit("-".join(filter(None, (part, name, f"{span[0]:05d}"))), (part, name, span))
        for part, name, span in todo
    ]


def run_unit(model: Any, unit: Unit, settings: MediationSettings) -> pd.DataFrame:
    """One part on one chunk. Seeds are the run's: conditions share random numbers."""
    part, name, (first, last) = unit.payload
    items = read_items(settings)[first:last]
    depth = n_layers(model)
    if part == "forced":
        frame = forced(model, items, forced_edits(depth), settings)
    elif part == "prediction":
        frame = prediction(model, items, settings, samples=settings.prediction_samples)
    else:
        edits = (forced_edits(depth) if part == "answers" else injected_edits(depth))[name]
        _, frame = answers(model, items, group_of(edits), settings)
        frame = frame.assign(condition=name)
    return frame.assign(part=part, level=settings.level, family=settings.family)


def summarise(values: pd.DataFrame, settings: MediationSettings) -> Mapping[str, pd.DataFrame]:
    """Tables of the parts that were run."""
    seed = settings.seed
    by_part = {part: values[values["part"] == part] for part in PARTS}
    tables: dict[str, pd.DataFrame] = {}
    if not by_part["forced"].empty:
        tables["paths"] = path_table(by_part["forced"], seed=seed)
        tables["correlations"] = path_correlations(by_part["forced"], seed=seed)
        tables["summary"] = blocking_table(by_part["forced"], seed=seed)
    if not by_part["prediction"].empty:
        tables["prediction"] = prediction_table(by_part["prediction"], seed=seed)
    for part in ("answers", "injection"):
        if not by_part[part].empty:
            tables |= _answer_tables(by_part[part], part, seed)
    return {name: table for name, table in tables.items() if not table.empty}


def _answer_tables(values: pd.DataFrame, part: str, seed: int) -> dict[str, pd.DataFrame]:
    known = values.assign(
        is_correct=values["is_correct"].astype(bool), sample=values["sample"].astype(int)
    )
    tables = {
        f"{part}_accuracy": binary_table(
            known, condition="condition", reference=BASELINE, pair=["sample"], seed=seed
        )
    }
    placebos = against_placebos(known, seed=seed)
    if not placebos.empty:
        tables[f"{part}_placebos"] = placebos
    if part == "injection":
        stated = with_states(known)
        tables["injection_kinds"] = changes(stated, seed=seed)
        tables["injection_rates"] = rates(stated, seed=seed)
        tables["injection_caused"] = transitions(stated, seed=seed)
        tables["injection_flow"] = flow_against_local(stated, seed=seed)
    return tables


ANALYSIS = Analysis(
    "mediation",
    MediationSettings,
    units=units,
    run_unit=run_unit,
    summarise=summarise,
    checks=("score_edits", "head_edits", "gradients", "pattern_rows", "local_gradients"),
)

if __name__ == "__main__":
    main("analyses.mediation")
