"""What pages of the documentation quote from results: ``python -m docs.quotes`` writes it."""
