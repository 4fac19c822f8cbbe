"""The store of trained models, their predictions and metrics: made once, looked up by all they depend on."""
