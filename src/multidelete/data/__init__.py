"""Data: the dataset, the readers and generators that bring it in, and the deletion request that cuts it."""
