"""Metrics: pure functions of stored predictions; none knows which method made them."""
