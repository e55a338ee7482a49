"""Datasets from pictures and tables, and from a simulated tree of life."""
