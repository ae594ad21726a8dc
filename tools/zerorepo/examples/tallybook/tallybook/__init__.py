"""Plain-text household accounts."""
