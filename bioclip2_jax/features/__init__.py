"""Features of pictures and texts, and the store that keeps them."""
