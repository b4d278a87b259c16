"""What a question measures with: knockout, edits, maps, losses."""
