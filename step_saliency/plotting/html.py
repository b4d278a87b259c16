"""How results show themselves in a notebook: a few facts and a small picture, as one piece of
HTML."""

import base64
from collections.abc import Mapping
from html import escape

from matplotlib.figure import Figure

from step_saliency.diagnosis.diagnosis import Diagnosis, spell_layers
from step_saliency.plotting.depth import depth_curves
from step_saliency.plotting.step_maps import step_map
from step_saliency.plotting.style import png
from step_saliency.saliency.result import StepSaliency


def saliency_html(sal: StepSaliency) -> str:
    """Facts about a map, and its mean over layers and heads as a picture."""
    heads = f", {sal.maps.shape[1]} heads each" if sal.per_head else ", averaged over heads"
    facts = {
        "trace": sal.trace.id or "(no id)",
        "question": _shortened(sal.trace.question),
        "tokens": str(len(sal.trace.tokens)),
        "steps": f"{len(sal.trace.steps)} ({sal.region_counts})",
        "layers": f"{spell_layers(sal.layers)} of {sal.n_layers}{heads}",
        "objective": sal.objective,
        "pool, rows": f"{sal.pool}, {sal.rows}",
        "method": sal.method,
    }
    return _card("StepSaliency", facts, step_map(sal), "mean step map")


def diagnosis_html(diagnosis: Diagnosis) -> str:
    """Indices of a diagnosis, and its depth curves."""
    correct = {None: "unknown", True: "correct", False: "error"}[diagnosis.is_correct]
    bands = diagnosis.bands
    facts = {
        "trace": diagnosis.trace_id or "(no id)",
        "answer": correct,
        "steps": f"{diagnosis.n_steps} ({diagnosis.n_tokens} tokens) of thinking and summary",
        "lock-in index": f"{diagnosis.lock_in_index:.3f} (layers {spell_layers(bands.shallow)})",
        "decay index": f"{diagnosis.decay_index:.3f} (layers {spell_layers(bands.middle)} against "
        f"{spell_layers(bands.deep)})",
    }
    missing = {f"no {metric}": reason for metric, reason in diagnosis.reasons.items()}
    return _card("Diagnosis", facts | missing, depth_curves(diagnosis), "depth curves")


def _card(title: str, facts: Mapping[str, str], figure: Figure, name: str) -> str:
    rows = "".join(
        f'<tr><th style="text-align:left;padding:1px 12px 1px 0">{escape(key)}</th>'
        f'<td style="text-align:left">{escape(value)}</td></tr>'
        for key, value in facts.items()
        if value
    )
    data = base64.b64encode(png(figure, dpi=90)).decode()
    return (
        f"<div><b>{escape(title)}</b><table>{rows}</table>"
        f'<img alt="{escape(name)}" src="data:image/png;base64,{data}"></div>'
    )


def _shortened(text: str, length: int = 160) -> str:
    text = " ".join(text.split())
    return text if len(text) <= length else f"{text[: length - 1]}…"
