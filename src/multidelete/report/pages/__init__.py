"""HTML pages, and Markdown without data."""
