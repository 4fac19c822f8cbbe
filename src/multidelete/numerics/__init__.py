"""Numerics of the unlearning methods: pure functions of tensors, which know no model, no task and no method."""
