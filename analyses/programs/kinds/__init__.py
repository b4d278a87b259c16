"""Kinds of small Python problems, each a function from a random source to a `Draft`.

lists          filters, sums, positions, running values
texts          letters, words, runs
tables         dictionaries and counts
numbers        digits, divisors, primes, sequences
structures     matrices, intervals, small formats that are parsed
compositions   two steps, one after the other

All results are whole numbers, truth values, texts, or lists and dictionaries (by text) of these:
what is equal in Python is equal in JSON.
"""

from analyses.programs.kinds.compositions import COMPOSITIONS
from analyses.programs.kinds.draft import Kind
from analyses.programs.kinds.lists import LISTS
from analyses.programs.kinds.numbers import NUMBERS
from analyses.programs.kinds.structures import STRUCTURES
from analyses.programs.kinds.tables import TABLES
from analyses.programs.kinds.texts import TEXTS

KINDS: tuple[Kind, ...] = (*LISTS, *TEXTS, *TABLES, *NUMBERS, *STRUCTURES, *COMPOSITIONS)
