"""What a run leaves behind: rows, record, seal, verification, and the store of trained models."""
