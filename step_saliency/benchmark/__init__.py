"""Public benchmarks through inspect-ai: the paper's table with one command.

    provider   `step-saliency/MODEL` as a model of inspect-ai: requests are decoded together by
               `ss.generate`, and what was decoded is kept and taken up again
    suites     problems and graders as tasks of inspect-ai, from the hub or from local files
    sandbox    programs that a model wrote, run where they can do no harm
    presets    chat settings, samples and lengths, each with its source
    conditions baseline, OEB, SMI, StepFlow and other ways of spending more computation
    command    the plan, the run, and the table beside the published one
    scale      the same units over several processes, Ray or Slurm

Importing this package imports none of inspect-ai; `provider`, `suites.tasks` and `command.run` do.
"""
