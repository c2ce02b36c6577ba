"""Hooks, stages, exact resume and launching."""
