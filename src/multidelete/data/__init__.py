"""Datasets, their readers and generators, and deletion requests."""
