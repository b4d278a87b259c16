"""Does StepFlow mend the pattern that it names? Aggregates of the map before and after.

Of the model's own greedy answers, read again under each condition (the text stays, so that maps of
one answer are compared):

    thinking_self       share of a thinking row on its own step, shallow layers
    question_mass       share of a thinking row on the question, shallow layers
    summary_self        share of a summary row on the summary itself, deep layers
    summary_self_last   the same on the summary and the last `LAST` thinking steps

each the mean over the rows of a trace and the layers of its band (quarters), in excess of a uniform
row (`step_saliency.diagnosis.shares`), by the loss, by log-odds and by attention. StepFlow is said
to lower the first and the last two and to raise the second. Its placebo has the dose of both
halves: the bridge on random keys, momentum in random directions, each matched on other problems.

    summary     after minus before, paired by problem          placebos   StepFlow minus its placebo
    levels      the answers without an edit; ``band`` ``deep`` or ``shallow`` where the aggregate
                is said to be, ``middle`` for the layers between, and ``difference`` between them

When it misleads: an edit of the scores moves attention by its own definition, so that the aggregate
of attention in the edited layers shows that it was installed and not that it does good. Shares are
of what a row has to share out, however little.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analyses.instruments.step_maps import READINGS, Reading, step_maps
from analyses.material.answers import AnswerSettings, ForcedSettings, greedy_answers
from analyses.material.comparisons import against, corrected_together
from analyses.material.conditions import BASELINE, METHODS, Condition
from analyses.material.flows import model_flow
from analyses.material.problems import Item, read_items
from analyses.running.runner import EDITS, MAPS, Analysis, Unit, main
from step_saliency.diagnosis.shares import row_shares, uniform_map
from step_saliency.intervene import StepFlow
from step_saliency.models.bands import Bands
from step_saliency.options import Pool, PoolName, Rows, RowsName
from step_saliency.saliency.result import StepSaliency
from step_saliency.stats.problems import mean_table
from step_saliency.trace import Region, Trace

LAST = 2
FAKE = "both-random-kl"
"""Condition: bridge on random keys and momentum in random directions, at the dose of StepFlow."""
HALVES = (
    Condition("oeb-bridge-kl", "placebo", "oeb", placebo="bridge", match="kl"),
    Condition("smi-direction-kl", "placebo", "smi", placebo="direction", match="kl"),
)
AGGREGATES = {
    "thinking_self": "shallow",
    "question_mass": "shallow",
    "summary_self": "deep",
    "summary_self_last": "deep",
}
"""Aggregates, and the band that they are said to be in."""
CONDITIONS = (*(condition.name for condition in METHODS), FAKE)


def aggregates(saliency: StepSaliency) -> pd.DataFrame:
    """Excess over a uniform row of each aggregate: ``aggregate, band, value``; NaN without rows."""
    trace = saliency.trace
    regions = trace.regions
    windows = saliency.windows
    uniform = row_shares(uniform_map(saliency.layout, saliency.pool, windows), regions)
    excess = row_shares(saliency.maps.cpu(), regions) - uniform
    question, thinking, summary = (
        trace.region_steps(region) for region in (Region.QUESTION, Region.THINKING, Region.SUMMARY)
    )
    on = {
        "thinking_self": [(i, [i]) for i in thinking[1:]],
        "question_mass": [(i, question) for i in thinking[1:]],
        "summary_self": [(i, [j for j in summary if j <= i]) for i in summary],
    }
    on["summary_self_last"] = [(i, [*some, *thinking[-LAST:]]) for i, some in on["summary_self"]]
    of_layers = {
        name: [excess[:, i][:, list(keys)].sum(-1) for i, keys in rows] for name, rows in on.items()
    }
    bands = Bands.quarters(saliency.n_layers)
    between = range(bands.shallow[-1] + 1, bands.deep[0])
    places = {"shallow": bands.shallow, "deep": bands.deep, "middle": tuple(between)}
    rows = []
    for name, some in of_layers.items():
        for band in (AGGREGATES[name], "middle"):
            layers = list(places[band])
            values = [row[layers].mean().item() for row in some] if layers else []
            mean = pd.Series(values, dtype=float).mean()
            rows.append({"aggregate": name, "band": band, "value": mean})
    return pd.DataFrame(rows)


def condition_flows(model: Any, settings: AnswerSettings) -> dict[str, StepFlow | None]:
    """Flows by condition; the placebo is made of those of both halves."""
    flows = {condition.name: model_flow(model, condition, settings) for condition in METHODS}
    bridge, momentum = (model_flow(model, condition, settings) for condition in HALVES)
    assert bridge is not None
    assert momentum is not None
    return {**flows, FAKE: StepFlow(oeb=bridge.oeb, smi=momentum.smi)}


def measured(
    model: Any,
    items: Sequence[Item],
    settings: AnswerSettings,
    *,
    readings: Sequence[Reading] = READINGS,
    pool: Pool = "mean",
    rows: Rows = "target",
) -> pd.DataFrame:
    """Aggregates of greedy answers: ``problem, condition, reading, aggregate, band, value``.

    Answers of fewer than two thinking steps are left out; nothing is there if all are such.
    """
    flows = condition_flows(model, settings)
    tables = []
    for item, answer in zip(items, greedy_answers(model, items, settings), strict=True):
        trace = _cut(model, item, answer)
        if len(trace.region_steps(Region.THINKING)) < 2:
            continue
        for name, flow in flows.items():
            attached = nullcontext() if flow is None else flow.attached(model, trace=trace)
            with attached:
                maps = step_maps(model, trace, readings, pool=pool, rows=rows)
            for reading, saliency in maps.items():
                frame = aggregates(saliency)
                tables.append(frame.assign(problem=item.id, condition=name, reading=reading))
    if not tables:
        return pd.DataFrame()
    return pd.concat(tables, ignore_index=True).dropna(subset=["value"])


def _cut(model: Any, item: Item, answer: Trace) -> Trace:
    """The answer with its premises as steps, where the task is known."""
    if item.problem is None:
        return answer
    return item.problem.trace(model.tokenizer, answer.response)


def aggregate_tables(
    values: pd.DataFrame, *, seed: int = 0, **draws: Any
) -> dict[str, pd.DataFrame]:
    """Levels, after minus before, and StepFlow minus its placebo.

    Args:
        values: From `measured`.
        seed: Of the draws.
        draws: As of `mean_table` and `paired_table`.
    """
    placed = values[values["band"] != "middle"]
    by = ["aggregate", "reading"]
    pair = placed[placed["condition"].isin(["both", FAKE])]
    options: dict[str, Any] = {"by": by, "kind": "measure", "seed": seed, **draws}
    return {
        "summary": against(placed, "value", BASELINE, family=["aggregate"], **options),
        "placebos": against(pair, "value", FAKE, family=["aggregate"], **options),
        "levels": _levels(values[values["condition"] == BASELINE], seed=seed, **draws),
    }


def _levels(values: pd.DataFrame, **draws: Any) -> pd.DataFrame:
    """Aggregates of unedited answers in their band, in the middle, and the difference."""
    index = ["problem", "aggregate", "reading"]
    wide = values.assign(place=values["band"].where(values["band"] == "middle", "band"))
    wide = wide.pivot(index=index, columns="place", values="value")
    wide["difference"] = wide["band"] - wide["middle"]
    long = wide.reset_index().melt(id_vars=index, var_name="place").dropna(subset=["value"])
    table = mean_table(
        long, "value", by=["aggregate", "reading", "place"], null=0.0, kind="measure", **draws
    )
    own = table["place"] == "band"
    table["band"] = table["place"].where(~own, table["aggregate"].map(AGGREGATES))
    return corrected_together([table.drop(columns="place")], family=["aggregate"])


@dataclass(frozen=True, kw_only=True)
class AggregateSettings(ForcedSettings, AnswerSettings):
    """Of how many problems, and how maps are read."""

    pool: PoolName = "mean"
    rows: RowsName = "target"


def units(settings: AggregateSettings) -> list[Unit]:
    """Chunks of problems."""
    return [Unit(f"aggregates-{a:05d}", (a, b)) for a, b in settings.forced_spans]


def run_unit(model: Any, unit: Unit, settings: AggregateSettings) -> pd.DataFrame:
    """One chunk. Seeds are the run's."""
    first, last = unit.payload
    items = read_items(settings)[first:last]
    return measured(model, items, settings, pool=settings.pool, rows=settings.rows)


def summarise(values: pd.DataFrame, settings: AggregateSettings) -> Mapping[str, pd.DataFrame]:
    """Tables of the aggregates; none where no answer has two thinking steps."""
    return {} if values.empty else aggregate_tables(values, seed=settings.seed)


ANALYSIS = Analysis(
    "mediation.aggregates", AggregateSettings, units, run_unit, summarise, checks=(*EDITS, *MAPS)
)

if __name__ == "__main__":
    main("analyses.mediation.aggregates")
