"""Exact resume inside an epoch."""
