"""Is StepFlow worth its compute? Against longer answers and self-consistency, with and without it.

Ways of spending compute on a problem:

    greedy   one greedy answer, cut after ``limit`` tokens: a longer answer is a higher limit
    sample   one answer at temperature 1 (``--vote-temperature``)
    vote     the answer of most of k such answers (`step_saliency.decoding.vote`)
    wait     the greedy answer with "Wait" (``--forced-text``) in place of the end of its thinking,
             until it is ``--forced-length`` times as long (budget forcing,
             `analyses.material.forcing`)

each with and without StepFlow, but for the last, which goes without. Accuracy stands beside what
was measured and what was counted:

    tokens        tokens generated, all k together
    cpu_seconds   processor time of decoding, measured in batches; an answer's part of its batch is
                  its part of the batch's tokens
    flops         2 N (P + T) + 4 L d sum_{t <= P + T} t for P tokens of prompt and T of response,
                  N weights without embeddings, L layers, d width of all heads: no batch shares a
                  prompt, and what the edits themselves compute (under 1%) is left out

``overhead`` is the ratio of processor time per token, StepFlow over none, over chunks of problems
that both answered one after the other.

When it misleads: measured times are of one machine and of this implementation, and no two runs have
the same. Time per token falls with the size of the batch, and k samples make larger batches than
one greedy answer: compare seconds within a method, tokens or flops across methods. With this task
answers end by themselves, so that a limit buys nothing once it is above their length; models that
go on thinking when they may are not in this comparison. The bundled models have never read the
word "Wait", and take it for a name; the reasoner's own word for it is "Then ". A vote needs answers
that can be compared, which a free text has not.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

import step_saliency as ss
from analyses.material.answers import AnswerSettings, answers
from analyses.material.comparisons import against, answers_against
from analyses.material.conditions import BASELINE, METHODS, Condition
from analyses.material.flows import model_flow
from analyses.material.forcing import WAIT, forced_responses, token_counts
from analyses.material.problems import TASK, Item, is_right, read_items
from analyses.running.runner import EDITS, Analysis, Unit, main
from analyses.running.settings import option
from step_saliency.models.facts import n_layers
from step_saliency.stats.binary import binary_table
from step_saliency.stats.problems import mean_table
from step_saliency.stats.statistic import bootstrap_means, ratio
from step_saliency.trace import Trace

VOTES = (2, 4, 8)
LIMITS = (96, 192, 384)
COMPARED = tuple(c for c in METHODS if c.name in (BASELINE, "both"))
COSTS = ("tokens", "cpu_seconds", "flops")
WAY = ("condition", "method", "k", "limit")
_OF_THE_WHOLE = ("answer", "error_kind", "first_wrong_step")
"""What is not known of an answer that is cut at a limit."""


def weights_used(model: Any) -> int:
    """Weights without embeddings and unembeddings."""
    skipped = ("embed", "unembed", "lm_head", "wte", "wpe")
    return sum(
        p.numel()
        for name, p in model.named_parameters()
        if not any(part in name.split(".") for part in (*skipped, "embed_tokens"))
    )


def flops(n_weights: int, layers: int, width: int, prompt: int, response: int) -> float:
    """Floating-point operations of one answer; see the module docstring."""
    length = prompt + response
    return 2.0 * n_weights * length + 4.0 * layers * width * length * (length + 1) / 2


def compute_matched(
    model: Any,
    items: Sequence[Item],
    settings: "ComputeSettings",
    *,
    compared: Sequence[Condition] = COMPARED,
) -> pd.DataFrame:
    """Answers by every way of spending compute.

    Args:
        model: The model.
        items: Problems of the bundled task, or rows with gold answers.
        settings: How answers are written; ``samples`` is the largest k.
        compared: Conditions; each answers everything.

    Returns:
        One row per problem, condition, method, k, limit and (``sample``) sample: ``is_correct,
        tokens, prompt_tokens, cpu_seconds, flops`` and, for single answers, kind and place of the
        first error.
    """
    counted = weights_used(model), n_layers(model), int(model.cfg.n_heads * model.cfg.d_head)
    tables = []
    for condition in compared:
        flow = model_flow(model, condition, settings)
        for temperature in (0.0, settings.vote_temperature):
            decoded = replace(settings, temperature=temperature)
            if temperature == 0:
                decoded = replace(decoded, samples=1, max_new_tokens=max(settings.limits))
            started = time.process_time()
            traces, frame = answers(model, items, flow, decoded)
            seconds = time.process_time() - started
            frame = _with_costs(frame, traces, seconds, counted)
            if temperature == 0:
                ways_taken = _limited(model, items, traces, frame, settings.limits, counted)
                if flow is None and settings.forced_length:
                    longer = _forced(model, items, traces, frame, settings, counted)
                    ways_taken = pd.concat([ways_taken, longer], ignore_index=True)
            else:
                singles = frame.assign(method="sample", k=1)
                ways_taken = pd.concat([singles, _votes(items, traces, frame, settings.samples)])
            tables.append(ways_taken.assign(condition=condition.name, temperature=temperature))
    joined = pd.concat(tables, ignore_index=True)
    return joined.astype({"limit": "Int64", "sample": "Int64", "k": "int64"})


def _with_costs(
    frame: pd.DataFrame, traces: Sequence[Trace], seconds: float, counted: tuple[int, int, int]
) -> pd.DataFrame:
    tokens = frame["n_tokens"].to_numpy()
    prompts = np.array([len(trace) for trace in traces]) - tokens
    of_answer = [flops(*counted, int(p), int(t)) for p, t in zip(prompts, tokens, strict=True)]
    return frame.rename(columns={"n_tokens": "tokens"}).assign(
        prompt_tokens=prompts,
        cpu_seconds=seconds * tokens / max(tokens.sum(), 1),
        flops=of_answer,
        limit=np.nan,
    )


def _limited(
    model: Any,
    items: Sequence[Item],
    traces: Sequence[Trace],
    frame: pd.DataFrame,
    limits: Sequence[int],
    counted: tuple[int, int, int],
) -> pd.DataFrame:
    """Greedy answers as they stand after so many tokens: decoding has no look-ahead."""
    tables = []
    for limit in limits:
        share = (limit / frame["tokens"].to_numpy(float)).clip(max=1.0)
        correct = frame["is_correct"].to_numpy(bool).copy()
        prompts = frame["prompt_tokens"].to_numpy(int)
        for at in np.flatnonzero(share < 1).tolist():
            tokens = traces[at].tokens[prompts[at] : prompts[at] + limit]
            correct[at] = is_right(items[at], model.tokenizer.decode(tokens))
        lengths = frame["tokens"].clip(upper=limit)
        spans = zip(prompts.tolist(), lengths.tolist(), strict=True)
        is_cut = pd.Series(share < 1, frame.index)
        cut = {
            "tokens": lengths,
            "cpu_seconds": frame["cpu_seconds"] * share,
            "flops": [flops(*counted, *span) for span in spans],
            "finished": frame["finished"] & ~is_cut,
            **{name: frame[name].mask(is_cut) for name in _OF_THE_WHOLE},
        }
        tables.append(frame.assign(is_correct=correct, method="greedy", k=1, limit=limit, **cut))
    return pd.concat(tables, ignore_index=True)


def _forced(
    model: Any,
    items: Sequence[Item],
    traces: Sequence[Trace],
    frame: pd.DataFrame,
    settings: "ComputeSettings",
    counted: tuple[int, int, int],
) -> pd.DataFrame:
    """Greedy answers made longer by "Wait"."""
    tokens = frame["tokens"].to_numpy(int)
    more = np.ceil((settings.forced_length - 1) * tokens).astype(int).tolist()
    started = time.process_time()
    responses = forced_responses(model, traces, settings, text=settings.forced_text, extra=more)
    seconds = time.process_time() - started
    lengths = token_counts(model.tokenizer, responses)
    added = np.array(lengths) - tokens
    spent = seconds * added.clip(min=0) / max(added.clip(min=0).sum(), 1)
    prompts = frame["prompt_tokens"].to_numpy(int)
    return frame.assign(
        is_correct=[is_right(item, text) for item, text in zip(items, responses, strict=True)],
        error_kind=pd.array([pd.NA] * len(frame), dtype="string"),
        first_wrong_step=pd.array([pd.NA] * len(frame), dtype="Int64"),
        method="wait",
        k=1,
        tokens=lengths,
        cpu_seconds=frame["cpu_seconds"] + spent,
        flops=[flops(*counted, int(p), n) for p, n in zip(prompts, lengths, strict=True)],
        limit=np.nan,
    )


def _votes(
    items: Sequence[Item], traces: Sequence[Trace], frame: pd.DataFrame, samples: int
) -> pd.DataFrame:
    tables = []
    for k in (k for k in VOTES if k <= samples):
        voters = [trace for trace in traces if trace.meta["sample"] < k]
        if items[0].problem is not None:
            voted = ss.vote(voters, problems=[item.problem for item in items])
        else:
            voted = ss.vote(voters, gold=[str(item.row.gold) for item in items if item.row])
        first = frame[frame["sample"] < k]
        costs = first.groupby("problem", sort=False)[[*COSTS, "prompt_tokens"]].sum().reset_index()
        correct = voted["is_correct"].to_numpy(bool)
        tables.append(costs.assign(is_correct=correct, method="vote", k=k))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def ways(values: pd.DataFrame, *, seed: int = 0, **draws: Any) -> pd.DataFrame:
    """Accuracy and costs of each way: one row per way and outcome."""
    tables = []
    for outcome in ("is_correct", *COSTS):
        table = mean_table(
            values.assign(**{outcome: values[outcome].astype(float)}),
            outcome,
            by=[*WAY],
            kind="share" if outcome == "is_correct" else "measure",
            seed=seed,
            **draws,
        )
        tables.append(table.assign(outcome="accuracy" if outcome == "is_correct" else outcome))
    return pd.concat(tables, ignore_index=True)


def named(values: pd.DataFrame) -> pd.DataFrame:
    """Values with a column ``way`` that names condition, method, k and limit together."""
    limit = values["limit"].map(lambda x: "" if pd.isna(x) else f"-{int(x)}")
    k = values["k"].map(lambda k: "" if k == 1 else f"-{int(k)}")
    return values.assign(way=values["condition"] + " " + values["method"] + k + limit)


def comparisons(values: pd.DataFrame, *, seed: int = 0, **draws: Any) -> pd.DataFrame:
    """Paired differences in accuracy.

    Returns:
        Rows of `binary_table` with ``question``: ``same way`` (StepFlow against none, the same
        method, k and limit) and ``against greedy`` (each way against the baseline's greedy answer).
    """
    labelled = named(values)
    labelled["sample"] = labelled["sample"].fillna(0)
    by = ["method", "k", "limit"]
    same = answers_against(labelled, BASELINE, by=by, seed=seed, **draws)
    same = same.assign(question="same way")
    once = labelled[labelled["method"] != "sample"]
    longest = once.loc[once["limit"].notna(), "limit"].max()
    greedy = binary_table(
        once, condition="way", reference=f"{BASELINE} greedy-{longest}", seed=seed, **draws
    )
    greedy = greedy.assign(question="against greedy").rename(columns={"way": "condition"})
    return pd.concat([same, greedy], ignore_index=True)


def overhead(values: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """Processor time per token, StepFlow over none, and tokens per answer, over chunks."""
    rows = []
    single = values[values["method"] == "sample"]
    totals = single.groupby(["chunk", "condition"])[["cpu_seconds", "tokens"]].sum().reset_index()
    totals["per_token"] = totals["cpu_seconds"] / totals["tokens"]
    for outcome in ("per_token", "tokens"):
        wide = totals.pivot(index="chunk", columns="condition", values=outcome)
        for name in [c for c in wide.columns if c != BASELINE]:
            pairs = wide[[name, BASELINE]].to_numpy(float)
            estimate = bootstrap_means(pairs, ratio, interval="percentile", seed=seed)
            names = {"condition": name, "reference": BASELINE, "outcome": f"{outcome} ratio"}
            rows.append(names | estimate.row() | {"unit": "chunk of problems"})
    return pd.DataFrame(rows)


def cost_effects(values: pd.DataFrame, *, seed: int = 0, **draws: Any) -> pd.DataFrame:
    """Tokens and flops of StepFlow minus none, the same way, paired within problems."""
    long = values.melt(
        id_vars=["problem", *WAY], value_vars=["tokens", "flops"], var_name="outcome"
    )
    by = ["outcome", "method", "k", "limit"]
    return against(long.astype({"value": float}), "value", BASELINE, by=by, seed=seed, **draws)


@dataclass(frozen=True, kw_only=True)
class ComputeSettings(AnswerSettings):
    """Votes of up to ``samples`` answers, and limits of a greedy one."""

    samples: int = max(VOTES)
    chunk: int = 50
    batch_size: int = 200
    limits: tuple[int, ...] = LIMITS
    vote_temperature: float = option(1.0, "of samples and votes", later=True)
    forced_length: float = option(
        0.0, "times as long by --forced-text, such as 1.35; 0 leaves it out", later=True
    )
    forced_text: str = option(WAIT, "in place of the end of the thinking", later=True)


def units(settings: ComputeSettings) -> list[Unit]:
    """Chunks of problems; all conditions of a chunk run one after the other."""
    return [Unit(f"problems-{start:05d}", (start, stop)) for start, stop in settings.spans]


def run_unit(model: Any, unit: Unit, settings: ComputeSettings) -> pd.DataFrame:
    """Everything for one chunk. Seeds are the run's: conditions share random numbers.

    Conditions take turns in going first, so that what a process does once is charged to neither.
    """
    first, last = unit.payload
    items = read_items(settings)[first:last]
    turn = 1 if first // settings.chunk % 2 == 0 else -1
    frame = compute_matched(model, items, settings, compared=COMPARED[::turn])
    place = {condition.name: number for number, condition in enumerate(COMPARED)}
    frame = frame.sort_values("condition", key=lambda names: names.map(place), kind="stable")
    task = settings.data == TASK
    return frame.reset_index(drop=True).assign(
        chunk=unit.name,
        level=settings.level if task else None,
        family=settings.family if task else None,
    )


def summarise(values: pd.DataFrame, settings: ComputeSettings) -> Mapping[str, pd.DataFrame]:
    """Accuracy and costs of the ways, their differences, and StepFlow's overhead."""
    seed = settings.seed
    values = values.assign(is_correct=values["is_correct"].astype(bool))
    return {
        "summary": ways(values, seed=seed),
        "comparisons": comparisons(values, seed=seed),
        "costs": cost_effects(values, seed=seed),
        "overhead": overhead(values, seed=seed),
    }


ANALYSIS = Analysis("compute_matched", ComputeSettings, units, run_unit, summarise, checks=EDITS)

if __name__ == "__main__":
    main("analyses.compute_matched")
