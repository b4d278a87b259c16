"""What a run will take, before it is run: jobs, tokens, memory per GPU, rough hours.

    tokens     problems x samples x the average length of responses (a number of each suite, at most
               the longest response)
    memory     weights + keys and values of one batch, each row at the longest response and at the
               average one; several cards of one model share it
    hours      passes x seconds of a pass; passes = tokens / (batch x how full it is kept),
               seconds = bytes of weights and of keys and values read / bandwidth + layers x the
               time that a layer's calls take to launch; an edited pass takes EDITED as long

The launch time is fitted to one round of a measurement: of the shape of Qwen2-7B, 32 rows on one
H200, 2,060 tokens a second and 1,180 under StepFlow (``benchmarks/results/qwen2-7b-cuda.md``); with
that card's bandwidth the formula says 2,070 and 1,290.

When it misleads: hours are rough to a factor of two either way. Lengths of responses differ by
model, and the launch time by machine; a run of a few problems says more. Nothing was measured at
lengths of thousands of tokens, of experts, or of a model over several cards.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import torch
from transformers import AutoModelForCausalLM

from step_saliency.benchmark.command.settings import BenchmarkSettings
from step_saliency.benchmark.command.votes import without_votes
from step_saliency.benchmark.conditions import condition_of
from step_saliency.benchmark.presets import Preset, Shape
from step_saliency.benchmark.suites.suites import items_of, suite_of
from step_saliency.models.checkpoint import read_config
from step_saliency.models.facts import stated
from step_saliency.models.sources import resolve_source

BANDWIDTH = 2.0e12
"""Bytes a second of a card with 80 GB (A100; an H100 has 3.35e12)."""
CARD_GB = 80
"""Of a card's memory; what a run takes beside weights, keys and values is within its rest."""
USED = 0.6
"""Share of the bandwidth that is reached."""
LAUNCH = 0.36e-3
"""Seconds that the calls of one layer take to launch, most of them by CUDA graphs; without graphs,
as where a model lies on several cards, about three times as long."""
EDITED = 1.6
"""Time of a pass under StepFlow over one without: 1.75, and 1.48 and 1.56, were measured on
two cards, where a pass without has become shorter; the paper gives 1.35."""
FULL = 0.85
"""Share of a batch's rows that are at work."""
PROMPT = 300
"""Tokens of a prompt."""


@dataclass(frozen=True)
class Plan:
    """What a run will take.

    Attributes:
        jobs: One row a suite and condition: suite, condition, problems, samples, responses, tokens,
            hours.
        weights_gb: Of the model.
        cache_gb: Keys and values of a batch at the average length.
        longest_cache_gb: The same where every row has the longest response.
        speed: Tokens a second of the baseline, over all of its suites.
        settings: Of the run.
        workers: That share the run.
        notes: What is not known, and what does not fit.
    """

    jobs: pd.DataFrame
    weights_gb: float
    cache_gb: float
    longest_cache_gb: float
    speed: float
    settings: BenchmarkSettings
    workers: int = 1
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        preset = self.settings.preset
        hours, n = self.jobs["hours"].sum(skipna=False), self.workers
        shown = self.jobs.assign(
            tokens=self.jobs["tokens"].map("{:,.0f}".format), hours=self.jobs["hours"].map(_hours)
        )
        lines = [
            f"model      {self.settings.model}",
            f"settings   {preset.name}: {', '.join(_settings(preset))} ({preset.source})",
            "",
            shown.to_string(index=False),
            "",
            f"tokens     {self.jobs['tokens'].sum():,.0f} in {self.jobs['responses'].sum():,} "
            "responses",
            f"memory     {_gigabytes(self.weights_gb)} weights, {_gigabytes(self.cache_gb)} keys "
            f"and values at the average length ({_gigabytes(self.longest_cache_gb)} at the "
            f"longest), {self.settings.batch_size} responses at a time",
            f"speed      {_count(self.speed)} tokens a second without an edit, {EDITED} times the "
            f"time with one; of {BANDWIDTH / 1e12:.3g} TB/s {USED:.0%} used, {1e3 * LAUNCH:.3g} ms "
            f"a layer and pass, {FULL:.0%} of rows at work",
            f"hours      {_hours(hours)} on one card with {CARD_GB} GB, rough to a factor of two"
            + (f"; {_hours(hours / n)} with {n} workers" if n > 1 else ""),
            *(f"note       {note}" for note in self.notes),
        ]
        return "\n".join(lines)


