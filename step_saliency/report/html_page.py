"""One map as one HTML file: text, step map, depth curves, diagnosis, effects of interventions.

The file asks the network for nothing, and its policy forbids it to: whatever stands in the trace is
text. Everything that varies travels as JSON in a data block in which ``<``, ``>`` and ``&`` are
written as escapes, and the script puts it on the page as text nodes only. Entries of maps are
rounded, see `step_saliency.report.packing`.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from html import escape
from typing import Any

import pandas as pd

from step_saliency.diagnosis import Diagnosis
from step_saliency.diagnosis import diagnose as diagnose_map
from step_saliency.models.bands import spell_layers
from step_saliency.plotting.style import OBJECTIVE_UNITS, POOL_LABELS
from step_saliency.report.charts import diagnosis_data
from step_saliency.report.effects import effect_data
from step_saliency.report.sources import map_colours, markup, script, style_sheet
from step_saliency.report.stored_maps import maps_within
from step_saliency.saliency.result import StepSaliency
from step_saliency.segment.regions import Step

MOST_BYTES = 3_000_000
"""Size that the file is kept below, by rounding and by leaving out heads."""
_OVERHEAD = 20_000  # scales of the maps and the list of heads
_CORRECT = {None: "unknown", True: "correct", False: "error"}


def page(
    saliency: StepSaliency,
    diagnosis: Diagnosis | None = None,
    effects: pd.DataFrame | None = None,
    *,
    curves: pd.DataFrame | None = None,
    comparison: pd.DataFrame | None = None,
    facts: Mapping[str, str] | None = None,
) -> str:
    """A trace, its maps and what is known of it, as one self-contained HTML file.

    Args:
        saliency: Maps of the trace.
        diagnosis: Its lock-in and decay; made from the maps by default.
        effects: What interventions did, as `Session.effects.to_frame` gives it: columns ``layer,
            head, edit`` and any numbers.
        curves: Means with intervals over the traces of a run, as `diagnose.mean_curves` gives them.
        comparison: Error against correct traces of the same problems, as `compare` gives it.
        facts: More to say at the top, such as the model's name.

    Returns:
        The file's text: at most three million characters for a trace of 200 steps in 32 layers.

    Raises:
        ValueError: the maps hold negative or non-finite entries, ``effects`` lacks columns, or the
            diagnosis is of another trace.
    """
    diagnosis = diagnose_map(saliency) if diagnosis is None else diagnosis
    if diagnosis.trace_id != saliency.trace.id or diagnosis.layers != saliency.layers:
        raise ValueError(
            f"the diagnosis is of trace {diagnosis.trace_id!r}, layers "
            f"{spell_layers(diagnosis.layers)}; the maps of {saliency.trace.id!r}, layers "
            f"{spell_layers(saliency.layers)}"
        )
    data = {
        "facts": {**(facts or {}), **_facts(saliency, diagnosis)},
        "question": saliency.trace.question,
        "steps": [_step(step) for step in saliency.trace.steps],
        "unit": OBJECTIVE_UNITS.get(saliency.objective, "units of the objective"),
        "reading": POOL_LABELS.get(saliency.pool, saliency.pool),
        "colours": map_colours(),
        "layers": list(saliency.layers),
        "diagnosis": diagnosis_data(diagnosis, curves, comparison),
        "effects": None if effects is None else effect_data(effects),
    }
    # half of a surrogate pair, as JSON may hold, can stand in no file
    name = (saliency.trace.id or "trace").encode(errors="replace").decode()
    room = MOST_BYTES - len(_fill(name, data).encode()) - _OVERHEAD
    return _fill(name, data | maps_within(saliency, room))


def _fill(name: str, data: Mapping[str, Any]) -> str:
    css, js = style_sheet(), script()
    parts = {
        "title": f"{escape(name)} · step-saliency",
        "heading": escape(name),
        "css": css,
        "js": js,
        "css_hash": _digest(css),
        "js_hash": _digest(js),
        "data": as_json_block(data),
    }
    pieces = markup().split("@@")
    return "".join(parts[p] if n % 2 else p for n, p in enumerate(pieces))


def as_json_block(data: Any) -> str:
    """JSON that may stand in a script element: nothing in it can end or open one.

    Raises:
        ValueError: a number is not finite.
    """
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _digest(source: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()


def _facts(sal: StepSaliency, diagnosis: Diagnosis) -> dict[str, str]:
    heads = f", {sal.maps.shape[1]} heads" if sal.per_head else ", mean over heads"
    return {
        "answer": _CORRECT[diagnosis.is_correct],
        "steps": f"{len(sal.trace.steps)} ({sal.region_counts}), {len(sal.trace)} tokens",
        "layers": f"{spell_layers(sal.layers)} of {sal.n_layers}{heads}",
        "map": f"objective {sal.objective}, pool {sal.pool}, rows {sal.rows}, {sal.method}",
    }


def _step(step: Step) -> dict[str, Any]:
    return {"region": step.region.value, "text": step.text, "tokens": len(step)}
