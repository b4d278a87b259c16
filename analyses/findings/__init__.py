"""The page of findings, a template filled from the tables; it measures nothing itself."""
