"""Membership inference: attacks, and their shadow and reference models."""
