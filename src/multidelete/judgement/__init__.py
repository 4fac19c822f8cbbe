"""Verdicts on forgetting, utility, cost and membership; deletion records and their verification."""
