"""A tree of life grown from a seed, and photographs of it."""
