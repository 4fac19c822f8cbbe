"""Kept pairs that a deletion must not use, by the names that SALMUBench (arXiv 2603.26316) gives to them."""

# Pairs that the model was trained on and keeps: they show what a deletion damages besides the deleted pairs, on the
# same persons and on others.
HOLDOUTS = {"holdout_association": "Association holdout", "holdout_identity": "Identity holdout"}
