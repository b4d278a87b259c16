"""Causal and comparative questions: modules that take data, return long tables, run as commands."""
