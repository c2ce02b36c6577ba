"""Detections on disk: stores, CSV files, submissions, ensembles."""
