"""Counts over a store."""