def make_plan(settings: BenchmarkSettings, *, workers: int = 1) -> Plan:
    """The plan of a run; reads no weights.

    Args:
        settings: Of the run.
        workers: That share it, each with a model of its own.

    Raises:
        ValueError: problems of a local file that cannot be read.
    """
    notes: list[str] = []
    shape, bytes_each = _shape(settings, notes), _bytes_each(settings)
    jobs = [_job(settings, *run, shape, bytes_each, notes) for run in settings.runs]
    table = pd.DataFrame(jobs)
    average = float((table["tokens"].sum() / max(1, table["responses"].sum())) + PROMPT)
    longest = _longest(settings, notes)
    plain = table[table["condition"] == "baseline"]
    plan = Plan(
        jobs=table,
        weights_gb=math.nan if shape is None else shape.parameters * bytes_each / 1e9,
        cache_gb=_cache(shape, bytes_each, settings.batch_size, average) / 1e9,
        longest_cache_gb=_cache(shape, bytes_each, settings.batch_size, longest) / 1e9,
        speed=float(plain["tokens"].sum() / plain["hours"].sum(skipna=False) / 3600),
        settings=settings,
        workers=workers,
    )
    notes += [*_fit(plan), *without_votes(settings)]
    return replace(plan, notes=tuple(dict.fromkeys(notes)))


def _longest(settings: BenchmarkSettings, notes: list[str]) -> int:
    """Tokens of the longest sequence of any condition, as far as an engine does not cut it."""
    lengths = {
        name: condition_of(name).length * settings.preset.max_tokens + PROMPT
        for name in settings.conditions
    }
    longest, limit = max(lengths.values()), settings.max_length
    if limit is None or limit >= longest:
        return longest
    names = ", ".join(name for name, length in lengths.items() if length > limit)
    notes.append(
        f"--max-length {limit} cuts responses under {names}; prompt and response may have "
        f"{longest:,} tokens"
    )
    return limit


def _fit(plan: Plan) -> list[str]:
    """Whether a batch fits its cards where every response is at its longest."""
    n_cards = plan.settings.tensor_parallel
    whole, room = plan.weights_gb + plan.longest_cache_gb, n_cards * CARD_GB
    if math.isnan(whole) or whole <= room:
        return []
    each = plan.longest_cache_gb / plan.settings.batch_size
    rows, needed = int((room - plan.weights_gb) / each), math.ceil(whole / CARD_GB)
    smaller = [f"--batch-size {rows}"] if rows > 0 else []
    more = f"--device-map auto over {needed} cards"
    if plan.settings.engine == "vllm":
        more = f"--tensor-parallel {needed}"
    cards = f"a card with {CARD_GB} GB" if n_cards == 1 else f"{n_cards} cards with {CARD_GB} GB"
    return [f"{cards} may run out of memory: {' or '.join([*smaller, more])} does not"]


def _job(
    settings: BenchmarkSettings,
    suite: str,
    condition: str,
    shape: Shape | None,
    bytes_each: int,
    notes: list[str],
) -> dict[str, Any]:
    problems = _problems(settings, suite, notes)
    samples = settings.samples_of(suite)
    length = condition_of(condition).length
    each = min(suite_of(suite).tokens, settings.preset.max_tokens) * length
    tokens = problems * samples * each
    is_edited = condition_of(condition).flow != "none"
    seconds = pass_seconds(shape, bytes_each, settings.batch_size, each / 2 + PROMPT)
    rows = min(settings.batch_size, problems * samples)
    passes = tokens / (rows * FULL)
    return {
        "suite": suite,
        "condition": condition,
        "problems": problems,
        "samples": samples,
        "responses": problems * samples,
        "tokens": tokens,
        "hours": passes * seconds * (EDITED if is_edited else 1) / 3600,
    }


