"""From lines of text to entries."""
