"""How results lie on disk: whole files only. What is in them is not known here."""
