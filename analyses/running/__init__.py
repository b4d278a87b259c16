"""Runs units of work into a results folder, by settings; knows of no question."""
