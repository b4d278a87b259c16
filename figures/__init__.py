"""Figures and tables, drawn from saved results: ``python -m figures`` makes all of them.

Each module draws one figure: a function takes saved tables and returns a `matplotlib` figure. None
computes a statistic, loads a model or changes anything global.
"""
