"""Do the maps hold for other long texts: dialogues and documents, and other sizes of step?

Texts (column ``text``), made of problems with known answers so that what the last response is about
is known:

    single      one question and its answer
    dialogue    earlier questions and answers of other problems, then the question: relevant is the
                last question among the earlier turns
    document    passages (other problems' questions) with the relevant one in a place drawn by lot,
                then a request for the answer to it: relevant is that passage

with responses cut by ``splitter``: sentences, lines or paragraphs. For each trace, teacher-forced:

    relevant    share of the response's rows on the relevant part, of what falls on all context
                parts; mean over rows, layers and heads
    excess      relevant minus the share of the context's tokens that the relevant part has: 0 for a
                map that follows length alone
    top         whether the relevant part has the largest share per token among the context parts
    lock_in, decay, lock_in_index, decay_index      as `step_saliency.diagnosis`

for Step-Saliency (loss and log-odds) and attention, pooled by mass. Chance for ``top`` is one over
the number of context parts (``n_parts``).

When it misleads: gold answers are not the model's own words. In a dialogue the relevant part is
also the nearest, so that a map of mere distance does well; in a document it is not. The bundled
reasoner never saw several turns, so that its dialogues are far from its training; it gets no
documents, since passages share their variables.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

import step_saliency as ss
from analyses.material.problems import TASK, Item, SourceSettings, read_items
from analyses.running.runner import Analysis, Unit, main
from analyses.running.settings import option
from step_saliency.diagnosis import diagnose
from step_saliency.models.facts import device_of, n_layers
from step_saliency.saliency.pooling import normalise, step_layout, sum_tokens
from step_saliency.saliency.result import StepSaliency
from step_saliency.segment.pieces import TokenPieces
from step_saliency.stats.multiplicity import with_holm
from step_saliency.stats.problems import mean_table
from step_saliency.tasks.answers import gold_answer
from step_saliency.trace import Region, Trace

TextName = Literal["single", "dialogue", "document"]
TEXTS: tuple[TextName, ...] = get_args(TextName)
SplitterName = Literal["sentence", "line", "paragraph"]
SPLITTERS: tuple[SplitterName, ...] = get_args(SplitterName)
METHODS = ("next_token", "log_odds", "attention")
METRICS = ("relevant", "excess", "top", "lock_in", "decay", "lock_in_index", "decay_index")
ASK = "Answer the question of problem {number} only."


@dataclass(frozen=True, eq=False)
class Text:
    """A trace, and which of its context steps its response is about.

    Attributes:
        trace: The trace; its context parts are steps of region question.
        parts: Indices of these steps.
        relevant: Index among them; None where there is only one.
    """

    trace: Trace
    parts: tuple[int, ...]
    relevant: int | None


def solution_of(item: Item) -> str:
    """Worked solution of a problem.

    Raises:
        ValueError: a row without one.
    """
    if item.problem is not None:
        return item.problem.solution
    if item.row is None or item.row.gold is None:
        raise ValueError(f"{item.id} has no worked solution")
    solution = item.row.gold
    return solution if "####" not in solution else _plain(solution)


def _plain(solution: str) -> str:
    """A GSM8K solution without its calculator marks, its answer as a sentence."""
    body = solution.rsplit("####", 1)[0].strip()
    while "<<" in body and ">>" in body:
        body = body[: body.index("<<")] + body[body.index(">>") + 2 :]
    return f"{body}\n\nThe answer is {gold_answer(solution)}."


def make_text(
    tokenizer: Any,
    kind: str,
    item: Item,
    others: Sequence[Item],
    *,
    splitter: SplitterName = "sentence",
    seed: int = 0,
) -> Text:
    """A text about one problem, with others around it.

    Args:
        tokenizer: Tokenizer with a chat template.
        kind: One of `TEXTS`.
        item: The problem that the response answers.
        others: Problems of earlier turns, or of other passages.
        splitter: How the response is cut.
        seed: Of the place of the relevant passage.

    Raises:
        ValueError: an unknown kind.
    """
    last = {"role": "assistant", "content": _reply(item)}
    if kind == "document":
        return _document(tokenizer, item, others, last, splitter, seed)
    if kind not in TEXTS:
        raise ValueError(f"text {kind!r} is unknown; choose one of {TEXTS}")
    messages: list[dict[str, str]] = []
    for other in others if kind == "dialogue" else ():
        messages.append({"role": "user", "content": other.question})
        messages.append({"role": "assistant", "content": _reply(other)})
    messages.append({"role": "user", "content": item.question})
    trace = ss.Trace.from_messages(tokenizer, [*messages, last], splitter=splitter)
    parts = tuple(trace.region_steps(Region.QUESTION))
    return Text(trace, parts, len(parts) - 1 if len(parts) > 1 else None)


def _reply(item: Item) -> str:
    solution = solution_of(item)
    return f"<think>\n{solution}" if item.problem is not None else solution


def _document(
    tokenizer: Any,
    item: Item,
    others: Sequence[Item],
    last: Mapping[str, str],
    splitter: SplitterName,
    seed: int,
) -> Text:
    place = int(np.random.default_rng([seed, item.number]).integers(len(others) + 1))
    passages = [other.question for other in others]
    passages.insert(place, item.question)
    written = [f"Problem {i + 1}. {' '.join(p.split())}\n\n" for i, p in enumerate(passages)]
    content = "".join(written) + ASK.format(number=place + 1)
    messages = [{"role": "user", "content": content}, dict(last)]
    trace = ss.Trace.from_messages(tokenizer, messages, splitter=splitter)
    cut = _cut_question(tokenizer, trace, content, [len(text) for text in written])
    return Text(cut, tuple(cut.region_steps(Region.QUESTION)[: len(written)]), place)


def _cut_question(tokenizer: Any, trace: Trace, content: str, lengths: Sequence[int]) -> Trace:
    """The question's step cut where its passages begin."""
    pieces = TokenPieces(tokenizer).pieces(trace.tokens.tolist())
    offsets = np.cumsum([0, *(len(piece) for piece in pieces)])
    begin = "".join(pieces).index(content)
    question = trace.region_steps(Region.QUESTION)
    first, stop = trace.steps[question[0]].start, trace.steps[question[-1]].stop
    inner = [begin + offset for offset in accumulate(lengths)]
    cuts = {int(np.searchsorted(offsets, at, side="left")) for at in inner}
    starts = sorted({*trace.starts, *(at for at in cuts if first < at < stop)})
    return trace.with_steps(starts=starts, tokenizer=tokenizer)


