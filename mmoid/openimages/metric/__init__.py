"""The official Open Images Challenge metric."""
