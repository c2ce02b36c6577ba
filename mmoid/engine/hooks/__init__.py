"""Other hooks."""