def _problems(settings: BenchmarkSettings, suite: str, notes: list[str]) -> int:
    """Number of problems: counted in a local file, else what the suite is known to have."""
    of = suite_of(suite)
    if suite in settings.data or of.kind == "bundled":
        return len(items_of(suite, settings.selection(suite)))
    if of.kind == "code" and (settings.start or settings.end or settings.release != "v6"):
        notes.append(f"{suite}: {of.size} problems are those of v6 without a window")
    return settings.size_of(suite)


def _shape(settings: BenchmarkSettings, notes: list[str]) -> Shape | None:
    """Sizes by the config; those of the preset for a hub id, so that a plan asks for no network."""
    known = settings.preset.shape
    if known is not None and not resolve_source(settings.model).is_folder:
        notes.append("sizes of the model are those of its preset")
        return known
    try:
        return _shape_of_config(settings)
    except ValueError as error:
        notes.append(f"memory and hours are not known: {str(error)[:100]}")
        return None


def _shape_of_config(settings: BenchmarkSettings) -> Shape:
    trust = settings.trust_remote_code
    source = resolve_source(settings.model)
    config = read_config(source, settings.model, settings.revision, trust_remote_code=trust)
    text = config.get_text_config(decoder=True)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust)
    parameters = float(sum(parameter.numel() for parameter in model.parameters()))
    heads = int(text.num_attention_heads)
    return Shape(
        parameters=parameters,
        layers=int(text.num_hidden_layers),
        kv_heads=int(stated(text, "num_key_value_heads") or heads),
        head_size=int(stated(text, "head_dim") or text.hidden_size // heads),
    )


def _bytes_each(settings: BenchmarkSettings) -> int:
    return {"float32": 4, "float64": 8}.get(settings.dtype or "bfloat16", 2)


def _cache(shape: Shape | None, bytes_each: int, rows: int, tokens: float | int) -> float:
    """Bytes of keys and values."""
    if shape is None:
        return math.nan
    return 2.0 * shape.layers * shape.kv_heads * shape.head_size * bytes_each * rows * tokens


def pass_seconds(
    shape: Shape | None,
    bytes_each: int,
    rows: int,
    tokens: float | int,
    *,
    bandwidth: float = BANDWIDTH,
) -> float:
    """Time of one pass over a batch, without an edit; many rows reach all experts.

    Args:
        shape: Sizes of the model; None gives NaN.
        bytes_each: Bytes of a number.
        rows: Responses of the batch.
        tokens: Tokens that each has so far.
        bandwidth: Bytes a second of the card.
    """
    if shape is None:
        return math.nan
    read = shape.parameters * bytes_each + _cache(shape, bytes_each, rows, tokens)
    return read / (bandwidth * USED) + shape.layers * LAUNCH


def _settings(preset: Preset) -> list[str]:
    known = [
        f"temperature {preset.temperature}",
        f"top-p {preset.top_p}",
        "" if preset.top_k is None else f"top-k {preset.top_k}",
        f"at most {preset.max_tokens:,} tokens",
        "no system prompt" if preset.system is None else f"system prompt {preset.system!r}",
        "" if preset.reasoning_effort is None else f"reasoning effort {preset.reasoning_effort}",
    ]
    return [text for text in known if text]


def _hours(hours: float) -> str:
    if math.isnan(hours):
        return "unknown"
    return f"{hours:.1f}" if hours >= 0.1 else "< 0.1"


def _count(number: float) -> str:
    return "unknown" if math.isnan(number) else f"{number:,.0f}"


def _gigabytes(gigabytes: float) -> str:
    return "unknown" if math.isnan(gigabytes) else f"{gigabytes:.1f} GB"
