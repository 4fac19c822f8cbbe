"""Metrics: pure functions of stored predictions, independent of the method."""
