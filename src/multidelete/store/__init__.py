"""Store of trained models, predictions and metrics, keyed by everything that they depend on."""
