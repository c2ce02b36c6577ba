"""Soft-balance sampling (Eq. 6-8)."""
