"""Statistics with the problem as the unit: intervals, tests and tables of them. No model, no map.

Tokens, layers and samples of one problem are not independent; problems are. Whatever is measured is
therefore reduced to one number per problem first, each problem counts once, and intervals and tests
draw, flip or permute whole problems. Tables have the columns ``estimate, lower, upper, n``
(problems) and, where something is tested, ``p``. How much is drawn and at what level says
`step_saliency.options.Draws`, as an object or by its fields as keywords.

    problems      one number per problem; `mean_table`: means over problems
    paired        `paired_table`: a condition minus the reference, paired within problems
    binary        `binary_table`: the same for right and wrong, corrected and broken counted apart
    ranks         `correlation_table`: Spearman's rho within rows, then over problems
    statistic     interval of any statistic of a table, or of a function of means
    resampling    bootstrap of means; levels of the intervals
    permutation   sign flips and exchanged labels
    counts        intervals and equivalence where few answers changed
    multiplicity  Holm's correction
    equivalence   what a null result says: equivalence within a margin, detectable effect

Intervals are percentile bootstrap intervals at expanded levels (`step_saliency.stats.resampling`)
unless a function is asked for another kind, or answers changed in too few problems; the column
``interval`` says which, and ``interval_corrected`` that none is corrected for its family (only
``p_holm`` is). When they mislead: below ten problems they are rough.
"""
