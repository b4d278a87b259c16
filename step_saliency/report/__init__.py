"""The HTML page of one trace, composed from its maps and diagnosis; it computes nothing itself, and
which pages a run gets is decided in `runs`."""

from step_saliency.report.html_page import page

__all__ = ["page"]
