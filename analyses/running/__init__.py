"""Runs units of work into a results folder: resumable, in one process or many."""
