"""Named interventions, and what a model answers under them to the same problems.

A `Condition` is a row of a table: which half of StepFlow acts (``edit``), in which layers
(``bands``), how strongly (``tau_max``, ``alpha``), and what about it was made meaningless
(``placebo``). `condition_flow` makes the edits of it. Bands:

    quarter, third, half    the lowest ceil(L / 4), ceil(L / 3), floor(L / 2) of the L layers for
                            the bridge, as many of the highest for momentum
    window-A                as many layers as a quarter, from layer A on, for either
    random                  as many layers as a quarter, drawn from the other layers
    automatic               `step_saliency.diagnosis.find_bands` on other problems: of another seed,
                            or rows of the file after the first n

Pairing. Whatever the condition, problem i, sample s draws the random numbers of (seed, i, s), and
greedy answers draw none: conditions differ by the intervention alone, and are compared within
problem and sample.

When it misleads: common random numbers make pairs alike only up to the first token that differs;
after it, the two answers are as good as independent. Many answers that an intervention "corrects"
would have been right in another sample too: compare with a placebo, never with zero.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

import step_saliency as ss
from analyses.material.problems import TASK, Item, SourceSettings, asked, file_items
from analyses.running.settings import option
from step_saliency.diagnosis import Bands, diagnose, find_bands
from step_saliency.intervene import OddsEqualBridge, StepFlow, StepMomentumInjection
from step_saliency.intervene.placebos import MomentumBank, momentum_bank, random_layers
from step_saliency.models.facts import device_of
from step_saliency.models.facts import n_layers as layers_of
from step_saliency.tasks import make_problems
from step_saliency.tasks.answers import is_correct
from step_saliency.tasks.grading import split_response
from step_saliency.trace import Region, Trace

BASELINE = "baseline"
REFERENCE_SEED = 7_919
"""Added to the seed of the problems for those that only set something up."""
N_REFERENCE = 48
N_REFERENCE_ROWS = 16


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
        seed: Of lots.
    """

    name: str
    group: str = "method"
    edit: str = "none"
    bands: str = "quarter"
    tau_max: float = 0.15
    alpha: float = 0.06
    placebo: str | None = None
    seed: int = 0

    def columns(self) -> dict[str, Any]:
        """As columns of a table; what does not apply is missing."""
        row = asdict(self)
        row["condition"] = row.pop("name")
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


