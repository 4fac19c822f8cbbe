"""Results and findings of studies."""
