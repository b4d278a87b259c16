"""What questions are asked of: problems, answers, conditions; nothing is measured here."""
