"""Which claims of the method hold here? One table, read from the tables of the analyses.

    python -m analyses.claims              # writes results/claims/claims.csv and claims.md

Every claim of the paper has a row for each way in which it was measured here, those that were not
measured among them. Estimates, intervals and numbers of problems are read from results folders;
which row stands for which claim, in which direction, from which size on and against which control
is said in `analyses.claims.readings`, before the numbers are read; the verdict is one rule
(`analyses.claims.verdict`). An estimate that is held against several controls has a row for each,
and counts once (`analyses.claims.tally`).

When it misleads: a verdict is about this model on these problems. The paper's models were not at
hand, and a small model of one task refutes nothing elsewhere.
"""
