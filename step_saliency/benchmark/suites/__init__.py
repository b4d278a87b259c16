"""Problems and graders of public benchmarks, from the hub or from local files.

    item           one problem as all suites have it
    files          records of a local file: JSON lines, JSON, CSV, parquet
    mathematics    AIME, AMC, MATH-500, GSM8K: fields, gold answers, instruction
    choice         GPQA: options in an order that all conditions share
    livecodebench  programs: releases, dates, tests that are read without unpickling, two runners
    bundled        problems of the bundled task
    suites         which suites there are, with their sources
    grading        right, wrong or unknown, for each kind
    solvers        what is asked, also by conditions that force words on the model
    tasks          suites as tasks of inspect-ai

Graders of mathematics are those of `step_saliency.tasks`.
"""
