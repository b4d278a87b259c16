"""``step-saliency benchmark``: the plan, the run, the table.

arguments  the command line; imports nothing heavy
settings   what a run depends on
plan       jobs, tokens, memory and rough hours, before anything is run
run        inspect-ai's `eval_set` over suites and conditions, by this process or from a store
rows       logs as one row a response
votes      self-consistency, counted from the samples of the baseline
published  the numbers of the paper, each with its source
table      estimates, paired differences, and the published numbers beside them
"""
