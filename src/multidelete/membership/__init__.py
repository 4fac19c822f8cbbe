"""Membership inference: attacks, and the shadow and reference models that they learn from."""