def mass_maps(
    model: Any, trace: Trace, method: str
) -> tuple[Any, Float[Tensor, "layer step step"]]:
    """Step map of a method pooled by mass, averaged over heads; and the saliency it came from."""
    if method == "attention":
        return None, _attention_map(model, trace)
    objective: Any = method
    saliency: StepSaliency = ss.step_saliency(model, trace, objective=objective, pool="mass")
    return saliency, saliency.maps.cpu().float()


@torch.no_grad()
def _attention_map(model: Any, trace: Trace) -> Float[Tensor, "layer step step"]:
    layout = step_layout(trace.step_ids)
    found: dict[int, Tensor] = {}

    def keep(layer: int) -> Any:
        def hook(pattern: Float[Tensor, "1 head query key"], hook: Any) -> None:
            sums = sum_tokens(pattern[0].float().mean(0), layout)
            found[layer] = normalise(sums, layout, "mass").cpu()

        return f"blocks.{layer}.attn.hook_pattern", hook

    tokens = trace.tokens[None].to(device_of(model))
    with model.hooks(fwd_hooks=[keep(layer) for layer in range(n_layers(model))]):
        model(tokens, attention_mask=torch.ones_like(tokens))
    return torch.stack([found[layer] for layer in range(n_layers(model))])


def relevance(maps: Float[Tensor, "layer step step"], text: Text) -> dict[str, float]:
    """``relevant``, ``excess`` and ``top`` of a map; missing without other parts."""
    if text.relevant is None:
        return dict.fromkeys(("relevant", "excess", "top"), float("nan"))
    rows = text.trace.region_steps(Region.THINKING, Region.SUMMARY)
    on_parts = maps[:, rows][..., list(text.parts)].double()
    shares = on_parts / on_parts.sum(-1, keepdim=True)
    shares = shares.nanmean((0, 1))
    lengths = torch.tensor([len(text.trace.steps[i]) for i in text.parts]).double()
    expected = float(lengths[text.relevant] / lengths.sum())
    relevant = float(shares[text.relevant])
    top = int((shares / lengths).argmax()) == text.relevant
    return {"relevant": relevant, "excess": relevant - expected, "top": float(top)}


