"""The published protocols beyond species, one a module."""
