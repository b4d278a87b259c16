"""Pictures of maps and diagnoses: figures, notebook views, HTML."""

from step_saliency.plotting.depth import depth_curves
from step_saliency.plotting.html import diagnosis_html, saliency_html
from step_saliency.plotting.step_maps import step_map
from step_saliency.plotting.token_maps import token_and_step
from step_saliency.plotting.views import attention_view, step_view, token_view
from step_saliency.report.html_page import page

__all__ = [
    "attention_view",
    "depth_curves",
    "diagnosis_html",
    "page",
    "saliency_html",
    "step_map",
    "step_view",
    "token_and_step",
    "token_view",
]