def layers_in(
    bands: str, n_layers: int, *, seed: int = 0, automatic: Bands | None = None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Layers of the bridge and of momentum.

    Args:
        bands: Name, see the module docstring.
        n_layers: Layers of the model.
        seed: Of random layers.
        automatic: What was found, for ``"automatic"``.

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


def condition_flow(
    condition: Condition,
    n_layers: int,
    *,
    automatic: Bands | None = None,
    bank: MomentumBank | None = None,
) -> StepFlow | None:
    """The intervention of a condition; None where nothing is left to do.

    Args:
        condition: The condition.
        n_layers: Layers of the model.
        automatic: Bands that were found, for ``bands="automatic"``.
        bank: Steps of other traces, for ``placebo="other"``.

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
    if condition.placebo is None:
        return flow
    return flow.placebo(condition.placebo, condition.seed, n_layers=n_layers, bank=bank)


def model_flow(model: Any, condition: Condition, settings: SourceSettings) -> StepFlow | None:
    """`condition_flow` with bands and banks made on other problems where they are wanted."""
    source = (settings.data, settings.n, settings.level, settings.family, settings.seed)
    automatic = bank = None
    if condition.bands == "automatic":
        automatic = _automatic_bands(model, *source)
    if condition.placebo == "other":
        bank = _bank(model, *source)
    return condition_flow(condition, layers_of(model), automatic=automatic, bank=bank)


def flow_layers(flow: StepFlow | None) -> dict[str, str]:
    """Layers of both halves, as columns."""
    oeb, smi = (None, None) if flow is None else (flow.oeb, flow.smi)
    return {
        f"{name}_layers": "" if edit is None else " ".join(map(str, edit.layers))
        for name, edit in (("oeb", oeb), ("smi", smi))
    }


@lru_cache(maxsize=1)
def _automatic_bands(model: Any, data: str, n: int, level: str, family: str, seed: int) -> Bands:
    """Bands by the depth curves of own answers to other problems, or of a file's solutions."""
    if data == TASK:
        problems = _other_problems(level, family, seed)
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
        items = _other_rows(data, n)
        traces = [_of_problem(gold_trace(model.tokenizer, item), item.id) for item in items]
    diagnoses = [diagnose(ss.step_saliency(model, trace)) for trace in traces]
    return find_bands(diagnoses, seed=seed).bands


@lru_cache(maxsize=1)
def _bank(model: Any, data: str, n: int, level: str, family: str, seed: int) -> MomentumBank:
    """Momentum of solutions of other problems of the task, or of other rows of a file."""
    if data == TASK:
        traces = [p.trace(model.tokenizer) for p in _other_problems(level, family, seed)]
    else:
        traces = [gold_trace(model.tokenizer, item) for item in _other_rows(data, n)]
    return momentum_bank(model, traces, layers=range(layers_of(model)), progress=False)


def _other_problems(level: Any, family: Any, seed: int) -> list[Any]:
    return make_problems(N_REFERENCE, level, seed + REFERENCE_SEED, family=family)


def _other_rows(data: str, n: int) -> list[Item]:
    """The last rows of a file that are not among the n problems that are answered."""
    rows = file_items(data)[n:][-N_REFERENCE_ROWS:]
    if not rows:
        raise ValueError(
            f"n={n}: {data} has no other rows to find bands or take momentum from; answer fewer of "
            f"them (up to {N_REFERENCE_ROWS} are set aside)"
        )
    return rows


def check_depth(model: Any, depth: int) -> None:
    """Raise ValueError if conditions were made for a model of another depth."""
    if layers_of(model) != depth:
        raise ValueError(
            f"depth={depth}: the model has {layers_of(model)} layers; windows would not "
            f"tile it (--depth {layers_of(model)})"
        )


def _of_problem(trace: Trace, name: str) -> Trace:
    return replace(trace, id=name, meta={**trace.meta, "problem": name})


def gold_trace(tokenizer: Any, item: Item) -> Trace:
    """The gold solution of a problem.

    Raises:
        ValueError: a row of a file that has none.
    """
    if item.problem is not None:
        return item.problem.trace(tokenizer)
    if item.row is None or item.row.gold is None:
        raise ValueError(f"{item.id} has no gold answer to take the loss of")
    return Trace.from_text(tokenizer, question=item.question, response=item.row.gold, id=item.id)


def answers(
    model: Any, items: Sequence[Item], flow: Any, settings: "AnswerSettings"
) -> tuple[list[Trace], pd.DataFrame]:
    """What the model answers, and how that is graded.

    Args:
        model: The model.
        items: Problems.
        flow: Intervention, or None.
        settings: How answers are written.

    Returns:
        Traces, and one row per answer: ``problem, sample, is_correct, answer, error_kind,
        first_wrong_step, n_steps, n_tokens, finished``. Kind and place of the first error are known
        for the bundled task alone.
    """
    written = ss.generate(
        model,
        [asked(item, settings.instruction) for item in items],
        flow=flow,
        n=settings.samples,
        temperature=settings.temperature,
        max_new_tokens=settings.max_new_tokens,
        seed=settings.seed,
        question_numbers=[item.number for item in items],
        batch_size=settings.batch_size,
        progress=False,
    )
    owners = [item for item in items for _ in range(settings.samples)]
    rows = [_graded(item, trace) for item, trace in zip(owners, written, strict=True)]
    types = {"first_wrong_step": "Int64", "error_kind": "string", "answer": "string"}
    return written, pd.DataFrame(rows).astype(types)


def _graded(item: Item, trace: Trace) -> dict[str, Any]:
    row: dict[str, Any] = {
        "problem": item.id,
        "sample": int(trace.meta["sample"]),
        "n_tokens": int(trace.meta["response_tokens"]),
        "finished": bool(trace.meta["finished"]),
        "answer": None,
        "error_kind": None,
        "first_wrong_step": None,
    }
    if item.problem is None:
        assert item.row is not None
        assert item.row.gold is not None
        correct = is_correct(trace.response, item.row.gold)
        return row | {"is_correct": correct, "n_steps": len(trace.region_steps(Region.THINKING))}
    grade = item.problem.grade(trace.response)
    return row | {
        "is_correct": grade.is_correct,
        "answer": grade.answer,
        "error_kind": grade.error_kind,
        "first_wrong_step": grade.first_wrong_step,
        "n_steps": len(split_response(trace.response)[0]),
    }


def gold_losses(model: Any, items: Sequence[Item], flow: Any) -> pd.DataFrame:
    """Loss of the gold solution under an intervention: it moves where no answer flips.

    Returns:
        One row per problem: ``problem, loss`` (mean over tokens of thinking and summary, nats),
        ``answer_loss`` (mean over tokens of the summary).
    """
    rows = []
    for item in items:
        trace = gold_trace(model.tokenizer, item)
        losses = token_losses(model, trace, flow)
        written = torch.cat([torch.arange(s.start, s.stop) for s in _steps(trace, *_WRITTEN)]) - 1
        summary = [torch.arange(s.start, s.stop) for s in _steps(trace, Region.SUMMARY)]
        answer = float(losses[torch.cat(summary) - 1].mean()) if summary else float("nan")
        rows.append(
            {
                "problem": item.id,
                "loss": float(losses[written].mean()),
                "answer_loss": answer,
            }
        )
    return pd.DataFrame(rows)


_WRITTEN = (Region.THINKING, Region.SUMMARY)


def _steps(trace: Trace, *regions: Region) -> list[Any]:
    return [trace.steps[i] for i in trace.region_steps(*regions)]


@torch.no_grad()
def token_losses(model: Any, trace: Trace, flow: Any) -> Float[Tensor, "pos"]:
    """Cross-entropy of the token after each position but the last, in a full pass, on the CPU."""
    tokens = trace.tokens[None].to(device_of(model))
    with nullcontext() if flow is None else flow.attached(model, trace=trace):
        logits = model(tokens, attention_mask=torch.ones_like(tokens), return_type="logits")
    return torch.nn.functional.cross_entropy(
        logits[0, :-1].float().cpu(), trace.tokens[1:], reduction="none"
    )


@dataclass(frozen=True, kw_only=True)
class AnswerSettings(SourceSettings):
    """Of an analysis in which a model answers problems: what `answers` reads."""

    max_new_tokens: int = 192
    samples: int = option(1, "answers per problem")
    batch_size: int = 250
    chunk: int = option(250, "problems per unit")


def chunks(count: int, size: int) -> list[tuple[int, int]]:
    """First problem of each unit, and the first after it."""
    return [(start, min(start + size, count)) for start in range(0, count, size)]
