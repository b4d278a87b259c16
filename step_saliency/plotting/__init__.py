"""Figures from arrays and tables: step maps, depth curves, token maps. No result is computed."""
