"""A correct and an error trace of one problem, with their maps: what the first figures show.

Rule: problems are taken in the order of their seed; each is answered ``samples`` times at
temperature 1; the first problem with a correct and an error trace of the same number of steps is
the one, and of its traces the first such pair. Nothing else is looked at, so the pair is an
example and no evidence: traces that differ in how they look were not sought.

Tables: ``steps`` (one row a step), ``step_maps`` and ``token_maps`` (saliency by query and key; a
missing layer is the mean over layers), ``band_shares`` (mean over a band's layers of each row's
shares). Saliency is rounded to half precision.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

import step_saliency as ss
from analyses.running.runner import MAPS, Analysis, Unit, main
from analyses.running.settings import ModelSettings, option
from step_saliency.diagnosis.shares import row_shares
from step_saliency.models.bands import Bands
from step_saliency.options import ObjectiveLiteral, ObjectiveName
from step_saliency.saliency.result import StepSaliency
from step_saliency.tasks import Level, Problem, make_problems
from step_saliency.trace import Region, Trace

_PAIR = {"query": "int32", "key": "int32"}
TABLES = {
    "steps": {"step": "int32", "region": "string", "start": "int32", "stop": "int32"}
    | {"text": "string", "objective": "string"},
    "step_maps": {"layer": "Int64", **_PAIR, "saliency": "float32"},
    "token_maps": {**_PAIR, "saliency": "float32"},
    "band_shares": {"band": "string", **_PAIR, "share": "float32"},
}


def first_pair(
    model: Any, problems: Sequence[Problem], *, samples: int, seed: int
) -> tuple[Problem, Trace, Trace]:
    """The correct and the error trace that the rule of this module picks.

    Raises:
        ValueError: no problem has such a pair.
    """
    for number, problem in enumerate(problems):
        written = ss.generate(
            model,
            [problem.question],
            n=samples,
            temperature=1.0,
            seed=seed,
            question_numbers=[number],
            progress=False,
        )
        traces = [problem.trace(model.tokenizer, trace.response) for trace in written]
        for correct, error in _pairs(problem, traces):
            return problem, correct, error
    raise ValueError(
        f"none of {len(problems)} problems has a correct and an error trace of the same number of "
        f"steps among {samples} samples; take more problems"
    )


def _pairs(problem: Problem, traces: Sequence[Trace]) -> Iterator[tuple[Trace, Trace]]:
    corrects = [trace for trace in traces if problem.grade(trace).is_correct]
    errors = [trace for trace in traces if not problem.grade(trace).is_correct]
    for correct in corrects:
        for error in errors:
            if correct.regions == error.regions and Region.SUMMARY in correct.regions:
                yield correct, error


def example_tables(
    model: Any, trace: Trace, *, objective: ObjectiveName = "log_odds"
) -> dict[str, pd.DataFrame]:
    """Steps, step maps, token maps and band shares of one trace; template steps are left out."""
    saliency = ss.step_saliency(model, trace, objective=objective)
    shown = [i for i, step in enumerate(trace.steps) if step.region != Region.TEMPLATE]
    steps = pd.DataFrame(
        {
            "step": range(len(shown)),
            "region": [trace.steps[i].region.value for i in shown],
            "start": [trace.steps[i].start for i in shown],
            "stop": [trace.steps[i].stop for i in shown],
            "text": [trace.steps[i].text for i in shown],
            "objective": objective,
        }
    )
    maps = saliency.maps[:, shown][:, :, shown]
    by_layer = [_long(layer, maps[row]) for row, layer in enumerate(saliency.layers)]
    positions = [p for i in shown for p in range(trace.steps[i].start, trace.steps[i].stop)]
    tokens = torch.stack(
        [
            ss.token_map(model, trace, layer=layer, objective=objective)
            for layer in range(saliency.n_layers)
        ]
    ).mean(0)[positions][:, positions]
    return {
        "steps": steps,
        "step_maps": pd.concat([_long(None, maps.mean(0)), *by_layer], ignore_index=True),
        "token_maps": _long(None, tokens),
        "band_shares": _band_shares(saliency, shown),
    }


def _long(layer: int | None, values: Float[Tensor, "query key"]) -> pd.DataFrame:
    query, key = np.tril_indices(len(values))
    return pd.DataFrame(
        {
            "layer": pd.array([layer] * len(query), dtype="Int64"),
            "query": query.astype(np.int32),
            "key": key.astype(np.int32),
            "saliency": _half(values.double().numpy()[query, key]),
        }
    )


def _half(values: Float[np.ndarray, "entry"]) -> Float[np.ndarray, "entry"]:
    """Eleven significant bits, whatever the magnitude: half precision without its range."""
    mantissa, exponent = np.frexp(values)
    return np.ldexp(np.round(mantissa * 2**11) / 2**11, exponent).astype(np.float32)


def _band_shares(saliency: StepSaliency, shown: Sequence[int]) -> pd.DataFrame:
    bands = Bands.quarters(saliency.n_layers)
    shares = row_shares(saliency.mean_heads, saliency.trace.regions)
    frames = []
    for band, layers in (("shallow", bands.shallow), ("deep", bands.deep)):
        mean = shares[list(layers)].nanmean(0)[shown][:, shown]
        long = _long(None, mean.nan_to_num()).rename(columns={"saliency": "share"})
        frames.append(long.drop(columns="layer").assign(band=band))
    return pd.concat(frames, ignore_index=True)


@dataclass(frozen=True, kw_only=True)
class ExampleSettings(ModelSettings):
    """Problems, responses, and the reading of the map."""

    level: Level = "medium"
    samples: int = option(8, "responses per problem")
    objective: ObjectiveLiteral = "log_odds"


def run_unit(model: Any, unit: Unit, settings: ExampleSettings) -> pd.DataFrame:
    """All tables of both traces in one, told apart by the column ``table``."""
    problems = make_problems(n=settings.n, level=settings.level, seed=settings.seed)
    problem, *pair = first_pair(model, problems, samples=settings.samples, seed=settings.seed)
    frames = []
    for trace, is_correct in zip(pair, (True, False), strict=True):
        tables = example_tables(model, trace, objective=settings.objective)
        for name, table in tables.items():
            frames.append(table.assign(table=name, problem=problem.id, is_correct=is_correct))
    return pd.concat(frames, ignore_index=True)


def units(settings: ExampleSettings) -> list[Unit]:
    """One: the search ends with the first pair."""
    return [Unit("pair", settings.n)]


def summarise(values: pd.DataFrame, settings: ExampleSettings) -> Mapping[str, pd.DataFrame]:
    """The tables, each with its own columns."""
    label = {"problem": "string", "is_correct": "bool"}
    return {
        name: values.loc[values["table"] == name, [*label, *columns]].astype(label | columns)
        for name, columns in TABLES.items()
    }


ANALYSIS = Analysis(
    "example_traces", ExampleSettings, units, run_unit, summarise, checks=MAPS, keep_values=False
)

if __name__ == "__main__":
    main("analyses.example_traces")
