"""The page of findings, written from the tables."""
