"""From a file of rows to a results folder: answers, maps, tables, overview, pages, demo.

How a map is computed or a file is written is not known here.
"""
