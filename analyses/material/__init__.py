"""What questions are asked of: problems, answers under conditions."""
