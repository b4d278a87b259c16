"""The HTML page of one trace; pictures are drawn in `plotting`, pages of a run come from `runs`."""

from step_saliency.report.html_page import page

__all__ = ["page"]
