"""Which heads carry the repair? Every head by itself, then the best few against the whole band.

Each head of the model is, alone,

    ablated      its output set to 0
    oeb          held to the bridge (`OddsEqualBridge` in this head only)
    redirected   given a mass of `REDIRECTED` on the question while thinking (`HeadRedirect`)
    projected    freed from what the previous step's values put into it (`ValueProjection`, rank 4)

and the outcomes are, teacher-forced: ``margin``, log p(right) - log p(written) where the first
wrong step of a wrong greedy answer goes wrong (`analyses.instruments.margins`), and ``loss`` of the
gold solution. Effects are differences to no edit, by problem; Holm over the heads.

Then (``--found FOLDER`` of a first run): the k heads whose bridge raises the margin most on one
half of the problems (by number: even, odd) are steered together on the *other* half, beside k
random heads and the whole band of the method, on the same outcomes and in written answers. What is
reported for top heads was therefore not looked at when they were picked.

When it misleads: a head that does nothing alone may matter with others, and later layers make up
for ablated heads. Margins are of errors only, so a head that merely flattens predictions raises
them: hold it against the loss of the gold solutions. Random heads are one draw for each half, so
that their intervals leave out how much draws differ.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analyses.head_steering.single import TOP, effects, half_agreement, top_heads, top_table
from analyses.head_steering.steering import (
    HALVES,
    OUTCOMES,
    WAYS,
    bridge_on,
    errors_of,
    half_of,
    head_edit,
    head_effects,
    steered,
)
from analyses.head_steering.transfer import (
    WRITTEN,
    accuracy_table,
    transfer_edits,
    transfer_table,
)
from analyses.instruments.forced import group_of
from analyses.material.answers import AnswerSettings, ForcedSettings, answers
from analyses.material.conditions import BASELINE
from analyses.material.problems import check_task, read_items
from analyses.running.runner import EDITS, Analysis, Unit
from analyses.running.settings import option

__all__ = [
    "ANALYSIS",
    "BASELINE",
    "HALVES",
    "OUTCOMES",
    "TOP",
    "WAYS",
    "HeadSettings",
    "bridge_on",
    "effects",
    "errors_of",
    "half_agreement",
    "head_edit",
    "head_effects",
    "steered",
    "top_heads",
    "transfer_edits",
    "transfer_table",
]


@dataclass(frozen=True, kw_only=True)
class HeadSettings(ForcedSettings, AnswerSettings):
    """Heads one by one, or those of a first run together."""

    found: str = option("", "folder of a first run: steer its top heads")
    loss_share: float = option(0.25, "of them for gold losses")
    tau_max: float = option(0.3, "of the bridge")


def units(settings: HeadSettings) -> list[Unit]:
    """Chunks for single heads; or, with ``found``, halves, conditions and chunks."""
    check_task(settings, "margins")
    if not settings.found:
        spans = settings.forced_spans
        return [Unit(f"heads-{a:05d}", ("heads", "", "", (a, b), "")) for a, b in spans]
    digest = str(first_values(settings.found)["value"].round(6).sum())
    payloads = [
        ("top", "", half, span, digest) for half in HALVES for span in settings.forced_spans
    ]
    payloads += [
        ("answers", name, half, span, digest)
        for name in WRITTEN
        for half in HALVES
        for span in settings.spans
    ]
    return [
        Unit("-".join(filter(None, (*payload[:3], f"{payload[3][0]:05d}"))), payload)
        for payload in payloads
    ]


def first_values(folder: str) -> pd.DataFrame:
    """Values of the first run.

    Raises:
        ValueError: it has not finished.
    """
    file = Path(folder) / "values.parquet"
    if not file.is_file():
        raise ValueError(f"there is no {file}; finish the run without --found first")
    return pd.read_parquet(file)


def run_unit(model: Any, unit: Unit, settings: HeadSettings) -> pd.DataFrame:
    """Heads one by one, or what was found steered together on the other half."""
    part, name, half, (first, last), _ = unit.payload
    items = read_items(settings)[first:last]
    if part == "heads":
        frame = head_effects(
            model, items, settings, tau_max=settings.tau_max, loss_share=settings.loss_share
        )
        return frame.assign(part=part)
    mine = [item for item in items if half_of(item) == half]
    edits = transfer_edits(
        first_values(settings.found),
        half,
        depth=int(model.cfg.n_layers),
        n_heads=int(model.cfg.n_heads),
        tau_max=settings.tau_max,
        seed=settings.seed,
    )
    if part == "answers":
        _, frame = answers(model, mine, group_of(edits[name]), settings)
        return frame.assign(part=part, condition=name, half=half)
    errors = errors_of(model, mine, settings)
    tables = [steered(model, mine, errors, e).assign(condition=n) for n, e in edits.items()]
    return pd.concat(tables, ignore_index=True).assign(part=part)


def summarise(values: pd.DataFrame, settings: HeadSettings) -> Mapping[str, pd.DataFrame]:
    """Effects of heads and agreement of the halves; or transfer and accuracy."""
    seed = settings.seed
    if not settings.found:
        return {
            "summary": effects(values, seed=seed),
            "agreement": half_agreement(values),
            "top": top_table(values),
        }
    answered = values[values["part"] == "answers"].astype({"is_correct": bool})
    return {
        "summary": transfer_table(values[values["part"] == "top"], seed=seed),
        "accuracy": accuracy_table(answered, seed=seed),
    }


ANALYSIS = Analysis(
    "head_steering", HeadSettings, units, run_unit, summarise, checks=(*EDITS, "pattern_rows")
)
