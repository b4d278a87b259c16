"""From a file of what people have to a results folder: rows, answers, maps, tables, overview, demo.

How a map is computed or a file written is not known here.
"""
