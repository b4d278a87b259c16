"""Is StepFlow better than what else is said to make reasoning better?

Each problem is answered greedily under

    baseline               nothing                      both    StepFlow
    plan_and_solve         a plan is asked for first (Plan-and-Solve+, Wang et al., 2023)
    hint                   a sentence in place of the end of the thinking, once
    budget_forcing         "Wait" there, until the answer is ``--forced-length`` times as long (s1,
                           Muennighoff et al., 2025)
    attention_steering     the question emphasised in a quarter of the layers (PASTA)
    activation_steering    a vector of right minus wrong texts added after one layer

(the first three: `analyses.material.forcing`, the last two: `analyses.instruments.steering`). The
first three are words, so that they are asked of rows of a file alone: the bundled models have read
no language, and "Wait" is four letters to them. What the steerings need, layers and vectors, is
found on problems that are not answered. A second outcome is the loss of worked solutions, of those
that need no other text: it moves where no answer flips.

When it misleads: rivals in words have one setting each, the authors'. The steerings are fitted to
the model, by the loss of up to `N_PROFILED` worked solutions: attention steering its layers,
activation steering its vector, its layer (of three) and its strength (`COEFFICIENTS`). StepFlow has
the paper's setting and was fitted to nothing, so that losses of worked solutions favour the
steerings. A model that solves next to nothing tells no ways apart by accuracy.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal, get_args

import pandas as pd

from analyses.instruments.losses import LOSSES, gold_losses
from analyses.instruments.steering import (
    ActivationSteering,
    AttentionSteering,
    profiled,
    steering_vectors,
)
from analyses.material.answers import AnswerSettings, answers
from analyses.material.comparisons import against, answers_against, corrected_together
from analyses.material.conditions import BASELINE, METHODS
from analyses.material.flows import model_flow, reference_items
from analyses.material.forcing import HINT, WAIT, forced_responses
from analyses.material.problems import TASK, Item, gold_trace, is_right, read_items
from analyses.running.runner import EDITS, Analysis, Unit, main
from analyses.running.settings import option
from step_saliency.benchmark.conditions import PLAN
from step_saliency.intervene import Edit, EditGroup
from step_saliency.models.bands import Bands
from step_saliency.models.facts import n_layers
from step_saliency.stats.problems import mean_table
from step_saliency.trace import Trace

Rival = Literal[
    "plan_and_solve", "hint", "budget_forcing", "attention_steering", "activation_steering"
]
RIVALS: tuple[Rival, ...] = get_args(Rival)
WORDS: tuple[Rival, ...] = ("plan_and_solve", "hint", "budget_forcing")
FLOW = "both"
COEFFICIENTS = (0.5, 1.0, 2.0)
N_PROFILED = 16
"""Worked solutions that layers are chosen by."""


@dataclass(frozen=True, kw_only=True)
class RivalSettings(AnswerSettings):
    """Which rivals, and how answers are written."""

    rivals: tuple[Rival, ...] = option((), "which; all that the model can be asked")
    forced_length: float = option(1.35, "of budget forcing, times the tokens of the plain answer")
    n_losses: int = option(200, "losses of worked solutions of so many problems")

    @property
    def asked_for(self) -> tuple[Rival, ...]:
        """The rivals of the run.

        Raises:
            ValueError: words for a model of the bundled task.
        """
        words = [name for name in self.rivals if name in WORDS]
        if self.data == TASK and words:
            raise ValueError(
                f"rivals={words}: the models of the bundled task have read no language; ask them "
                "of a model that has, on rows of a file (--data FILE)"
            )
        able = RIVALS if self.data != TASK else tuple(set(RIVALS) - set(WORDS))
        return tuple(name for name in RIVALS if name in (self.rivals or able))


def steering(model: Any, name: Rival, settings: RivalSettings) -> Edit | EditGroup:
    """A steering, set up on problems that are not answered."""
    source = replace(settings, rivals=(), chunk=1)
    return _steering(model, name, source)


@lru_cache(maxsize=4)
def _steering(model: Any, name: Rival, settings: RivalSettings) -> Edit | EditGroup:
    items = reference_items(settings)
    gold = [gold_trace(model.tokenizer, item) for item in items]
    layers = range(n_layers(model))
    if name == "attention_steering":
        tried = profiled(model, (AttentionSteering([at]) for at in layers), gold[:N_PROFILED])
        width = len(Bands.quarters(n_layers(model)).shallow)
        return AttentionSteering(sorted(edit.layers[0] for edit in tried[:width]))
    written, graded = answers(model, items, None, replace(settings, samples=1, temperature=0.0))
    wrong = [
        _same_steps(model, item, trace)
        for item, trace, right in zip(items, written, graded["is_correct"], strict=True)
        if not right
    ]
    places = sorted({len(layers) // 4, len(layers) // 2, 3 * len(layers) // 4})
    vectors = steering_vectors(model, gold, wrong, places)
    every = (ActivationSteering([at], vectors[at], c) for at in places for c in COEFFICIENTS)
    return profiled(model, every, gold[:N_PROFILED])[0]


def _same_steps(model: Any, item: Item, trace: Trace) -> Trace:
    return trace if item.problem is None else item.problem.trace(model.tokenizer, trace.response)


def rivals(model: Any, items: Sequence[Item], settings: RivalSettings) -> pd.DataFrame:
    """Answers by every way: ``problem, condition, is_correct, n_tokens, finished``."""
    settings = replace(settings, samples=1, temperature=0.0)
    flows = {condition.name: condition for condition in METHODS}
    written, plain = answers(model, items, None, settings)
    frames = {BASELINE: plain}
    flow = model_flow(model, flows[FLOW], settings)
    frames[FLOW] = answers(model, items, flow, settings)[1]
    for name in settings.asked_for:
        if name == "plan_and_solve":
            instruction = PLAN.removeprefix("{question}\n")
            told = "\n".join(filter(None, (settings.instruction, instruction)))
            frames[name] = answers(model, items, None, replace(settings, instruction=told))[1]
        elif name in WORDS:
            frames[name] = _forced(model, items, written, plain, name, settings)
        else:
            edit = steering(model, name, settings)
            frames[name] = answers(model, items, edit, settings)[1]
    kept = ["problem", "sample", "is_correct", "n_tokens", "finished"]
    tables = [frame[kept].assign(condition=name) for name, frame in frames.items()]
    return pd.concat(tables, ignore_index=True)


def _forced(
    model: Any,
    items: Sequence[Item],
    written: Sequence[Trace],
    plain: pd.DataFrame,
    name: Rival,
    settings: RivalSettings,
) -> pd.DataFrame:
    """Answers that go on: by a hint as long as the model likes, by "Wait" to a length."""
    tokens = plain["n_tokens"].to_numpy(int)
    if name == "hint":
        extra, text, rounds = [settings.max_new_tokens] * len(items), HINT, 1
    else:
        extra = [math.ceil((settings.forced_length - 1) * n) for n in tokens]
        text, rounds = WAIT, None
    options: dict[str, Any] = {} if rounds is None else {"rounds": rounds}
    responses = forced_responses(model, written, settings, text=text, extra=extra, **options)
    lengths = [
        len(model.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in responses
    ]
    right = [is_right(item, text) for item, text in zip(items, responses, strict=True)]
    return plain.assign(is_correct=right, n_tokens=lengths)


def losses(model: Any, items: Sequence[Item], settings: RivalSettings) -> pd.DataFrame:
    """Losses of worked solutions under what needs no other text: ``problem, condition, ...``."""
    flows: dict[str, Any] = {
        condition.name: model_flow(model, condition, settings)
        for condition in METHODS
        if condition.name in (BASELINE, FLOW)
    }
    for name in settings.asked_for:
        if name not in WORDS:
            flows[name] = steering(model, name, settings)
    tables = [gold_losses(model, items, flow).assign(condition=c) for c, flow in flows.items()]
    return pd.concat(tables, ignore_index=True)


def rival_tables(values: pd.DataFrame, *, seed: int = 0, **draws: Any) -> dict[str, pd.DataFrame]:
    """Accuracy, each way against none, and StepFlow against each rival; the same for losses.

    Args:
        values: From `rivals` and `losses`, with ``kind``.
        seed: Of the draws.
        draws: As of `binary_table` and `paired_table`.
    """
    answered = values[values["kind"] == "answers"].assign(
        is_correct=lambda rows: rows["is_correct"].astype(bool)
    )
    tables = {
        "accuracy": mean_table(answered, "is_correct", by=["condition"], kind="share", seed=seed),
        "summary": answers_against(answered, BASELINE, seed=seed, **draws),
        "rivals": corrected_together(
            [answers_against(pair, name, seed=seed, **draws) for name, pair in _pairs(answered)]
        ),
    }
    forced = values[values["kind"] == "losses"]
    if not forced.empty:
        long = forced.melt(
            id_vars=["problem", "condition"], value_vars=[*LOSSES], var_name="outcome"
        ).dropna(subset=["value"])
        options: dict[str, Any] = {"by": ["outcome"], "kind": "measure", "seed": seed, **draws}
        tables["losses"] = against(long, "value", BASELINE, **options)
        tables["loss_rivals"] = corrected_together(
            [against(pair, "value", name, **options) for name, pair in _pairs(long)]
        )
    return {name: table for name, table in tables.items() if not table.empty}


def _pairs(values: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Each rival, and its rows with those of StepFlow."""
    present = [name for name in RIVALS if (values["condition"] == name).any()]
    return [(name, values[values["condition"].isin([FLOW, name])]) for name in present]


def units(settings: RivalSettings) -> list[Unit]:
    """Chunks of problems, answers before losses."""
    most = min(settings.n_losses, settings.n)
    assert settings.asked_for
    found = [Unit(f"answers-{a:05d}", ("answers", (a, b))) for a, b in settings.spans]
    spans = [(a, min(b, most)) for a, b in settings.spans if a < most]
    return found + [Unit(f"losses-{a:05d}", ("losses", (a, b))) for a, b in spans]


def run_unit(model: Any, unit: Unit, settings: RivalSettings) -> pd.DataFrame:
    """One chunk. Seeds are the run's."""
    kind, (first, last) = unit.payload
    items = read_items(settings)[first:last]
    measure = {"answers": rivals, "losses": losses}[kind]
    return measure(model, items, settings).assign(kind=kind)


def summarise(values: pd.DataFrame, settings: RivalSettings) -> Mapping[str, pd.DataFrame]:
    """Tables of the comparison."""
    return rival_tables(values, seed=settings.seed)


ANALYSIS = Analysis("rivals", RivalSettings, units, run_unit, summarise, checks=EDITS)

if __name__ == "__main__":
    main("analyses.rivals")
