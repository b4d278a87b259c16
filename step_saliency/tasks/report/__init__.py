"""Reports: problems whose answer is put together in the summary, from values remembered.

The thinking finds several values; the summary restates some of them, a sentence each, in an order
of its own, and adds them up. Dials: how many values, how far back they stand, distractors.
"""

from step_saliency.tasks.report.dials import REPORT_LEVELS as REPORT_LEVELS
from step_saliency.tasks.report.dials import ReportDifficulty as ReportDifficulty
from step_saliency.tasks.report.graph import ReportGraph as ReportGraph
from step_saliency.tasks.report.graph import Term as Term
from step_saliency.tasks.report.problem import ReportProblem as ReportProblem

__all__ = ["REPORT_LEVELS", "ReportDifficulty", "ReportGraph", "ReportProblem", "Term"]
