"""Rows in the forms in which reasoning traces are stored in public, one reader for each form.

How a trace is cut, mapped or graded is not known here.
"""

from step_saliency.runs.inputs.read import Input as Input
from step_saliency.runs.inputs.read import read_input as read_input
from step_saliency.runs.inputs.read import read_rows as read_rows
from step_saliency.runs.inputs.rows import Row as Row
from step_saliency.runs.inputs.traces import trace_of_row as trace_of_row