def granularity(
    model: Any,
    items: Sequence[Item],
    pool: Sequence[Item],
    *,
    texts: Sequence[str],
    splitters: Sequence[SplitterName] = SPLITTERS,
    n_others: int = 3,
    seed: int = 0,
) -> pd.DataFrame:
    """Metrics of texts about problems.

    Args:
        model: The model.
        items: Problems.
        pool: Problems that others are drawn from.
        texts: Kinds of text.
        splitters: How responses are cut; those after the first for Step-Saliency's loss alone.
        n_others: Earlier turns or other passages.
        seed: Of the lots.

    Returns:
        One row per problem, text, splitter, method, metric and layer (missing: over layers):
        ``value, n_tokens, n_steps, n_parts``.
    """
    rows: list[dict[str, Any]] = []
    for item in items:
        rng = np.random.default_rng([seed, item.number, 1])
        free = [other for other in pool if other.id != item.id]
        others = [free[i] for i in rng.permutation(len(free))[:n_others]]
        for kind in texts:
            for splitter in splitters:
                text = make_text(model.tokenizer, kind, item, others, splitter=splitter, seed=seed)
                for method in METHODS if splitter == splitters[0] else METHODS[:1]:
                    told: dict[str, Any] = {"problem": item.id, "text": kind, "splitter": splitter}
                    told |= {"method": method, "n_tokens": len(text.trace)}
                    told |= {"n_steps": text.trace.n_steps, "n_parts": len(text.parts)}
                    rows += [told | row for row in _metric_rows(model, text, method)]
    return pd.DataFrame(rows).astype({"layer": "Int64"})


def _metric_rows(model: Any, text: Text, method: str) -> list[dict[str, Any]]:
    saliency, maps = mass_maps(model, text.trace, method)
    rows = [{"metric": m, "layer": None, "value": v} for m, v in relevance(maps, text).items()]
    if saliency is None:
        return rows
    found = diagnose(saliency)
    rows.append({"metric": "lock_in_index", "layer": None, "value": found.lock_in_index})
    rows.append({"metric": "decay_index", "layer": None, "value": found.decay_index})
    for metric, curve in (("lock_in", found.lock_in), ("decay", found.decay)):
        values = curve.tolist()
        rows += [{"metric": metric, "layer": at, "value": v} for at, v in enumerate(values)]
    return rows


@dataclass(frozen=True, kw_only=True)
class GranularitySettings(SourceSettings):
    """Texts, and how they are cut."""

    texts: tuple[TextName, ...] = TEXTS
    splitters: tuple[SplitterName, ...] = SPLITTERS
    others: int = option(3, "earlier turns, or other passages")


def units(settings: GranularitySettings) -> list[Unit]:
    """One unit a problem."""
    return [Unit(f"problem-{number:05d}", number) for number in range(settings.n)]


def run_unit(model: Any, unit: Unit, settings: GranularitySettings) -> pd.DataFrame:
    """All texts about one problem."""
    items = read_items(replace(settings, n=settings.n + settings.others))
    texts = [t for t in settings.texts if t != "document" or settings.data != TASK]
    return granularity(
        model,
        [items[unit.payload]],
        items,
        texts=texts,
        splitters=settings.splitters,
        n_others=settings.others,
        seed=settings.seed,
    )


def summarise(values: pd.DataFrame, settings: GranularitySettings) -> Mapping[str, pd.DataFrame]:
    """Means over problems; ``excess`` is tested against 0, with Holm's correction over its rows."""
    by = ["text", "splitter", "method", "metric", "layer"]
    known, seed = values.dropna(subset=["value"]), settings.seed
    tables = [
        mean_table(rows, "value", by=by, null=0.0 if metric == "excess" else None, seed=seed)
        for metric, rows in known.groupby("metric", sort=False)
    ]
    joined = with_holm(pd.concat(tables, ignore_index=True))
    sizes = values.groupby(["text", "splitter"])[["n_tokens", "n_steps", "n_parts"]].mean()
    summary = joined.merge(sizes.reset_index(), on=["text", "splitter"])
    is_curve = summary["layer"].notna()
    return {
        "summary": summary[~is_curve].reset_index(drop=True),
        "curves": summary[is_curve].reset_index(drop=True),
    }


ANALYSIS = Analysis(
    "granularity",
    GranularitySettings,
    units=units,
    run_unit=run_unit,
    summarise=summarise,
    checks=("gradients", "pattern_rows", "local_gradients"),
    keep_values=False,
)

if __name__ == "__main__":
    main("analyses.granularity")
