"""The published sets as they are laid out on disk."""
