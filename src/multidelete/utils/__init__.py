"""Errors, registries, seeded randomness, atomic files and other utilities."""
