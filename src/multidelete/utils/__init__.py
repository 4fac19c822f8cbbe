"""Errors, registries, seeded randomness, atomic files: what every room uses."""
