"""Benchmarks: the grid methods × scopes × sizes × seeds on one task, and studies; cells run in parallel."""
