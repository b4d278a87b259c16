"""Do the maps hold for other long texts: dialogues and documents, and other sizes of step?

Texts (column ``text``), made of problems with known answers so that what the last response is about
is known:

    single      one question and its answer
    dialogue    earlier questions and answers of other problems, then the question: relevant is the
                last question among the earlier turns
    document    passages (other problems' questions) with the relevant one in a random place,
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

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from analyses.granularity.relevance import granularity
from analyses.granularity.texts import SPLITTERS, TEXTS, SplitterName, TextName
from analyses.material.problems import TASK, SourceSettings, read_items
from analyses.running.runner import MAPS, Analysis, Unit
from analyses.running.settings import option
from step_saliency.stats.multiplicity import with_holm
from step_saliency.stats.problems import mean_table


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
        mean_table(
            rows,
            "value",
            by=by,
            null=0.0 if metric == "excess" else None,
            kind="share" if metric == "top" else "measure",
            seed=seed,
        )
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
    "granularity", GranularitySettings, units, run_unit, summarise, checks=MAPS, keep_values=False
)
