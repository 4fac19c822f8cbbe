"""Numerics of the unlearning methods: pure functions of tensors, independent of models, tasks and methods."""
