"""The bundled task (computations whose true step graph is known) and graders of final answers.

Problems, gold graphs, errors made on purpose, grades; no model is run here.

>>> from step_saliency.tasks import make_problems
>>> problem = make_problems(n=1, level="easy", seed=0)[0]
>>> problem.grade(problem.solution).is_correct
True
"""

from step_saliency.tasks.corruption import Corruption as Corruption
from step_saliency.tasks.gold import EdgeMatrices as EdgeMatrices
from step_saliency.tasks.gold import GoldGraph as GoldGraph
from step_saliency.tasks.gold import GoldSentence as GoldSentence
from step_saliency.tasks.gold import GoldStep as GoldStep
from step_saliency.tasks.grading import ERROR_KINDS as ERROR_KINDS
from step_saliency.tasks.grading import SUMMARY_ERRORS as SUMMARY_ERRORS
from step_saliency.tasks.grading import ErrorKind as ErrorKind
from step_saliency.tasks.grading import Grade as Grade
from step_saliency.tasks.grading import SummaryError as SummaryError
from step_saliency.tasks.graph import Difficulty as Difficulty
from step_saliency.tasks.graph import Graph as Graph
from step_saliency.tasks.graph import Premise as Premise
from step_saliency.tasks.making import make_problems as make_problems
from step_saliency.tasks.notation import Family as Family
from step_saliency.tasks.problem import LEVELS as LEVELS
from step_saliency.tasks.problem import Level as Level
from step_saliency.tasks.problem import Problem as Problem
from step_saliency.tasks.report import REPORT_LEVELS as REPORT_LEVELS
from step_saliency.tasks.report import ReportDifficulty as ReportDifficulty
from step_saliency.tasks.report import ReportGraph as ReportGraph
from step_saliency.tasks.report import ReportProblem as ReportProblem

__all__ = [
    "ERROR_KINDS",
    "LEVELS",
    "REPORT_LEVELS",
    "SUMMARY_ERRORS",
    "Corruption",
    "Difficulty",
    "EdgeMatrices",
    "ErrorKind",
    "Family",
    "GoldGraph",
    "GoldSentence",
    "GoldStep",
    "Grade",
    "Graph",
    "Level",
    "Premise",
    "Problem",
    "ReportDifficulty",
    "ReportGraph",
    "ReportProblem",
    "SummaryError",
    "make_problems",
]
