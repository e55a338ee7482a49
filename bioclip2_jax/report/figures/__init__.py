"""Drawings as SVG: arrays in, text out."""
