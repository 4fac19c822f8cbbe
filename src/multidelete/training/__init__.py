"""Training: the loop, inference, cached features, and how an original model is trained."""
